"""How kernels are launched: on what, and how precisely."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from triton import knobs

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

interpreting: bool = bool(knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels; fixed when they are first imported."""

programs_wait: bool = not interpreting
"""Whether the programs of a grid can wait for each other: the interpreter runs one after another."""


def run(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    warps: int = 4,
    stages: int = 3,
    cooperative: bool = False,
    **constants: Any,
) -> None:
    """Launch ``kernel``, if the grid has any programs; ``cooperative``: all of them at once, or fail."""
    settings = {}
    if not interpreting:  # it knows no options
        settings = {"num_warps": warps, "num_stages": stages, "launch_cooperative_grid": cooperative}
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


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may take for what it keeps; the rest is the compiler's."""
    if device.type != "cuda":
        return 0
    found = torch.cuda.get_device_properties(device)
    return getattr(found, "shared_memory_per_block_optin", 48 * 1024) - 4096
