"""Which combinations of many options to test."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]


def pairwise(allowed: Callable[[Row], bool], options: dict[str, Sequence[Any]]) -> list[Row]:
    """A few choices of a value for each option, in which each pair of values occurs that is allowed.

    Most mistakes that depend on options depend on one or two of them. The choices are always the same.
    """
    rng = random.Random(0)

    def choose() -> Row:
        while True:
            row = {name: rng.choice(values) for name, values in options.items()}
            if allowed(row):
                return row

    def pairs(row: Row) -> set[Any]:
        return set(combinations(row.items(), 2))

    wanted = set().union(*(pairs(choose()) for _ in range(2000)))
    rows: list[Row] = []
    while wanted:
        best = max((choose() for _ in range(30)), key=lambda row: len(pairs(row) & wanted))
        if pairs(best) & wanted:
            rows.append(best)
            wanted -= pairs(best)
    return rows
