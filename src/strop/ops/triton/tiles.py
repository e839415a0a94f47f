"""Into what sizes a recurrence is cut, chosen by counting bytes (docs/performance.md): not measured yet."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from strop.ops.triton import launch

_WARPS = 8


class Tiles(NamedTuple):
    """Sizes of the tiles of a recurrence.

    Attributes:
        lanes: units of a panel: what a program computes of one step, with all their gates.
        rows: of the batch.
        chunk: kept units, or gates, in one step of a product's inner loop.
        shares: parts of a chunk, which warps sum up beside each other.
        kept: kept units that a program of BP sends gradients to.
        splits: parts that BP cuts the sum over the gates into.
        resident: chunks of weights that each program keeps on the chip over all steps; 0 to read them anew.
    """

    lanes: int
    rows: int
    chunk: int
    shares: int
    kept: int
    splits: int
    resident: int = 0

    @property
    def warps(self) -> int:
        return _WARPS if self.shares > 1 or self.rows >= 64 or self.resident else 4

    @property
    def stages(self) -> int:
        """Buffers of what is read from L2; without a loop to fill them they would crowd out the weights."""
        return 1 if self.resident else 3


def padded(gates: int) -> int:
    """Gates in the packed weights: a power of two, as the kernels need it."""
    return 1 if gates == 1 else 4


def lanes(gates: int, hidden: int, batch: int, dtype: torch.dtype, device: torch.device) -> int:
    """Units of a panel: 16, or 8 where as many programs as that makes have a processor each."""
    programs = -(-hidden // 8) * -(-batch // _rows(batch, dtype))
    return 8 if gates > 1 and programs <= launch.processors(device) else 16


def _rows(batch: int, dtype: torch.dtype) -> int:
    """One tile of rows where the batch fits, since each tile reads the weights again."""
    # 128 rows of float32 operands are more than the shared memory of compute capability 8.6 holds.
    return min(64 if dtype == torch.float32 else 128, max(16, triton.next_power_of_2(batch)))


def _cut(length: int, rows: int, across: int, dtype: torch.dtype, *, backward: bool) -> tuple[int, int]:
    """Chunk and shares of a sum over ``length`` into ``[rows, across]``.

    As much at once as registers hold: each turn of the loop waits for L2. A share is a warp's, so that no
    operand is read twice.
    """
    fits = max(16, triton.next_power_of_2(length))
    if launch.precision(dtype) == "ieee" and dtype == torch.float32:  # multiplied without tensor cores
        return min(32, fits), 1
    most = 256 if rows <= 32 else 128 if rows <= 64 else 64
    if most == 256 and not backward and rows * across > 2**10:
        most = 128
    chunk = min(most // 2 if dtype == torch.float32 and most > 64 else most, fits)
    shares = max(1, min(_WARPS, chunk // 16, 2**14 // (rows * across))) if rows < 128 else 1
    return chunk, shares


def reading(
    gates: int,
    hidden: int,
    batch: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool,
) -> Tiles:
    """For kernels that read the kept units' weights at every step.

    BP is cut into about as many parts as there are processors.
    """
    rows, units = _rows(batch, dtype), lanes(gates, hidden, batch, dtype, device)
    across = padded(gates) * units
    if not backward:
        return Tiles(units, rows, *_cut(width, rows, across, dtype, backward=False), kept=16, splits=1)
    # Without tensor cores the registers do not hold 64.
    wide = width >= 512 and rows < 128 and launch.precision(dtype) == "tf32"
    kept = 16 if width <= 16 else 64 if wide else 32
    length = -(-hidden // units) * across
    blocks = -(-max(width, 1) // kept) * -(-batch // rows)
    most = max(1, min(launch.processors(device) // blocks, length // 128, 16))
    # A power of two, so that few variants are compiled.
    splits = 1 << (most.bit_length() - 1)
    cut = _cut(-(-length // splits), rows, kept, dtype, backward=True)
    return Tiles(units, rows, *cut, kept, splits)


def on_chip(
    gates: int, hidden: int, batch: int, dtype: torch.dtype, device: torch.device, *, backward: bool
) -> Tiles | None:
    """For kernels that keep a slice of all weights in each processor's memory; None if it does not fit.

    There are no more programs than processors. The compiler keeps the slices in shared memory
    (``tests/ops/compile_triton.py`` says how much they take).
    """
    rows, most = _rows(batch, dtype), launch.processors(device)
    units = lanes(gates, hidden, batch, dtype, device)
    panels = -(-hidden // units)
    length = panels * padded(gates) * units
    kept = 16 if hidden <= 16 else 64 if hidden >= 512 and rows <= 64 else 32
    if backward:
        blocks, across = -(-hidden // kept), kept
        splits = max(1, min(most // blocks, length // 128, 16))
        chunk, shares = _cut(-(-length // splits), rows, across, dtype, backward=True)
        programs, resident = blocks * splits, -(-length // (splits * chunk))
    else:
        across = padded(gates) * units
        chunk, shares = _cut(hidden, rows, across, dtype, backward=False)
        # Chunks are code of their own: shares of wide ones would take more registers than there are.
        shares = shares if across <= 32 else 1
        splits, programs, resident = 1, panels, -(-hidden // chunk)
    taken = chunk * (resident * across + rows) * dtype.itemsize
    # Panels that are rows of weights apart must be a program's own.
    if (
        rows > 64
        or programs > most
        or panels * -(-batch // rows) > most
        or taken > launch.shared_memory(device)
    ):
        return None
    return Tiles(units, rows, chunk, shares, kept, splits, resident)
