"""Into what sizes a recurrence is cut, chosen by counting bytes (docs/performance.md): not measured yet."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton

from strop.ops.triton import launch

LANES = 16
"""Units of a gate side by side in the packed weights."""


class Tiles(NamedTuple):
    """Sizes of the tiles of a recurrence.

    Attributes:
        lanes: units of a panel: what a program computes of one step, with all their gates.
        rows: of the batch.
        chunk: kept units, or gates, in one step of a product's inner loop.
        kept: kept units that a program of BP sends gradients to.
        splits: parts that BP cuts the sum over the gates into.
        resident: chunks of weights that each program keeps on the chip over all steps; 0 to read them anew.
    """

    lanes: int
    rows: int
    chunk: int
    kept: int
    splits: int
    resident: int = 0

    @property
    def warps(self) -> int:
        """What holds the sums of so many rows in registers."""
        return 8 if self.rows >= 64 or self.resident else 4

    @property
    def stages(self) -> int:
        """Buffers of what is read from L2; without a loop to fill them they would crowd out the weights."""
        return 1 if self.resident else 3


def _rows(batch: int, dtype: torch.dtype) -> int:
    """One tile of rows where the batch fits, since each tile reads the weights again."""
    # 128 rows of float32 operands are more than the shared memory of compute capability 8.6 holds.
    return min(64 if dtype == torch.float32 else 128, max(16, triton.next_power_of_2(batch)))


def reading(
    gates: int, hidden: int, batch: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tiles:
    """For kernels that read the kept units' weights at every step.

    BP is cut into about as many parts as there are processors.
    """
    rows = _rows(batch, dtype)
    chunk = 64 if hidden > 32 else 16
    # Without tensor cores the registers do not hold 64.
    kept = 16 if width <= 16 else 64 if width >= 512 and launch.precision(dtype) == "tf32" else 32
    length = -(-hidden // LANES) * gates * LANES
    blocks = -(-max(width, 1) // kept) * -(-batch // rows)
    most = max(1, min(launch.processors(device) // blocks, length // (2 * chunk), 16))
    # A power of two, so that few variants are compiled.
    splits = 1 << (most.bit_length() - 1)
    return Tiles(LANES, rows, chunk, kept, splits)


def on_chip(
    gates: int, hidden: int, batch: int, dtype: torch.dtype, device: torch.device, *, backward: bool
) -> Tiles | None:
    """For kernels that keep a slice of all weights in each processor's memory; None if it does not fit.

    There are no more programs than processors. The compiler keeps the slices in shared memory
    (``tests/ops/compile_triton.py`` says how much they take).
    """
    rows, most = _rows(batch, dtype), launch.processors(device)
    # Every chunk is code of its own: larger ones compile faster, but many rows of them crowd the registers.
    chunk = min(128 if rows <= 32 else 64, max(16, triton.next_power_of_2(hidden)))
    panels = -(-hidden // LANES)
    length = panels * gates * LANES
    kept = 16 if hidden <= 16 else 64 if hidden >= 512 and rows <= 64 else 32
    if backward:
        blocks = -(-hidden // kept)
        splits = max(1, min(most // blocks, length // (2 * chunk), 16))
        programs, resident, across = blocks * splits, -(-length // (splits * chunk)), kept
    else:
        splits, programs, resident, across = 1, panels, -(-hidden // chunk), gates * LANES
    taken = chunk * (resident * across + rows) * dtype.itemsize
    if programs > most or taken > launch.shared_memory(device):
        return None
    return Tiles(LANES, rows, chunk, kept, splits, resident)
