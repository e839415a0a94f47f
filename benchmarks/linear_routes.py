"""Measures linear layers that drop their input, for the rule that says where strop's kernels pay.

``measure`` appends to ``benchmarks/results/routes-linear.csv``: forward and backward of ``nn.Dropout`` and
``nn.Linear``, of ``nn.Linear`` on the input times strop's mask, and of the kernels. Limit the instruction
sets by the environment to measure another kind of CPU. ``fit`` makes the constants of
``src/strop/functional/fitted_linear.py`` of the file; ``judge`` says how often the rule is wrong there.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import fitting
import torch
from torch import Tensor

from strop.functional import linear_costs, routes
from strop.functional.checks import keep_of
from strop.functional.linear import by_kernels, by_operator
from strop.pattern import Pattern

CSV = Path(__file__).parent / "results" / "routes-linear.csv"
FITTED = Path(linear_costs.__file__).with_name("fitted_linear.py")
_MOST_WORK = 2e9  # multiplications of one forward pass
_WAYS = ("torch", "operator", "kernels")


@dataclass(frozen=True)
class Point:
    """Sizes of a linear layer and of its input ``[steps, batch, inputs]``, and the share that is dropped."""

    inputs: int
    outputs: int
    steps: int
    batch: int
    p: float


def points(seed: int) -> Iterator[Point]:
    """Random sizes, even in the logarithm."""
    draw = random.Random(seed)

    def size(least: int, most: int) -> int:
        return round(math.exp(draw.uniform(math.log(least), math.log(most))))

    while True:
        steps = 1 if draw.random() < 0.4 else size(2, 200)
        point = Point(size(16, 4096), size(8, 8192), steps, size(1, 1024), round(draw.uniform(0.05, 0.7), 2))
        rows = steps * point.batch
        if rows * point.inputs * point.outputs <= _MOST_WORK and rows * (point.inputs + point.outputs) < 3e7:
            yield point


def ways(point: Point) -> dict[str, Callable[[], object]]:
    """Training passes, ready to be called."""
    x = torch.randn(point.steps, point.batch, point.inputs, requires_grad=True)
    weight = (torch.randn(point.outputs, point.inputs) * 0.05).requires_grad_()
    bias = torch.zeros(point.outputs, requires_grad=True)
    grad = torch.randn(point.steps, point.batch, point.outputs)
    pattern = Pattern.named("structured", point.p)

    def drawn() -> Any:
        return pattern.draw(point.steps, point.inputs, point.batch)

    def torchs() -> Tensor:
        return torch.nn.functional.linear(torch.nn.functional.dropout(x, point.p), weight, bias)

    def once(way: Callable[[], Tensor]) -> None:
        torch.autograd.grad(way(), (x, weight, bias), grad)

    found = {
        "torch": torchs,
        "operator": lambda: by_operator(x, weight, bias, drawn()),
        "kernels": lambda: by_kernels(x, weight, bias, keep_of(drawn())),
    }
    return {name: partial(once, way) for name, way in found.items()}


def measure(seed: int, seconds: float) -> None:
    def rows(point: Point, threads: int) -> Iterator[dict[str, Any]]:
        found = fitting.times(ways(point), 0.03)
        yield {**asdict(point), "threads": threads} | {f"{way}_ms": f"{found[way]:.4g}" for way in _WAYS}

    fitting.append(CSV, points(seed), rows, seconds)


def read() -> list[dict[str, Any]]:
    """The rows of the CSV, with numbers as numbers."""
    with CSV.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for name in ("inputs", "outputs", "steps", "batch", "threads"):
            row[name] = int(row[name])
        for name in ("p", *(f"{way}_ms" for way in _WAYS)):
            row[name] = float(row[name])
    return rows


def sizes_of(row: dict[str, Any]) -> linear_costs.Sizes:
    return linear_costs.Sizes(row["inputs"], row["outputs"], row["steps"], row["batch"], 1 - row["p"])


def fit() -> None:
    groups: dict[tuple[str, ...], list[fitting.Sample]] = {}
    for row in read():
        for way in _WAYS:
            isa = row["isa" if way == "kernels" else "torch_isa"]
            features = linear_costs.features(sizes_of(row), way, row["threads"])
            groups.setdefault((isa, way), []).append((features, 1e3 * row[f"{way}_ms"]))
    FITTED.write_text(fitting.fit(groups, "linear_costs", "linear_routes.py", digits=4, fewest=1))


def judge() -> None:
    """Prints what taking over gains where the rule says that it pays, what elsewhere, the worst points."""
    rows = read()
    for isa, threads in sorted({(row["isa"], row["threads"]) for row in rows}):
        pays, others = [], []
        for row in rows:
            if (row["isa"], row["threads"]) == (isa, threads):
                where = isa, row["torch_isa"], threads
                theirs, ours = routes.linear_times(sizes_of(row), *where)
                way = routes.linear_way(sizes_of(row), *where)
                gain = row["torch_ms"] / row[f"{way}_ms"]
                (pays if theirs / ours >= routes.PAYS else others).append((gain, theirs / ours, way, row))
        for name, found in (("pays", pays), ("does not", others)):
            gains = sorted(gain for gain, *_ in found)
            slower, faster = sum(gain < 0.95 for gain in gains), sum(gain > 1.15 for gain in gains)
            print(f"{isa}, {threads} threads, {name}: {len(gains)} points, ", end="")
            print(f"median {gains[len(gains) // 2]:.2f}, {slower} below 0.95, {faster} above 1.15")
        for gain, expected, way, row in sorted(pays, key=lambda each: each[0])[:5]:
            print(f"   {gain:.2f}, expected {expected:.2f} by {way}:", *(row[f.name] for f in fields(Point)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["measure", "fit", "judge"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=75)
    options = parser.parse_args()
    {"measure": lambda: measure(options.seed, options.seconds), "fit": fit, "judge": judge}[options.command]()
