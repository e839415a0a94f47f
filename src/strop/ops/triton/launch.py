"""How kernels are launched: on what, how precisely, and in tiles of which sizes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

interpreting: bool = bool(knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels; fixed when they are first imported."""


def run(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    warps: int = 4,
    cooperative: bool = False,
    **constants: Any,
) -> None:
    """Launch ``kernel``, if the grid has any programs; ``cooperative``: all of them at once, or fail."""
    settings = {}
    if not interpreting:  # it knows no options
        settings = {"num_warps": warps, "launch_cooperative_grid": cooperative}
        settings["enable_fp_fusion"] = True  # Triton's default so far, but it warns where it is not said
    if 0 not in grid:
        # Triton launches on the current device, which need not be the operands'.
        with torch.cuda.device_of(arguments[0]):
            kernel[grid](*arguments, **constants, **settings)


def precision(dtype: torch.dtype) -> str:
    """What ``tl.dot`` does with float32: ``tf32`` where torch's own products may, else ``ieee``."""
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if dtype != torch.float32 or allowed else "ieee"


@lru_cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors: as many programs run at once for certain."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


class Tiles(NamedTuple):
    """Sizes of the tiles of a recurrence.

    Attributes:
        lanes: units of a panel: what a program computes of one step, with all their gates.
        rows: of the batch.
        chunk: kept units, or gates, in one step of a product's inner loop.
        kept: kept units that a program of BP sends gradients to.
        splits: parts that BP cuts the sum over the gates into.
    """

    lanes: int
    rows: int
    chunk: int
    kept: int
    splits: int

    @property
    def warps(self) -> int:
        """What holds the sums of so many rows in registers."""
        return 8 if self.rows >= 64 else 4


LANES = 16  # units of a gate side by side in the packed weights


def tiles(gates: int, hidden: int, batch: int, width: int, dtype: torch.dtype, device: torch.device) -> Tiles:
    """Sizes for a layer, chosen by counting bytes (docs/performance.md): not measured yet.

    One tile of rows where the batch fits, since each tile reads the weights again. BP is cut into about as
    many parts as there are processors.
    """
    # 128 rows of float32 operands are more than the shared memory of compute capability 8.6 holds.
    rows = min(64 if dtype == torch.float32 else 128, max(16, triton.next_power_of_2(batch)))
    chunk = 64 if hidden > 32 else 16
    # Without tensor cores the registers do not hold 64.
    kept = 16 if width <= 16 else 64 if width >= 512 and precision(dtype) == "tf32" else 32
    length = -(-hidden // LANES) * gates * LANES
    blocks = -(-max(width, 1) // kept) * -(-batch // rows)
    most = max(1, min(processors(device) // blocks, length // (2 * chunk), 16))
    # A power of two, so that few variants are compiled.
    splits = 1 << (most.bit_length() - 1)
    return Tiles(LANES, rows, chunk, kept, splits)
