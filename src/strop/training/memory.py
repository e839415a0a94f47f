"""The allocator's habits during training."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's M_* numbers for mallopt


def reuse_freed_pages() -> bool:
    """Asks glibc to keep freed memory for the next step; False where that cannot be asked.

    Otherwise every large tensor is mapped anew and each of its pages faults at first touch. Filling fresh
    gradients of 66 million parameters: 72 ms without, 11 ms with (2 cores). The process then keeps its
    peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
