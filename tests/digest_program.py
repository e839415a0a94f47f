"""Prints a digest of the gradients of many small layers, for a test that compares processes."""

from __future__ import annotations

import hashlib
import random
import sys

import torch

import strop


def main(threads: int, count: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    draw, digest = random.Random(1), hashlib.sha256()
    for number in range(count):
        kind = draw.choice((strop.LSTM, strop.GRU, strop.RNN))
        inputs, hidden, steps, batch = (draw.randint(1, most) for most in (80, 130, 9, 9))
        shares = {"recurrent_dropout": draw.choice((0.0, 0.4)), "input_dropout": 0.3} if number % 2 else {}
        two = {"bidirectional": draw.random() < 0.3, "num_layers": draw.choice((1, 2))}
        layer = kind(inputs, hidden, **two, **shares)
        layer(torch.randn(steps, batch, inputs))[0].sum().backward()
        for parameter in layer.parameters():
            digest.update(parameter.grad.numpy().tobytes())
    print(digest.hexdigest())


main(int(sys.argv[1]), int(sys.argv[2]))
