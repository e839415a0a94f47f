"""Measures ways to run layers in turns, and fits the constants that predict their times."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from strop.bench import machine
from strop.ops import native

_Point = TypeVar("_Point")
Sample = tuple[tuple[float, ...], float]
"""The features of a call, and its microseconds."""


def times(cases: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Medians in milliseconds, in turns."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for once in cases.values():
        once()
    start = perf_counter()
    while len(next(iter(samples.values()))) < 3 or perf_counter() - start < seconds:
        for name, once in cases.items():
            begin = perf_counter()
            once()
            samples[name].append(1e3 * (perf_counter() - begin))
    return {name: median(own) for name, own in samples.items()}


def append(
    file: Path,
    points: Iterable[_Point],
    rows: Callable[[_Point, int], Iterator[dict[str, Any]]],
    seconds: float,
) -> None:
    """Adds the ``rows`` of each point with one and two threads to a CSV, for so many seconds."""
    where = asdict(machine.provenance(torch.device("cpu")))
    for name in ("date", "threads", "python", "strop", "backend", "cores"):
        where.pop(name)
    new, count, start = not file.exists(), 0, perf_counter()
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream)
        for point in points:
            if perf_counter() - start > seconds:
                break
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for own in rows(point, threads):
                    row = own | where
                    if new:
                        writer.writerow(row)
                        new = False
                    writer.writerow(row.values())
            count += 1
    print(f"{count} points with {native.isa()}")


def non_negative(a: Tensor, b: Tensor) -> Tensor:
    """The x of least squares ``|a x - b|`` with no number below 0 (Lawson and Hanson 1974)."""
    count = a.shape[1]
    free, x = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=a.dtype)
    for _ in range(10 * count):
        gain = a.mT @ (b - a @ x)
        gain[free] = -math.inf
        if gain.max() <= 1e-9:
            break
        free[gain.argmax()] = True
        while True:
            trial = torch.zeros_like(x)
            trial[free] = torch.linalg.lstsq(a[:, free], b.unsqueeze(1), driver="gelsd").solution.squeeze(1)
            below = free & (trial <= 0)
            if not below.any():
                x = trial
                break
            step = (x[below] / (x[below] - trial[below])).min()
            x = x + step * (trial - x)
            free &= x > 1e-12
            x[~free] = 0
    return x


def fit(
    groups: Mapping[tuple[str, ...], Sequence[Sample]], of: str, by: str, digits: int, fewest: int
) -> str:
    """Python code of the constants that predict the samples of each key best, in relative terms.

    Args:
        of, by: the module and the script that it is for and made by, named in its first line.
        fewest: samples that a key needs.
    """
    lines = []
    for key, samples in sorted(groups.items()):
        if len(samples) < fewest:
            continue
        a = torch.tensor([features for features, _ in samples], dtype=torch.float64)
        us = torch.tensor([us for _, us in samples], dtype=torch.float64)
        scale = (a / us.unsqueeze(1)).norm(dim=0).clamp_min(1e-30)
        found = non_negative(a / us.unsqueeze(1) / scale, torch.ones_like(us)) / scale
        error = ((a @ found) / us - 1).abs().median()
        numbers = ", ".join(f"{each:.{digits}g}" for each in found.tolist())
        wrapped = textwrap.wrap(f"({numbers}),", 108, initial_indent=8 * " ", subsequent_indent=9 * " ")
        lines += [f"    {key!r}:", *wrapped]
        print(*key, f"{len(samples)} times, median error {error:.0%}")
    parts = ", ".join(["str"] * len(next(iter(groups))))
    text = (
        f'"""Constants of ``{of}``, made by ``python benchmarks/{by} fit``: do not edit."""\n\n'
        f"# fmt: off\nCONSTANTS: dict[tuple[{parts}], tuple[float, ...]] = {{\n" + "\n".join(lines) + "\n}\n"
    )
    return text.replace("'", '"')
