"""Converts models of projects that train recurrent networks, as installed from the package registry.

    python -m venv clients && clients/bin/pip install -r benchmarks/clients/requirements.txt
    clients/bin/pip install --no-deps supar && clients/bin/pip install .
    clients/bin/python benchmarks/clients/try_clients.py [NAME ...]

Each model is made with its own constructor and converted by one line. Results in evaluation are compared by
``strop.convert`` itself. Forward and backward are timed before and after, in turn:
with the native kernels only, which ``pip install .`` builds. A project that is not installed is named and
passed over. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import strop
from strop.conversion.watch import tensors

Made = tuple[nn.Module, Any]


def supar() -> Made:
    from supar.modules import VariationalLSTM

    x = nn.utils.rnn.pack_sequence([torch.randn(n, 100) for n in (40, 35, 30, 12)])
    return VariationalLSTM(100, 200, num_layers=2, bidirectional=True, dropout=0.33), (x,)


def pytorch_forecasting() -> Made:
    from pytorch_forecasting.models.nn.rnn import LSTM

    return LSTM(64, 256, num_layers=2, dropout=0.3, batch_first=True), torch.randn(32, 40, 64)


def flair() -> Made:
    from flair.nn import LockedDropout

    class Tagger(nn.Module):
        """The order of flair's SequenceTagger, of its own parts."""

        def __init__(self) -> None:
            super().__init__()
            self.locked, self.rnn = (
                LockedDropout(0.5),
                nn.LSTM(300, 256, batch_first=True, bidirectional=True),
            )
            self.linear = nn.Linear(512, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.locked(self.rnn(self.locked(x))[0]))

    return Tagger(), torch.randn(32, 30, 300)


def stanza() -> Made:
    from stanza.models.common.packed_lstm import PackedLSTM

    x = nn.utils.rnn.pack_sequence([torch.randn(n, 100) for n in (40, 35, 30, 12)])
    return PackedLSTM(100, 200, 2, bias=True, batch_first=True, dropout=0.5, bidirectional=True), (
        x,
        [40, 35, 30, 12],
    )


CLIENTS: dict[str, tuple[str, Callable[[], Made]]] = {
    "supar": ("supar", supar),
    "pytorch-forecasting": ("pytorch-forecasting", pytorch_forecasting),
    "flair": ("flair", flair),
    "stanza": ("stanza", stanza),
}


def step(model: nn.Module, given: Any) -> float:
    args = given if isinstance(given, tuple) else (given,)
    start = time.perf_counter()
    outputs = [each for each in tensors(model(*args)) if each.requires_grad]
    torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])
    return time.perf_counter() - start


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    for name in names or CLIENTS:
        package, make = CLIENTS[name]
        try:
            model, given = make()
        except Exception as error:
            print(f"{name}: cannot be made here: {type(error).__name__}: {error}")
            continue
        converted = deepcopy(model)
        try:
            report = strop.convert(converted, recurrent_dropout=0.5, example_inputs=given)
            times = [(step(model.train(), given), step(converted.train(), given)) for _ in range(12)][2:]
        except Exception as error:
            print(f"{name} {version(package)}: {type(error).__name__}: {error}")
            continue
        before, after = (median(each) for each in zip(*times, strict=True))
        done = f"{len(report.swapped)} layers swapped, {len(report.taken_over)} dropouts taken over"
        milliseconds = f"{1e3 * before:.1f} to {1e3 * after:.1f} ms"
        print(f"{name} {version(package)}: {done}, {before / after:.2f}x ({milliseconds})")
        for entry in report.left:
            if entry.concerned:
                print(f"  {entry.name} ({entry.before}): {entry.why}")


if __name__ == "__main__":
    main(sys.argv[1:])
