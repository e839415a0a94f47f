"""The losses of a run: noted where they are made, looked at where nobody waits for it, and averaged."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strop.training.step import Made

_FIRST = 10  # steps whose losses show the scale
_FAR = 10.0  # times it: training is lost, the losses of words are logarithms


class Seen(NamedTuple):
    """What a look at the losses since the last one found.

    Attributes:
        steps: how many.
        total: the sum of the losses of all items, 0 if any is spoilt.
        items: how many.
        spoilt: what is wrong with the first that is no number, and its step.
    """

    steps: int
    total: float
    items: int
    spoilt: tuple[str, int] | None


class Losses:
    """Losses of a run's steps.

    Attributes:
        total, items: sum of the losses, and how many, since the last `mean`.
        logged_total, logged_items: the same since the last `logged_mean`.
        recent: the mean of the first steps, then a decaying one over about the last fifty.
        first: `recent` after the first steps; 0 before.
    """

    def __init__(self) -> None:
        self.total = self.items = 0.0
        self.logged_total = self.logged_items = 0.0
        self.recent = self.first = 0.0
        self._unseen: list[tuple[int, Tensor, int]] = []

    @property
    def unseen(self) -> int:
        """Steps noted since the last look."""
        return len(self._unseen)

    def note(self, step: int, made: Made) -> None:
        self._unseen.append((step, made.judged, made.items))

    def look(self) -> Seen:
        """Waits for the device, if it still has to make them."""
        pairs: Sequence[tuple[float, float]] = torch.stack([judged for _, judged, _ in self._unseen]).tolist()
        counts = [items for *_, items in self._unseen]
        spoilt = None
        for (step, *_), (mean, norm) in zip(self._unseen, pairs, strict=True):
            if spoilt is None and not (math.isfinite(mean) and math.isfinite(norm)):
                spoilt = f"the loss is {mean:g} and the gradient norm {norm:g}", step
        total = sum(mean * items for (mean, _), items in zip(pairs, counts, strict=True))
        self._unseen.clear()
        return Seen(len(counts), total if spoilt is None else 0.0, sum(counts), spoilt)

    def count(self, total: float, items: float, share: float) -> None:
        """Counts what all processes saw; `share` of their mean goes into the recent one."""
        self.total += total
        self.items += items
        self.logged_total += total
        self.logged_items += items
        self.recent += share * (total / items - self.recent)

    def judge_scale(self, step: int) -> str | None:
        """What is wrong with losses that have become many times those of the first steps; None if nothing
        is."""
        if self.first == 0 and step >= _FIRST:
            self.first = abs(self.recent)
        if self.first and self.recent > _FAR * max(self.first, 1.0):
            return f"the loss is {self.recent:.4g}, at the beginning it was {self.first:.4g}"
        return None

    def logged_mean(self) -> float:
        """As `mean`, by a count of its own; NaN where there was no loss."""
        total, items = self.logged_total, self.logged_items
        self.logged_total = self.logged_items = 0.0
        return total / items if items else math.nan

    def mean(self) -> float:
        """The mean since it was last asked for."""
        total, items = self.total, self.items
        self.total = self.items = 0.0
        return total / items
