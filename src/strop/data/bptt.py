"""Windows of varying length for truncated back-propagation through time, as in Merity et al. (2017)."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from strop.data.text import DataError
from strop.seeds import seed_of

_HALVED = 0.05  # of the windows


class VaryingWindows:
    """Cuts columns of text [rows, batch] anew in every epoch, so that other words begin a window each time.

    Lengths are drawn as in Merity et al.'s program: normal around `steps`, or half of it in 5% of the cases,
    with a deviation of steps / 14 (5 words at their 70), which is also the least length. All epochs have the
    same number of windows; their lengths are scaled by a percent or so to span the text exactly, so every
    word but the first row is a target once an epoch.

    Args:
        columns: ids [rows, batch], from `strop.data.text.batchify`.
        steps: usual length of a window.
        seed: of the lengths, which depend on it, the epoch and the number of rows alone.
    """

    def __init__(self, columns: Tensor, steps: int, seed: int) -> None:
        if steps < 1:
            raise DataError(f"steps: {steps}; at least 1 is needed")
        targets = len(columns) - 1
        if targets < 1:
            raise DataError(f"columns: {len(columns)} rows; at least 2 are needed; use a smaller batch")
        mean = (1 - _HALVED) * steps + _HALVED * steps / 2
        self.count = max(1, round(targets / max(1.0, mean)))
        self._columns, self._steps, self._seed, self._targets = columns, steps, seed, targets
        self._bounds = lru_cache(maxsize=2)(self._draw)

    def __len__(self) -> int:
        """Windows in every epoch."""
        return self.count

    def lengths(self, epoch: int) -> Sequence[int]:
        bounds = self._bounds(epoch)
        return [stop - start for start, stop in pairwise(bounds)]

    def window(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [length, batch] of a window; the target is the word after the input."""
        bounds = self._bounds(epoch)
        start, stop = bounds[index], bounds[index + 1]
        return self._columns[start:stop], self._columns[start + 1 : stop + 1]

    def rate(self, epoch: int, step: int) -> float:
        """The schedule that goes with it: a longer window takes a longer step. `step` counts all epochs."""
        return self.lengths(epoch)[step % self.count] / self._steps

    def _draw(self, epoch: int) -> Sequence[int]:
        """Where the windows of an epoch begin, and where the last ends."""
        generator = torch.Generator().manual_seed(seed_of("windows", self._seed, epoch))
        least = max(1, self._steps // 14)
        usual = torch.full((self.count,), float(self._steps), dtype=torch.float64)
        halved = torch.rand(self.count, generator=generator) < _HALVED
        mean = torch.where(halved, usual / 2, usual)
        lengths = torch.normal(mean, float(least), generator=generator).floor().clamp_min(least)
        # Each window has a word; what the text has besides is shared out as drawn.
        extra = lengths - 1
        share = extra.cumsum(0) * ((self._targets - self.count) / extra.sum().clamp_min(1))
        ends = torch.arange(1, self.count + 1) + share.round().long()
        return [0, *ends[:-1].tolist(), self._targets]
