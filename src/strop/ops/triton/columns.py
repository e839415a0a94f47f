"""Kernels that move columns: dropping them, and packing weights so that a kept column is contiguous."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from strop.ops.products import Keep
from strop.ops.triton.launch import run

_BLOCK = 128


@triton.jit
def _listed(index, step, column, width, DEPTH: tl.constexpr):
    """Whether columns are in a step's list, which ascends: by halves to the first entry that is no less."""
    row = index + step.to(tl.int64) * width
    low = column * 0
    high = low + width
    for _ in tl.static_range(DEPTH):  # pyright: ignore[reportGeneralTypeIssues]
        middle = (low + high) // 2
        searching = low < high
        less = (tl.load(row + middle, mask=searching, other=0) < column) & searching
        high = tl.where(searching & (less == 0), middle, high)
        low = tl.where(less, middle + 1, low)
    return (tl.load(row + low, mask=low < width, other=-1) == column) & (low < width)


@triton.jit
def _drop(
    x,
    initial,
    index,
    mask,
    offsets,
    out,
    scale,
    steps,
    batch,
    columns,
    width,
    mask_stride,
    REVERSE: tl.constexpr,
    PACKED: tl.constexpr,
    PREVIOUS: tl.constexpr,
    LISTED: tl.constexpr,
    MASKED: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A step's rows (or, with PREVIOUS, the rows of the step before it in time) with its columns dropped."""
    step = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    before = step + 1 if REVERSE else step - 1
    if PACKED:
        start = tl.load(offsets + step)
        rows = tl.load(offsets + step + 1) - start
    else:
        start = step * batch
        rows = batch
    valid = (row < rows)[:, None] & (column < columns)[None, :]
    at = (start + row).to(tl.int64)[:, None] * columns + column[None, :]
    if PREVIOUS:
        exists = (before >= 0) & (before < steps)
        if PACKED:
            start_before = tl.load(offsets + before, mask=exists, other=0)
            rows_before = tl.load(offsets + before + 1, mask=exists, other=0) - start_before
        else:
            start_before = before * batch
            rows_before = tl.where(exists, batch, 0)
        goes_on = valid & (row < rows_before)[:, None]
        begins = valid & (row >= rows_before)[:, None]
        source = (start_before + row).to(tl.int64)[:, None] * columns + column[None, :]
        value = tl.load(x + source, mask=goes_on, other=0.0).to(tl.float32)
        at_initial = row.to(tl.int64)[:, None] * columns + column[None, :]
        value += tl.load(initial + at_initial, mask=begins, other=0.0).to(tl.float32)
    else:
        value = tl.load(x + at, mask=valid, other=0.0).to(tl.float32)
    if LISTED:
        taken = _listed(index, step, column, width, DEPTH)
        value = tl.where(taken[None, :], value * scale, 0.0)
    if MASKED:
        at_mask = (
            mask + step.to(tl.int64) * mask_stride + row.to(tl.int64)[:, None] * columns + column[None, :]
        )
        value *= tl.load(at_mask, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + at, value, mask=valid)


@triton.jit
def _pack(
    weight, out, hidden, columns, panels, G: tl.constexpr, P: tl.constexpr, U: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    panel, gate = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    lane = tl.arange(0, U)
    unit = panel * U + lane
    here = column < columns
    units = tl.where(gate < G, hidden, 0)
    row = (gate * hidden + unit).to(tl.int64)[:, None]
    tile = tl.load(
        weight + row * columns + column[None, :],
        mask=(unit < units)[:, None] & here[None, :],
        other=0.0,
    )
    target = out + column.to(tl.int64)[:, None] * (panels * P * U) + (panel * P + gate) * U + lane[None, :]
    tl.store(target, tl.trans(tile), mask=here[:, None])


def pack(weight: Tensor, gates: int, lanes: int, padded: int | None = None) -> Tensor:
    """``weight`` ``[gates * H, K]`` as ``[K, ceil(H / lanes), padded, lanes]``.

    Zero beyond the last unit, and in gates beyond the last: ``padded`` are as many or more.
    """
    padded = padded or gates
    weight = weight.contiguous()
    hidden, columns = weight.shape[0] // gates, weight.shape[1]
    panels = -(-hidden // lanes)
    out = weight.new_empty(columns, panels, padded, lanes)
    grid = (panels, padded, -(-columns // _BLOCK))
    run(_pack, grid, weight, out, hidden, columns, panels, G=gates, P=padded, U=lanes, COLUMNS=_BLOCK)
    return out


@triton.jit
def _map(index, kept, arrived, columns, width, COUNTER: tl.constexpr, BLOCK: tl.constexpr):
    """A step's row: zeros, then ones where the list says so; its padding falls beyond the last column."""
    step = tl.program_id(0).to(tl.int64)
    if COUNTER:
        tl.store(arrived, 0)
    for at in range(0, columns, BLOCK):
        column = at + tl.arange(0, BLOCK)
        tl.store(kept + step * columns + column, tl.zeros((BLOCK,), tl.int8), mask=column < columns)
    tl.debug_barrier()
    for at in range(0, width, BLOCK):
        position = at + tl.arange(0, BLOCK)
        unit = tl.load(index + step * width + position, mask=position < width, other=columns)
        tl.store(kept + step * columns + unit, tl.full((BLOCK,), 1, tl.int8), mask=unit < columns)


def kept_map(keep: Keep, columns: int, arrived: Tensor | None = None) -> Tensor:
    """int8 ``[T, columns]``: 1 where a column takes part; on the way ``arrived`` becomes 0."""
    steps, width = keep.index.shape
    kept = torch.empty(steps, columns, dtype=torch.int8, device=keep.index.device)
    counter = kept if arrived is None else arrived
    counts = {"COUNTER": arrived is not None}
    run(_map, (steps,), keep.index.contiguous(), kept, counter, columns, width, BLOCK=256, **counts)
    return kept


def drop(
    x: Tensor,
    keep: Keep | None,
    batch: int,
    offsets: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    initial: Tensor | None = None,
    reverse: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """x ``[N, K]`` with each step's kept columns scaled and the others zero, whatever stands in them.

    Args:
        keep: by step; None keeps all.
        batch: rows of a step, or the most there are.
        offsets: where steps begin, ``[T + 1]``, if they have different numbers of rows.
        mask: a multiplier ``[T or 1, batch, K]``.
        initial: ``[batch, K]``: take at each step the rows of the step before it in time, and these before
            the first.
        out: may be x, but not with ``initial``.
    """
    if keep is None and mask is None and initial is None:
        return x
    columns = x.shape[1]
    steps = x.shape[0] // batch if offsets is None else offsets.shape[0] - 1
    width = 0 if keep is None else keep.index.shape[1]
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    rows = min(16, triton.next_power_of_2(batch))
    run(
        _drop,
        (steps, -(-batch // rows), -(-columns // _BLOCK)),
        x,
        x if initial is None else initial,
        x if keep is None else keep.index.contiguous(),
        x if mask is None else mask.contiguous(),
        x if offsets is None else offsets,
        out,
        1.0 if keep is None else keep.scale,
        steps,
        batch,
        columns,
        width,
        0 if mask is None or mask.shape[0] == 1 else batch * columns,
        REVERSE=reverse,
        PACKED=offsets is not None,
        PREVIOUS=initial is not None,
        LISTED=keep is not None,
        MASKED=mask is not None,
        DEPTH=width.bit_length(),
        ROWS=rows,
        BLOCK=_BLOCK,
    )
    return out
