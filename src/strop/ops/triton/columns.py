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
def _drop(
    x,
    initial,
    kept,
    mask,
    offsets,
    out,
    scale,
    steps,
    batch,
    columns,
    mask_stride,
    REVERSE: tl.constexpr,
    PACKED: tl.constexpr,
    PREVIOUS: tl.constexpr,
    LISTED: tl.constexpr,
    MASKED: tl.constexpr,
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
        at_kept = kept + step.to(tl.int64) * columns + column
        taken = tl.load(at_kept, mask=column < columns, other=0) != 0
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


def kept_map(keep: Keep, columns: int) -> Tensor:
    """int8 ``[T, columns]``: 1 where a column takes part."""
    # The padding of ragged lists falls beyond the last column.
    kept = torch.zeros(keep.index.shape[0], columns + 1, dtype=torch.int8, device=keep.index.device)
    return kept.scatter_(1, keep.index.long(), 1)[:, :columns].contiguous()


def drop(
    x: Tensor,
    keep: Keep | None,
    batch: int,
    offsets: Tensor | None = None,
    *,
    kept: Tensor | None = None,
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
        kept: ``kept_map(keep, K)`` if it is known.
        mask: a multiplier ``[T or 1, batch, K]``.
        initial: ``[batch, K]``: take at each step the rows of the step before it in time, and these before
            the first.
        out: may be x, but not with ``initial``.
    """
    if keep is None and mask is None and initial is None:
        return x
    columns = x.shape[1]
    steps = x.shape[0] // batch if offsets is None else offsets.shape[0] - 1
    if keep is not None and kept is None:
        kept = kept_map(keep, columns)
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    rows = min(16, triton.next_power_of_2(batch))
    run(
        _drop,
        (steps, -(-batch // rows), -(-columns // _BLOCK)),
        x,
        x if initial is None else initial,
        x if kept is None else kept,
        x if mask is None else mask.contiguous(),
        x if offsets is None else offsets,
        out,
        1.0 if keep is None else keep.scale,
        steps,
        batch,
        columns,
        0 if mask is None or mask.shape[0] == 1 else batch * columns,
        REVERSE=reverse,
        PACKED=offsets is not None,
        PREVIOUS=initial is not None,
        LISTED=keep is not None,
        MASKED=mask is not None,
        ROWS=rows,
        BLOCK=_BLOCK,
    )
    return out
