"""Measures torch's operators and strop's kernels over random sizes, for the rule that chooses between them.

``measure`` appends to ``benchmarks/results/routes.csv``. Limit the instruction sets by the environment to
measure another kind of CPU. ``fit`` makes the constants of ``src/strop/functional/fitted.py`` of the file;
``judge`` says how often, and by how much, the rule made of them is wrong at the points of the file.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import fitting
import torch
from torch import Tensor

from strop.functional import costs, operator, routes
from strop.functional import stack as stacks
from strop.ops import dispatch
from strop.ops.cells import CELLS
from strop.pattern import Pattern

CSV = Path(__file__).parent / "results" / "routes.csv"
FITTED = Path(costs.__file__).with_name("fitted.py")
WAYS = ("operator", "kernels", "cells")
_FEWEST = 10  # measurements to fit to
_MOST_WORK = 1e9  # multiplications of one forward pass


@dataclass(frozen=True)
class Point:
    """Sizes of a stack, whose ``rows`` are those of all steps, and the shares that one layer drops."""

    cell: str
    inputs: int
    hidden: int
    projection: int
    layers: int
    directions: int
    steps: int
    batch: int
    rows: int
    packed: bool
    input_p: float = 0.0
    recurrent_p: float = 0.0


def points(seed: int, drops: bool) -> Iterator[Point]:
    """Random sizes, even in the logarithm."""
    draw = random.Random(seed)

    def size(least: int, most: int) -> int:
        return round(math.exp(draw.uniform(math.log(least), math.log(most))))

    while True:
        cell = draw.choice(("LSTM", "LSTM", "GRU", "RNN_TANH"))
        hidden, steps, batch = size(32, 2048), size(1, 400), size(1, 256)
        if draw.random() < (0.4 if drops else 0.12):
            steps = 1
        inputs = hidden if draw.random() < 0.6 else size(16, 1024)
        projection = hidden // 2 if cell == "LSTM" and draw.random() < 0.06 and not drops else 0
        layers = 1 if drops else draw.choice((1, 1, 1, 2, 3))
        directions = draw.choice((1, 1, 2))
        packed = draw.random() < (0.05 if drops else 0.15) and steps > 2 and batch > 2
        shares = [round(draw.uniform(0.1, 0.65), 2) if drops else 0.0, 0.0]
        if drops and steps == 1 and draw.random() < 0.7:
            shares = [shares[0] * (draw.random() < 0.5), round(draw.uniform(0.1, 0.65), 2)]
        rows = sum(lengths(steps, batch)) if packed else steps * batch
        stack = (cell, inputs, hidden, projection, layers, directions)
        point = Point(*stack, steps, batch, rows, packed, *shares)
        if rows * sum(math.prod(shape) for shape in shapes(point)) <= _MOST_WORK:
            yield point


def lengths(steps: int, batch: int) -> list[int]:
    """Of packed sequences, falling from all steps to a half of them."""
    return sorted((max(1, round(steps * (1 - 0.5 * row / batch))) for row in range(batch)), reverse=True)


def shapes(point: Point) -> list[tuple[int, ...]]:
    """Of all weights."""
    gates, found = CELLS[point.cell].gates * point.hidden, []
    units = point.projection or point.hidden
    for layer in range(point.layers):
        features = point.inputs if layer == 0 else units * point.directions
        own = [(gates, features), (gates, units), (gates,), (gates,)]
        own += [(units, point.hidden)] if point.projection else []
        found += own * point.directions
    return found


def ways(point: Point, phase: str) -> dict[str, Callable[[], object]]:
    """Torch's operator and strop's kernels, ready to be called."""
    cell, gradients = CELLS[point.cell], phase != "inference"
    flat = [torch.randn(shape).mul_(0.05).requires_grad_(gradients) for shape in shapes(point)]
    each, bidirectional = 5 if point.projection else 4, point.directions == 2
    batch_sizes, size = None, (point.steps, point.batch)
    if point.packed:
        own = torch.tensor(lengths(point.steps, point.batch))
        batch_sizes, size = (own.unsqueeze(1) > torch.arange(point.steps)).sum(0), (point.rows,)
    x = torch.randn(*size, point.inputs).requires_grad_(gradients)
    grad = torch.randn(*size, (point.projection or point.hidden) * point.directions)

    weights = operator.by_direction(flat, each)
    states = None
    if point.recurrent_p:
        units = point.projection or point.hidden
        states = (torch.zeros(point.directions, point.batch, units),) * (1 + cell.has_c)
    drops = point.input_p or point.recurrent_p
    patterns = [Pattern.named("structured", p) if p else None for p in (point.input_p, point.recurrent_p)]

    def by_operator() -> Tensor:
        return operator.stack(cell, x, None, flat, each, bidirectional, batch_sizes)[0]

    def by_kernels() -> Tensor:
        if batch_sizes is None and not gradients:
            h, c = (*operator.zeros(cell, x, point.batch, flat, each), None)[:2]
            return dispatch.recurrence(x).evaluate(cell, x, h, c, flat, each == 4, bidirectional)[0]
        nothing, how = (None,) * len(weights), {"bidirectional": bidirectional, "batch_sizes": batch_sizes}
        return stacks.stack(cell, x, None, weights, nothing, nothing, by_kernels=True, **how)[0]

    def layer() -> stacks._Directions:
        units = (point.inputs, point.hidden)
        drawn = [p and p.draw(point.steps, n, point.batch) for p, n in zip(patterns, units, strict=True)]
        return stacks._Directions(cell, states, weights, *([mask] * point.directions for mask in drawn))

    found: dict[str, Callable[[], Tensor]] = {"operator": by_operator, "kernels": by_kernels}
    if drops:
        found = {"kernels": lambda: stacks._layer(x, layer(), batch_sizes)[0]}
        whole = point.cell == "GRU" and point.recurrent_p
        if point.steps == 1 and not whole:
            found["cells"] = lambda: stacks._step_by_cells(x, layer())[0]
        elif point.steps > 1 and not point.recurrent_p:
            found["operator"] = lambda: stacks._by_operator(x, layer(), batch_sizes)[0]

    def once(way: Callable[[], Tensor]) -> None:
        with torch.set_grad_enabled(gradients):
            y = way()
        if phase == "training":
            torch.autograd.grad(y, (x, *flat), grad)

    return {name: partial(once, way) for name, way in found.items()}


def measure(seed: int, seconds: float, drops: bool) -> None:
    warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")

    def rows(point: Point, threads: int) -> Iterator[dict[str, Any]]:
        for phase in costs.PHASES:
            if (point.projection and phase != "training") or (drops and phase == "forward"):
                continue  # no kernels of evaluation for projections
            found = fitting.times(ways(point, phase), 0.02)
            times = {f"{way}_ms": f"{found[way]:.4g}" if way in found else "" for way in WAYS}
            yield {**asdict(point), "threads": threads, "phase": phase} | times

    fitting.append(CSV, points(seed, drops), rows, seconds)


def read() -> list[dict[str, Any]]:
    """The rows of the CSV, with numbers as numbers."""
    with CSV.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for name in (
            "inputs",
            "hidden",
            "projection",
            "layers",
            "directions",
            "steps",
            "batch",
            "rows",
            "threads",
        ):
            row[name] = int(row[name])
        row["packed"] = row["packed"] == "True"
        row["input_p"], row["recurrent_p"] = float(row["input_p"]), float(row["recurrent_p"])
        dropping = ", dropping" if row["input_p"] or row["recurrent_p"] else ""
        row["times"] = {way + dropping: float(row[f"{way}_ms"]) for way in WAYS if row[f"{way}_ms"]}
    return rows


def sizes_of(row: dict[str, Any]) -> costs.Sizes:
    names = ("cell", "inputs", "hidden", "layers", "directions", "steps", "batch", "rows", "packed")
    of_hidden = 1 - row["recurrent_p"]
    if row["steps"] == 1 and row["input_p"] and not row["recurrent_p"]:
        of_hidden = 0.0  # from zeros
    kept = {"input_kept": 1 - row["input_p"], "recurrent_kept": of_hidden}
    return costs.Sizes(
        units=row["projection"] or row["hidden"], **{name: row[name] for name in names}, **kept
    )


def fit() -> None:
    groups: dict[tuple[str, ...], list[fitting.Sample]] = {}
    for row in read():
        sizes = sizes_of(row)
        for way, ms in row["times"].items():
            isa = row["isa" if "kernels" in way else "torch_isa"]
            key = (isa, way, costs.kind(sizes, way), row["phase"])
            features = costs.features(sizes, row["threads"])
            groups.setdefault(key, []).append((features, 1e3 * ms))
    FITTED.write_text(fitting.fit(groups, "costs", "routes.py", digits=3, fewest=_FEWEST))


def judge() -> None:
    """Prints what the rule would have taken, against what was fastest."""
    found: dict[tuple[Any, ...], list[tuple[float, str]]] = defaultdict(list)
    for row in read():
        if len(row["times"]) > 1:
            isas = row["isa"], row["torch_isa"]
            taken = routes.cheapest(sizes_of(row), row["phase"], tuple(row["times"]), *isas, row["threads"])
            shape = " ".join(str(row[field.name]) for field in fields(Point))
            ratio = min(row["times"].values()) / row["times"][taken]
            key = (row["isa"], row["phase"], row["threads"], "dropping" in taken)
            found[key].append((ratio, f"{shape}: {row['times']}"))
    for key, ratios in sorted(found.items()):
        below = sorted(each for each in ratios if each[0] < 0.95)
        print(*key, f"{len(ratios)} points, {len(below)} below 0.95")
        for ratio, what in below[:5]:
            print(f"   {ratio:.2f} {what}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["measure", "fit", "judge"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--drops", action="store_true", help="layers that drop something")
    options = parser.parse_args()
    {"measure": lambda: measure(options.seed, options.seconds, options.drops), "fit": fit, "judge": judge}[
        options.command
    ]()
