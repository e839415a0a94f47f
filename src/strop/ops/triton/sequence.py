"""A sequence as the kernels of a recurrence take it: where its rows lie, and what is dropped."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from strop.ops import choice
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.ops.triton.tiles import Tiles


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """From the CPU, without waiting for what the device has to do before.

    Raises:
        RuntimeError: a CUDA graph is captured, which would read the CPU's memory again at every replay.
    """
    if device.type != "cuda":
        return tensor.to(device)
    if choice.is_capturing(device):
        raise RuntimeError(
            "batch_sizes: the lengths of packed sequences come from the host, so no CUDA graph can capture "
            "them; capture padded sequences"
        )
    return tensor.pin_memory().to(device, non_blocking=True)


class Sequence(NamedTuple):
    """A layer's cell, and where the rows of its steps lie."""

    kind: str
    gates: int
    reverse: bool
    steps: int
    batch: int
    rows: int
    hidden: int
    offsets: Tensor | None
    sizes: Tensor | None

    @classmethod
    def of(cls, layer: Layer, x: Tensor, h0: Tensor) -> Sequence:
        """Of the input or the output ``x``."""
        cell = layer.cell
        batch, hidden = h0.shape
        sizes = layer.batch_sizes
        rows = x.shape[0] if sizes is not None else x.shape[0] * batch
        steps = x.shape[0] if sizes is None else sizes.shape[0]
        offsets = None
        if sizes is not None:
            offsets = torch.zeros(steps + 1, dtype=torch.int32)
            torch.cumsum(sizes, 0, out=offsets[1:])
            offsets = to_device(offsets, x.device)
        return cls(cell.name.lower(), cell.gates, layer.reverse, steps, batch, rows, hidden, offsets, sizes)

    def like(self, width: int) -> tuple[int, ...]:
        """The shape of ``[T, B, width]``, or packed ``[N, width]``."""
        return (self.rows, width) if self.sizes is not None else (self.steps, self.batch, width)

    def last_rows(self, y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The last h in time of each row of the batch: ``[B, H]``, a copy."""
        flat = y.view(self.rows, self.hidden)
        if self.reverse or self.sizes is None:
            first = 0 if self.reverse else self.rows - self.batch
            return flat[first : first + self.batch].to(dtype or y.dtype, copy=True)
        lengths = self._lengths()
        begin = torch.cumsum(self.sizes, 0) - self.sizes
        rows = to_device(begin[lengths - 1] + torch.arange(self.batch), y.device)
        return flat[rows].to(dtype or y.dtype)

    def _lengths(self) -> Tensor:
        """Steps of each row, on the CPU."""
        assert self.sizes is not None
        return (self.sizes.unsqueeze(0) > torch.arange(self.batch).unsqueeze(1)).sum(1)

    def entered(self, device: torch.device) -> Tensor:
        """int32 ``[B]``: the step that each row of a packed sequence enters with its initial state."""
        if not self.reverse:
            return torch.zeros(self.batch, dtype=torch.int32, device=device)
        return to_device((self._lengths() - 1).to(torch.int32), device)

    def panels(self, tiles: Tiles) -> int:
        return -(-self.hidden // tiles.lanes)

    def tiles_of_gates(self, tiles: Tiles) -> int:
        """Panels of units times tiles of rows."""
        return self.panels(tiles) * -(-self.batch // tiles.rows)

    def tiles_of_product(self, tiles: Tiles, width: int) -> int:
        """BP's blocks of ``width`` kept units times splits of the gates times tiles of rows."""
        return -(-width // tiles.kept) * tiles.splits * -(-self.batch // tiles.rows)


class Drop(NamedTuple):
    """The recurrent drop as the kernels take it; a tensor that is not there is any other."""

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    mask: Tensor
    scale: float
    width: int
    mask_stride: int
    flags: dict[str, bool]

    @classmethod
    def of(cls, keep: Keep | None, mask: Tensor | None, h0: Tensor) -> Drop:
        if keep is not None and mask is not None:
            raise ValueError("only one of recurrent_keep and recurrent_mask can be given")
        index = count = multiplier = h0
        scale, width, stride = 1.0, h0.shape[1], 0
        if keep is not None:
            index, scale, width = keep.index.contiguous(), float(keep.scale), keep.index.shape[1]
            count = index if keep.count is None else keep.count.contiguous()
        if mask is not None:
            multiplier = mask.expand(-1, *h0.shape).contiguous()
            stride = h0.numel() if mask.shape[0] > 1 else 0
        flags = {
            "LISTED": keep is not None,
            "COUNTED": keep is not None and keep.count is not None,
            "MASKED": mask is not None,
        }
        return cls(index, count, multiplier, scale, width, stride, flags)
