"""FP and BP over all steps on kept columns alone: for where tensor cores do not do the arithmetic."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from strop.ops.products import Keep
from strop.ops.triton import launch
from strop.ops.triton.columns import pack
from strop.ops.triton.launch import run
from strop.ops.triton.steps import span

_OUTPUTS, _CHUNK, _KEPT = 64, 32, 32


@triton.jit
def _forward(
    x, weights, bias, index, count, offsets, y, scale, steps, batch, columns, outputs, width,
    PACKED: tl.constexpr, COUNTED: tl.constexpr, BIASED: tl.constexpr,
    U: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of U outputs and ROWS rows; steps run side by side, and share a panel of weights in L2."""
    step, panel = tl.program_id(0), tl.program_id(1)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    output = panel * U + tl.arange(0, U)
    start, rows = span(step, steps, batch, offsets, PACKED)
    live = (row < rows)[:, None]
    at_row = (start + row).to(tl.int64)[:, None]
    length = tl.cdiv(outputs, U) * U
    kept = width
    if COUNTED:
        kept = tl.load(count + step)
    total = tl.zeros((ROWS, U), dtype=tl.float32)
    for at in range(0, kept, CHUNK):
        position = at + tl.arange(0, CHUNK)
        inside = position < kept
        k = tl.load(index + step.to(tl.int64) * width + position, mask=inside, other=0)
        of_x = tl.load(x + at_row * columns + k[None, :], mask=live & inside[None, :], other=0.0)
        at_w = weights + k.to(tl.int64)[:, None] * length + output[None, :]
        total = tl.dot(of_x, tl.load(at_w, mask=inside[:, None], other=0.0), total, input_precision=PRECISION)
    total *= scale
    if BIASED:
        total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    tl.store(y + at_row * outputs + output[None, :], total, mask=live & (output < outputs)[None, :])


@triton.jit
def _input_grad(
    dy, weights, index, count, offsets, dx, scale, steps, batch, columns, outputs, width,
    PACKED: tl.constexpr, COUNTED: tl.constexpr,
    U: tl.constexpr, ROWS: tl.constexpr, KEPT: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of KEPT kept columns and ROWS rows; the other columns are zero already."""
    step = tl.program_id(0)
    position = tl.program_id(1) * KEPT + tl.arange(0, KEPT)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    start, rows = span(step, steps, batch, offsets, PACKED)
    live = (row < rows)[:, None]
    at_row = (start + row).to(tl.int64)[:, None]
    length = tl.cdiv(outputs, U) * U
    kept = width
    if COUNTED:
        kept = tl.load(count + step)
    inside = position < kept
    k = tl.load(index + step.to(tl.int64) * width + position, mask=inside, other=0)
    total = tl.zeros((ROWS, KEPT), dtype=tl.float32)
    for at in range(0, outputs, CHUNK):
        output = at + tl.arange(0, CHUNK)
        real = (output < outputs)[None, :]
        of_y = tl.load(dy + at_row * outputs + output[None, :], mask=live & real, other=0.0)
        at_w = weights + k.to(tl.int64)[:, None] * length + output[None, :]
        w = tl.load(at_w, mask=inside[:, None] & real, other=0.0)
        total = tl.dot(of_y, tl.trans(w), total, input_precision=PRECISION)
    tl.store(dx + at_row * columns + k[None, :], total * scale, mask=live & inside[None, :])


def pays(x: Tensor, batch: int, columns: int, keep: Keep | None) -> bool:
    """Whether skipping is predicted to beat a dense product on dropped operands (docs/performance.md).

    Tensor cores do the dense product in less time than it takes to read every step's weights from L2 again.
    Without them (float32, no tf32) a product waits for its multiply-adds, and fewer of them are faster, if
    enough are left out to make up for packing the weights and for what cuBLAS is better at, and tiles are not
    padded.
    """
    if keep is None or launch.precision(x.dtype) != "ieee":
        return False
    return batch >= 16 and keep.index.shape[1] <= 0.6 * columns


def _rows(batch: int) -> int:
    return min(64, max(16, triton.next_power_of_2(batch)))


def _lists(keep: Keep) -> tuple[Tensor, Tensor]:
    index = keep.index.contiguous()
    return index, index if keep.count is None else keep.count.contiguous()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep, batch: int, offsets: Tensor | None
) -> Tensor:
    """FP on rows ``x`` ``[N, K]``: see ``columns.drop`` for the others."""
    weights, (index, count), x = pack(weight, 1, _OUTPUTS), _lists(keep), x.contiguous()
    steps, outputs, rows = index.shape[0], weight.shape[0], _rows(batch)
    y = x.new_empty(x.shape[0], outputs)
    run(
        _forward,
        (steps, weights.shape[1], -(-batch // rows)),
        *(x, weights, x if bias is None else bias, index, count, index if offsets is None else offsets, y),
        *(float(keep.scale), steps, batch, x.shape[1], outputs, index.shape[1]),
        PACKED=offsets is not None,
        COUNTED=keep.count is not None,
        BIASED=bias is not None,
        U=_OUTPUTS,
        ROWS=rows,
        CHUNK=_CHUNK,
        PRECISION=launch.precision(x.dtype),
        warps=8 if rows == 64 else 4,
    )
    return y


def input_grad(dy: Tensor, weight: Tensor, keep: Keep, batch: int, offsets: Tensor | None) -> Tensor:
    """BP on rows ``dy`` ``[N, outputs]``."""
    weights, (index, count), dy = pack(weight, 1, _OUTPUTS), _lists(keep), dy.contiguous()
    steps, (outputs, columns), rows = index.shape[0], weight.shape, _rows(batch)
    dx = torch.zeros(dy.shape[0], columns, dtype=dy.dtype, device=dy.device)
    run(
        _input_grad,
        (steps, -(-index.shape[1] // _KEPT), -(-batch // rows)),
        *(dy, weights, index, count, index if offsets is None else offsets, dx),
        *(float(keep.scale), steps, batch, columns, outputs, index.shape[1]),
        PACKED=offsets is not None,
        COUNTED=keep.count is not None,
        U=_OUTPUTS,
        ROWS=rows,
        KEPT=_KEPT,
        CHUNK=_CHUNK,
        PRECISION=launch.precision(dy.dtype),
        warps=8 if rows == 64 else 4,
    )
    return dx
