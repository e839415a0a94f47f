"""What is dropped: a dropout mask is a grid of blocks over ``[time, batch, unit]``.

The extents of a block say which of the four cases of Sarma et al. (NeurIPS 2021, Fig. 1) a mask is:
shared by the batch or not, redrawn at every time step or not. Masks shared by the batch zero whole
columns of the activations, and are kept as index lists that the products skip by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from strop.ops import drawing

#: batch extent and time extent of the cases I to IV; None spans the whole axis.
CASES: dict[str, tuple[int | None, int | None]] = {
    "random": (1, 1),
    "variational": (1, None),
    "structured": (None, 1),
    "fixed": (None, None),
}


def check_probability(name: str, p: float) -> float:
    """``p`` as a float, if it is a probability in [0, 1).

    Raises:
        TypeError: ``p`` is not a real number.
        ValueError: ``p`` is NaN or outside [0, 1).
    """
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"{name} must be a number in [0, 1), got {p!r}")
    if not 0 <= p < 1:
        raise ValueError(f"{name} must be in [0, 1), got {p!r}")
    return float(p)


def _check_size(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Pattern:
    """How a dropout mask is drawn.

    Args:
        p: probability of a unit to be dropped, in [0, 1).
        batch_extent: rows of the batch that share a draw: None for all of them, 1 for none.
        time_extent: steps that share a draw: 1 for a new draw every step, None for one draw a sequence.
        block: adjacent units dropped together; it must divide the number of units.
        exact: drop the same number of blocks at every draw (``blocks * p`` rounded, never all of them),
            so that shapes are static and ranks balanced; False drops each block independently.
    """

    p: float
    batch_extent: int | None = None
    time_extent: int | None = 1
    block: int = 1
    exact: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", check_probability("p", self.p))
        for name, extent in (("batch_extent", self.batch_extent), ("time_extent", self.time_extent)):
            if extent is not None and (isinstance(extent, bool) or extent != 1):
                raise ValueError(f"{name} must be 1 or None (the whole axis), got {extent!r}")
        _check_size("block", self.block)
        if not isinstance(self.exact, bool):
            raise TypeError(f"exact must be a bool, got {self.exact!r}")

    @classmethod
    def named(cls, name: str, p: float, block: int = 1, exact: bool | None = None) -> Pattern:
        """The pattern called ``random``, ``variational``, ``structured`` or ``fixed`` (cases I to IV).

        ``exact=None`` draws as the papers do: exactly where the batch shares a mask, and independently
        (as ``torch.nn.Dropout``) where each row has its own, since nothing is gained there.
        """
        if name not in CASES:
            raise ValueError(f"pattern must be one of {', '.join(CASES)}, got {name!r}")
        batch_extent, time_extent = CASES[name]
        return cls(p, batch_extent, time_extent, block, batch_extent is None if exact is None else exact)

    @property
    def name(self) -> str:
        """The case's name, a key of ``CASES``."""
        extents = (self.batch_extent, self.time_extent)
        return next(name for name, case in CASES.items() if case == extents)

    def blocks(self, units: int) -> int:
        """Number of blocks in ``units`` units.

        Raises:
            ValueError: ``block`` does not divide ``units``.
        """
        _check_size("units", units)
        if units % self.block:
            raise ValueError(
                f"block must divide the number of units, got block={self.block} for {units} units"
            )
        return units // self.block

    def kept(self, units: int) -> int:
        """Units kept by every exact draw: at least one block, or no scale could make the product unbiased."""
        blocks = self.blocks(units)
        return max(1, math.floor(blocks * (1 - self.p) + 0.5)) * self.block

    def scale(self, units: int) -> float:
        """What kept units are multiplied by, so that the expectation of the masked unit is the unit."""
        return units / self.kept(units) if self.exact else 1 / (1 - self.p)

    def draw(
        self,
        steps: int,
        units: int,
        batch: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Mask | None:
        """Draw the masks of a whole sequence of ``steps`` steps at once; None if ``p`` is 0.

        Randomness comes from ``generator``, or else from torch's global one (``torch.manual_seed``).

        Raises:
            ValueError: a size is below 1, or ``block`` does not divide ``units`` that are dropped.
        """
        _check_size("steps", steps)
        _check_size("units", units)
        _check_size("batch", batch)
        if self.p == 0:
            return None
        blocks = self.blocks(units)
        if device is None and generator is not None:
            device = generator.device
        draws = 1 if self.time_extent is None else steps
        scale = self.scale(units)
        if self.batch_extent is None:
            if self.exact:
                index, count = self._choose(draws, blocks, generator, device), None
                index = index if self.block == 1 else self._spread(index)
            else:
                index, count = _index_lists(self._keep(draws, blocks, generator, device))
                count = count.expand(steps).contiguous()
            index = index if draws == steps else index.expand(steps, -1).contiguous()
            return Mask(steps, batch, units, scale, index, count, None)
        if self.exact:
            chosen = self._choose(draws * batch, blocks, generator, device)
            keep = torch.zeros(draws * batch, blocks, dtype=torch.bool, device=chosen.device)
            keep = keep.scatter(1, chosen.long(), True).repeat_interleave(self.block, 1)
        else:
            keep = self._keep(draws * batch, blocks, generator, device)
        return Mask(steps, batch, units, scale, None, None, keep.view(draws, batch, units))

    def _choose(
        self, rows: int, blocks: int, generator: torch.Generator | None, device: torch.device | str | None
    ) -> Tensor:
        """``rows`` uniform choices of the kept blocks without replacement: int32 ``[rows, kept]``, sorted."""
        kept = self.kept(blocks * self.block) // self.block
        return drawing.choose(rows, blocks, kept, generator, device)

    def _keep(
        self, rows: int, blocks: int, generator: torch.Generator | None, device: torch.device | str | None
    ) -> Tensor:
        """Independent draws: bool ``[rows, units]``, blocks True with probability 1 - p."""
        keep = drawing.toss(rows, blocks, self.p, generator, device)
        return keep if self.block == 1 else keep.repeat_interleave(self.block, 1)

    def _spread(self, index: Tensor) -> Tensor:
        """Block numbers to unit numbers."""
        offsets = torch.arange(self.block, dtype=torch.int32, device=index.device)
        return (index.unsqueeze(-1) * self.block + offsets).flatten(1)


def draw_all(
    kinds: Sequence[tuple[Pattern, int]],
    steps: int,
    batch: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> list[Mask | None]:
    """A mask for each pattern and number of units, one after another; as ``Pattern.draw``.

    On a GPU, whose time goes with the number of kernels, all exact ones of a kind are drawn at once.
    """
    how: Any = {"generator": generator, "device": device}
    at_once = torch.device(device or "cpu").type != "cpu" and not torch.compiler.is_compiling()
    done: dict[tuple[Pattern, int], list[Mask]] = {}
    for kind in dict.fromkeys(kinds) if at_once else ():
        pattern, units = kind
        if pattern.exact and pattern.batch_extent is None and pattern.time_extent is not None:
            whole = pattern.draw(steps * kinds.count(kind), units, batch, **how)
            if whole is not None and whole.index is not None:
                done[kind] = [replace(whole, steps=steps, index=each) for each in whole.index.split(steps)]
    return [
        done[kind].pop(0) if kind in done else kind[0].draw(steps, kind[1], batch, **how) for kind in kinds
    ]


def _index_lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Index lists (padded with the number of columns) and counts of a bool ``[rows, columns]``."""
    columns = keep.shape[1]
    count = keep.sum(1, dtype=torch.int32)
    positions = torch.arange(columns, dtype=torch.int32, device=keep.device)
    index = torch.where(keep, positions, columns).sort(1).values
    # As wide as all columns where the longest list is not known: torch.compile cannot see it, and the host
    # would have to wait for a GPU.
    if torch.compiler.is_compiling() or keep.device.type != "cpu" or drawing.mapped():
        return index, count
    return index[:, : int(count.max())].contiguous(), count


@dataclass(frozen=True, eq=False)
class Mask:
    """A drawn mask of a sequence: ``index`` (shared by the batch) or ``keep`` (a row each), never both.

    Attributes:
        steps: time steps of the activations ``[steps, batch, units]`` that it was drawn for.
        batch: their rows.
        units: their units.
        scale: what kept units are multiplied by.
        index: int32 ``[steps, width]``, contiguous: the kept units of each step, ascending. In a
            Bernoulli mask shorter rows are filled up with ``units``.
        count: int32 ``[steps]``: the kept units of each step; None if every row of ``index`` is full.
        keep: bool ``[steps or 1, batch, units]``: True where kept.
    """

    steps: int
    batch: int
    units: int
    scale: float
    index: Tensor | None
    count: Tensor | None
    keep: Tensor | None

    def __post_init__(self) -> None:
        if (self.index is None) == (self.keep is None):
            raise ValueError("a mask needs either index or keep, got both or neither")
        if self.index is not None and (self.index.dim() != 2 or self.index.shape[0] != self.steps):
            raise ValueError(f"index must be [{self.steps}, width], got {list(self.index.shape)}")
        if self.count is not None and self.count.shape != (self.steps,):
            raise ValueError(f"count must be [{self.steps}], got {list(self.count.shape)}")
        if self.keep is not None and self.keep.shape not in (
            (self.steps, self.batch, self.units),
            (1, self.batch, self.units),
        ):
            raise ValueError(
                f"keep must be [{self.steps} or 1, {self.batch}, {self.units}], got {list(self.keep.shape)}"
            )

    @property
    def device(self) -> torch.device:
        """Where the mask's tensors are."""
        tensor = self.index if self.index is not None else self.keep
        assert tensor is not None
        return tensor.device

    def multiplier(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """0 where dropped and ``scale`` where kept: ``[steps or 1, batch or 1, units]``."""
        return self.kept().to(dtype) * self.scale

    def kept(self) -> Tensor:
        """True where kept: bool ``[steps or 1, batch or 1, units]``."""
        if self.keep is not None:
            return self.keep
        assert self.index is not None
        # One column more takes the padding of lists that are not full.
        columns = self.units + (self.count is not None)
        kept = torch.zeros(self.steps, columns, dtype=torch.bool, device=self.index.device)
        kept = kept.scatter(1, self.index.long(), True)  # not in place: in vmap each sample has its own
        return (kept if self.count is None else kept[:, : self.units]).unsqueeze(1)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``multiplier`` over every step: ``x * mask.dense()`` is x ``[steps, batch, units]`` dropped."""
        multiplier = self.multiplier(dtype)
        return multiplier.expand(self.steps, *multiplier.shape[1:])
