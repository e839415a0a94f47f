"""Choosing the kept units of exact masks, in one kernel: see ``ops.selection``."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

import strop.ops.selection
from strop.ops.triton.launch import run

_MOST = 8192  # columns that a program holds at once


@triton.jit
def _smallest(keys, index, columns, kept, BLOCK: tl.constexpr):
    """A row: halves the range of the kept-th smallest key until it is known, then counts places."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    there = column < columns
    key = tl.load(keys + row * columns + column, mask=there, other=0).to(tl.int64)
    key = tl.where(there, key, 2**40)
    low = tl.full((), -(2**31), tl.int64)
    high = tl.full((), 2**31 - 1, tl.int64)
    for _ in range(32):
        middle = (low + high) >> 1
        enough = tl.sum((key <= middle).to(tl.int32), 0) >= kept
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = (key < high).to(tl.int32)
    equal = (key == high).to(tl.int32)
    spare = kept - tl.sum(below, 0)
    taken = below + equal * (tl.cumsum(equal, 0) <= spare).to(tl.int32)
    place = tl.cumsum(taken, 0) - 1
    tl.store(index + row * kept + place, column, mask=taken > 0)


def smallest(keys: Tensor, kept: int) -> Tensor:
    """As ``selection.smallest``: the same units for the same keys."""
    rows, columns = keys.shape
    if columns > _MOST:
        return strop.ops.selection.smallest(keys, kept)
    index = torch.empty(rows, kept, dtype=torch.int32, device=keys.device)
    run(_smallest, (rows,), keys.contiguous(), index, columns, kept, BLOCK=triton.next_power_of_2(columns))
    return index
