"""Memory for large results, taken again once nothing refers to it.

An allocator gives blocks of several megabytes back at once, and the system clears the pages of the next ones:
7 % of a training pass over two layers of 650 units (65 MB of results).
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import threading

import torch
from torch import Tensor

_LEAST = 1 << 20  # bytes; smaller results come from the allocator, which does keep those


class _Block:
    """Pages of the process itself. A tensor on them holds a reference to ``pages`` until its storage goes."""

    def __init__(self, size: int) -> None:
        # Private: a forked worker has its own copy.
        self.pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.size = size
        self.used = 0  # when, in takes

    def references(self) -> int:
        return sys.getrefcount(self.pages)


class Pool:
    """Blocks by size; never holds more than twice what was in use at one time.

    As much again is for results of different sizes that are in use one after another in every training step:
    with half of that a language model of 10,000 words made 68 of its 117 MB anew in each.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, list[_Block]] = {}
        self._lock = threading.Lock()
        self._takes = self._held = self._most_in_use = 0
        self.made = 0  # blocks that were not there yet
        self._idle_references = _Block(mmap.PAGESIZE).references()

    def _idle(self, block: _Block) -> bool:
        return block.references() == self._idle_references

    def take(self, size: int) -> mmap.mmap:
        """``size`` bytes, not initialised, in use for as long as a reference to them exists."""
        size = _rounded(size)
        with self._lock:
            self._takes += 1
            for block in self._blocks.get(size, ()):
                if self._idle(block):
                    block.used = self._takes
                    return block.pages
            block = _Block(size)
            self._make_room(size)
            block.used = self._takes
            self._blocks.setdefault(size, []).append(block)
            self._held += size
            self.made += 1
            return block.pages

    def _make_room(self, size: int) -> None:
        blocks = [block for blocks in self._blocks.values() for block in blocks]
        idle = [block for block in blocks if self._idle(block)]
        in_use = self._held - sum(block.size for block in idle) + size
        self._most_in_use = max(self._most_in_use, in_use)
        for block in sorted(idle, key=lambda block: block.used):
            if self._held + size <= 2 * self._most_in_use:
                break
            self._drop(block)

    def _drop(self, block: _Block) -> None:
        self._blocks[block.size].remove(block)
        self._held -= block.size

    def release(self) -> None:
        """Gives every idle block back to the system."""
        with self._lock:
            for block in [block for blocks in self._blocks.values() for block in blocks if self._idle(block)]:
                self._drop(block)
            self._most_in_use = self._held

    def unlock(self) -> None:
        """In a process just forked, where a thread that held the lock does not exist."""
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes of all blocks, idle or not."""
        return self._held


def _rounded(size: int) -> int:
    """Up to the next eighth of a power of two: similar sizes share blocks. Pages beyond are never touched."""
    step = max(mmap.PAGESIZE, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step


pool = Pool() if hasattr(mmap, "MAP_PRIVATE") and hasattr(sys, "getrefcount") else None
if pool is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.unlock)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty`` on the CPU, on memory that an earlier result has left where there is some."""
    count = math.prod(shape)
    if pool is None or count * dtype.itemsize < _LEAST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    storage = torch.frombuffer(pool.take(count * dtype.itemsize), dtype=dtype, count=count).untyped_storage()
    # Not a view of the tensor above: a gradient must own its storage.
    owner = torch.empty(0, dtype=dtype, device="cpu")
    return owner.set_(storage, 0, shape)  # pyright: ignore[reportCallIssue, reportArgumentType]


def empty_cache() -> None:
    """Give memory that waits for the next large result back to the system, as ``torch.cuda.empty_cache``."""
    if pool is not None:
        pool.release()
