"""Times whole training steps of a word-level language model as in PyTorch's examples, and of it converted.

    python benchmarks/clients/word_language_model.py [--words 10000] [--seconds 60]

Two LSTM layers of 650 units, dropout 0.5, 20 columns of 35 steps, plain SGD with clipping: the example's own
steps, written anew. One line converts the model, with dropout of the hidden states added, which torch
has none of. All models take their steps in turn, in one process: the model as it is, converted with the
dropouts that it has, and with recurrent dropout added. Rows are appended to
``benchmarks/results/word-language-model.csv``. Words are drawn at random, the frequent ones more often; the
vocabulary is by default that of WikiText-2, which the example trains on.
"""

from __future__ import annotations

import argparse
import csv
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import strop
from strop.bench import machine, records
from strop.bench.measure import Case, Percentiles, interleave, now
from strop.tables import show

CSV = Path(__file__).parents[1] / "results" / "word-language-model.csv"
CPU = torch.device("cpu")
States = tuple[Tensor, Tensor]


class Model(nn.Module):
    """One nn.Dropout in front of the LSTM and behind it, logarithms of probabilities as output."""

    def __init__(self, words: int, units: int, layers: int, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)
        self.encoder = nn.Embedding(words, units)
        self.rnn = nn.LSTM(units, units, layers, dropout=p)
        self.decoder = nn.Linear(units, words)
        for weight in (self.encoder.weight, self.decoder.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids: Tensor, states: States | None) -> tuple[Tensor, States]:
        y, states = self.rnn(self.drop(self.encoder(ids)), states)
        logits = self.decoder(self.drop(y))
        return torch.log_softmax(logits.view(-1, logits.shape[-1]), dim=1), states


def steps(model: Model, text: Tensor, length: int, rate: float) -> Case:
    """Whole training steps through text ``[steps, batch]``."""
    states: States | None = None

    def once(number: int) -> dict[str, float]:
        nonlocal states
        at = number * length % (len(text) - length - 1)
        ids, targets = text[at : at + length], text[at + 1 : at + 1 + length]
        states = None if states is None else (states[0].detach(), states[1].detach())
        start = now(CPU)
        scores, states = model(ids, states)
        loss = nn.functional.nll_loss(scores, targets.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=-rate)
        loss.item()
        model.zero_grad()
        return {"step": now(CPU) - start}

    return once


def text_of(words: int, batch: int, length: int) -> Tensor:
    """Ids ``[steps, batch]``; the n-th word is drawn in proportion to 1 / n."""
    shares = 1 / torch.arange(1, words + 1, dtype=torch.float64)
    return torch.multinomial(shares, 50 * length * batch, replacement=True).view(-1, batch)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    text = text_of(options.words, options.batch, options.steps)
    plain = Model(options.words, options.units, options.layers, options.p)
    models = {"torch": plain, "converted": deepcopy(plain), "converted, recurrent dropout": deepcopy(plain)}
    example = (text[: options.steps], None)
    strop.convert(models["converted"], example_inputs=example)
    print(strop.convert(models[[*models][-1]], recurrent_dropout=options.p, example_inputs=example))
    load = machine.load()
    cases = {name: steps(model, text, options.steps, 20.0) for name, model in models.items()}
    samples = interleave(cases, options.seconds)
    times = {name: Percentiles.of([1e3 * each for each in own["step"]]) for name, own in samples.items()}
    sizes = {name: getattr(options, name) for name in ("words", "units", "layers", "batch", "steps", "p")}
    where = asdict(machine.provenance(CPU))
    rows = []
    for name, each in times.items():
        gain = f"{times['torch'].p50 / each.p50:.3f}"
        found = {key: f"{value:.4g}" for key, value in asdict(each).items()}
        rows.append({"model": name, **sizes, **found, "gain": gain, **where})
    title = f"\nWhole training steps, {options.words:,} words:"
    table = [
        [name, "", *(records.milliseconds(value) for value in asdict(each).values()), f"{row['gain']}x"]
        for (name, each), row in zip(times.items(), rows, strict=True)
    ]
    rounds = f"{len(samples['torch']['step'])} rounds in turn, {where['torch_isa']} and {where['isa']}"
    header = ["", "", "p20 ms", "p50 ms", "p80 ms", "gain"]
    show(title, header, [table], [rounds, *machine.load_note(load)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=33_278, help="size of the vocabulary")
    parser.add_argument("--units", type=int, default=650)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--p", type=float, default=0.5, help="share that is dropped")
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure")
    parser.add_argument("--dry", action="store_true", help="do not append to the results")
    options = parser.parse_args()
    rows = measure(options)
    if not options.dry:
        new = not CSV.exists()
        with CSV.open("a", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
