"""Stacks of recurrent layers, in one direction or both, with or without dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from strop.functional.autograd import autocast_dtype, transforming, without_autocast
from strop.functional.recurrence import States, check_batch_sizes, recurrence, times_mask
from strop.ops import dispatch
from strop.ops.cells import CELLS, GRU, Cell
from strop.ops.recurrence import Layer
from strop.pattern import Mask

OPERATORS: dict[str, Any] = {name: getattr(torch._VF, name.lower()) for name in CELLS}
"""torch's, of whole stacks."""

_STEPPERS: dict[str, Any] = {name: getattr(torch, f"{name.lower()}_cell") for name in CELLS}


def stack(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Sequence[Tensor]],
    input_masks: tuple[Mask | None, ...],
    recurrent_masks: tuple[Mask | None, ...],
    *,
    bidirectional: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, States]:
    """A stack of layers, with the weights and the masks of each direction of each layer in turn.

    Args:
        x: ``[steps, batch, input]``, or the rows of a packed sequence ``[rows, input]``.
        states: h0, and c0 if the cell has one, ``[layers * directions, batch, hidden]``, or None for zeros.
        weights: weight_ih, weight_hh and, where there are biases, bias_ih and bias_hh; weight_hr comes last.

    Returns:
        The last layer's h of every step, directions side by side, and the last states as ``states``.
    """
    directions = 2 if bidirectional else 1
    lasts: list[States] = []
    for first in range(0, len(weights), directions):
        here = slice(first, first + directions)
        own = None if states is None else tuple(state[here] for state in states)
        layer = cell, x, own, weights[here], input_masks[here], recurrent_masks[here]
        done = _one_step(*layer) if batch_sizes is None and len(x) == 1 else None
        if done is not None:
            x, last = done
            lasts += last
            continue
        if not any(recurrent_masks[here]) and input_masks[here].count(input_masks[first]) == directions:
            done = _by_cudnn(cell, x, own, weights[here], input_masks[first], batch_sizes)
            if done is not None:
                x, last = done
                lasts += zip(*last, strict=True)
                continue
        x, last = _layer(*layer, batch_sizes=batch_sizes)
        lasts += last
    return x, tuple(torch.stack(each) for each in zip(*lasts, strict=True))


def _layer(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Sequence[Tensor]],
    input_masks: Sequence[Mask | None],
    recurrent_masks: Sequence[Mask | None],
    *,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, list[States]]:
    """The directions of a layer: h of every step side by side, and the last states of each."""
    ys, lasts = [], []
    for number, (ih, hh, *biases) in enumerate(weights):
        own = None if states is None else tuple(state[number] for state in states)
        masks = input_masks[number], recurrent_masks[number]
        hr = biases.pop() if len(biases) % 2 else None
        b_ih, b_hh = biases or (None, None)
        how = {"reverse": number > 0, "batch_sizes": batch_sizes}
        y, last = recurrence(cell, x, own, (ih, hh, b_ih, b_hh, hr), *masks, **how)
        ys.append(y)
        lasts.append(last)
    return ys[0] if len(ys) == 1 else torch.cat(ys, -1), lasts


# Multiplications of a step up to which calling the kernels and their backward pass takes longer than they do.
_SMALL = 1 << 18


def _one_step(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Sequence[Tensor]],
    input_masks: Sequence[Mask | None],
    recurrent_masks: Sequence[Mask | None],
) -> tuple[Tensor, list[States]] | None:
    """``_layer`` of the only step of a plain sequence, where that is for torch's cells; None elsewhere."""
    ih, hh = weights[0][:2]
    if (
        (not x.is_cpu or x.dtype is not ih.dtype or len(weights[0]) % 2 == 1)
        or x.shape[1] * (ih.numel() + hh.numel()) > _SMALL
        # A GRU's update gate keeps some of the state that no mask has touched.
        or (cell is GRU and states is not None and any(recurrent_masks))
        or (torch.compiler.is_compiling() or transforming() or autocast_dtype(x) is not None)
        or not dispatch.may_leave_kernels()
    ):
        return None
    ys, lasts = [], []
    for number, own in enumerate(weights):
        mask, recurrent_mask = input_masks[number], recurrent_masks[number]
        step = (x if mask is None else times_mask(x, mask, Layer(cell)))[0]
        if states is None:
            h, *c = (state[0] for state in _zeros(cell, x, x.shape[1], own, len(own)))
        else:
            h, *c = (state[number] for state in states)
            if recurrent_mask is not None:
                h = times_mask(h.unsqueeze(0), recurrent_mask, Layer(cell))[0]
        last = _STEPPERS[cell.name](step, (h, *c) if c else h, *own)
        lasts.append(last if c else (last,))
        ys.append(lasts[-1][0])
    y = ys[0] if len(ys) == 1 else torch.cat(ys, -1)
    return y.unsqueeze(0), lasts


def _by_cudnn(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Sequence[Tensor]],
    input_mask: Mask | None,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, States] | None:
    """A layer that drops at most its input, where that is for cuDNN to run; None elsewhere.

    Products over all steps run on tensor cores, to which single columns bring nothing (docs/performance.md):
    so cuDNN is to run it where nothing says otherwise, and a GPU does by measurement.
    """
    if torch.compiler.is_compiling() or dispatch.select(x) != "triton":
        return None
    directions, each = len(weights), len(weights[0])

    def cudnn(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, States]:
        if input_mask is not None:
            x = times_mask(x, input_mask, Layer(cell, batch_sizes=batch_sizes))
        return _torch_stack(cell, x, states, flat, each, directions == 2, batch_sizes)

    def triton(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        masks = (input_mask,) * directions, (None,) * directions
        return _layer(cell, x, states, _split(flat, each), *masks, batch_sizes=batch_sizes)

    flat = [tensor for each in weights for tensor in each]
    ways = {"cudnn": cudnn, "triton": triton}
    return cudnn(x, flat) if _fastest(ways, cell, x, flat, input_mask, batch_sizes) == "cudnn" else None


def _fastest(
    ways: dict[str, Callable[..., tuple[Tensor, Any]]],
    cell: Cell,
    x: Tensor,
    flat: Sequence[Tensor],
    mask: Mask | None,
    batch_sizes: Tensor | None,
) -> str:
    """The one whose forward and backward pass of a layer take least on this GPU."""
    if x.device.type == "cpu" or transforming() or torch.is_inference_mode_enabled():
        return "cudnn"
    from strop.ops.triton import choice

    leaves = [tensor.detach().requires_grad_() for tensor in (x, *flat)]

    def passes(way: str) -> Any:
        with torch.enable_grad():
            y, _ = ways[way](leaves[0], leaves[1:])
            return torch.autograd.grad(y, leaves, torch.ones_like(y))

    batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
    drops = "nothing" if mask is None else f"{mask.scale:.3g}x"
    sizes = (x.shape[-1], flat[1].shape[1], len(flat), batch)
    precisions = (autocast_dtype(x), x.dtype, torch.backends.cuda.matmul.fp32_precision)
    what = (
        f"{cell.name} of {sizes[0]} to {sizes[1]} units, batch {batch}, "
        f"{str(x.dtype).removeprefix('torch.')}, nothing dropped of its state"
    )
    key = (cell.name, *sizes, drops, mask is not None and mask.index is not None, batch_sizes is None)
    bound = {way: partial(passes, way) for way in ways}
    return choice.fastest((*key, *precisions, x.device), what, bound, x.device, "cudnn")


def _split(flat: Sequence[Tensor], each: int) -> list[Sequence[Tensor]]:
    return [flat[first : first + each] for first in range(0, len(flat), each)]


def _zeros(cell: Cell, x: Tensor, batch: Any, flat: Sequence[Tensor], each: int) -> States:
    gates, units = flat[1].shape  # weight_hh, whose columns are fewer than the units if they are projected
    h = x.new_zeros(len(flat) // each, batch, units)
    return (h, x.new_zeros(len(flat) // each, batch, gates // cell.gates)) if cell.has_c else (h,)


# On a CPU, the steps from which the native kernels are faster than torch's operator: without gradients, with
# them in evaluation (where a backward pass is rare), and with a backward pass. Their calls cost more, their
# steps less. Measured on one thread, at 16 to 650 units and 1 to 32 rows.
_STEPS = {"LSTM": (0, 0, 0), "GRU": (0, 8, 4), "RNN_TANH": (3, 24, 12), "RNN_RELU": (3, 24, 12)}
_PACKED_STEPS = {"LSTM": (16, 10, 4), "GRU": (16, 10, 4), "RNN_TANH": (50, 24, 12), "RNN_RELU": (50, 24, 12)}
# oneDNN's LSTM, which torch takes for float32, has no cost per step either: the units up to which it is
# faster where there are gradients, for few rows and for more.
_LSTM_FEW_ROWS, _LSTM_MORE_ROWS = 256, 90
_FEW_ROWS = 4  # below, the kernels of training spend their time on packing the weights
_MANY_ROWS = 32  # above, the kernels are ahead: 1.8 times at 64 units, 256 rows and 200 steps


def operator_is_faster(
    cell: Cell, steps: int, batch: int, hidden: int, packed: bool, needs_grad: bool, training: bool
) -> bool:
    """Whether torch's operator is faster than the native kernels on a CPU."""
    if batch > _MANY_ROWS:
        return False
    case = 0 if not needs_grad else 2 if training else 1
    if packed:
        least = _PACKED_STEPS[cell.name][case]
    elif cell.has_c and needs_grad:
        return hidden <= (_LSTM_FEW_ROWS if batch < _FEW_ROWS else _LSTM_MORE_ROWS)
    else:
        least = _STEPS[cell.name][case]
    return steps < (2 * least if batch < _FEW_ROWS and needs_grad else least)


def dense_stack(
    cell: Cell,
    x: Tensor,
    states: States | None,
    flat: Sequence[Tensor],
    each: int,
    *,
    bidirectional: bool = False,
    batch_sizes: Tensor | None = None,
    training: bool = True,
) -> tuple[Tensor, States]:
    """``stack`` with nothing dropped, by the fastest way there is; each direction has ``each`` weights.

    Exporting, tracing, ``torch.func``, autocast, projections and evaluation under ``torch.compile`` see
    torch's own operator, and so do calls so small that it is faster. Where autocast on a CPU would make it
    fail, it runs in the weights' dtype.
    """
    autocast, dtype = autocast_dtype(x), flat[0].dtype
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (*flat, x, *(states or ())))
    compiling = torch.compiler.is_compiling()
    how: Any = {"bidirectional": bidirectional, "training": training}
    # On a CPU, as of torch 2.13: torch.compile cannot differentiate the operator, oneDNN has no float64 and,
    # for most CPUs, no float16; where it is not asked, float16 rounds the state of every step.
    fails = (compiling and needs_grad) or dtype is not torch.float32 or autocast is not torch.bfloat16
    if autocast is not None and x.is_cpu and fails:
        states = None if states is None else tuple(state.to(dtype) for state in states)
        with without_autocast(x):
            return dense_stack(cell, x.to(dtype), states, flat, each, batch_sizes=batch_sizes, **how)
    traced = (
        (compiling and not needs_grad)
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or transforming()
    )
    if autocast is not None or traced or each % 2 == 1 or not x.numel() or dispatch.select(x) != "native":
        return _torch_stack(cell, x, states, flat, each, bidirectional, batch_sizes)
    if batch_sizes is None:
        steps, batch = x.shape[:2]
    else:
        sizes = check_batch_sizes(batch_sizes, x.shape[0])
        steps, batch = len(sizes), sizes[0]
        if x.shape[0] == steps * batch:  # a plain sequence after all
            y, last = dense_stack(cell, x.view(steps, batch, -1), states, flat, each, **how)
            return y.flatten(0, 1), last
    packed = batch_sizes is not None
    if (
        not compiling
        and operator_is_faster(cell, steps, batch, flat[1].shape[1], packed, needs_grad, training)
        and dispatch.may_leave_kernels()
    ):
        return _torch_stack(cell, x, states, flat, each, bidirectional, batch_sizes)
    if batch_sizes is None and not needs_grad:
        h, c = (*(states or _zeros(cell, x, batch, flat, each)), None)[:2]
        y, h, c = dispatch.recurrence(x).evaluate(cell, x, h, c, flat, each == 4, bidirectional)
        return y, (h,) if c is None else (h, c)
    weights = _split(flat, each)
    nothing = (None,) * len(weights)
    return stack(
        cell, x, states, weights, nothing, nothing, bidirectional=bidirectional, batch_sizes=batch_sizes
    )


def _torch_stack(
    cell: Cell,
    x: Tensor,
    states: States | None,
    flat: Sequence[Tensor],
    each: int,
    bidirectional: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, States]:
    operator = OPERATORS[cell.name]
    if states is None:
        batch = x.shape[1] if batch_sizes is None else batch_sizes[0]  # a tensor, which tracing follows
        states = _zeros(cell, x, batch, flat, each)
    hx = states if cell.has_c else states[0]
    layers = len(flat) // each // (2 if bidirectional else 1)
    how = (flat, each >= 4, layers, 0.0, False, bidirectional)
    if batch_sizes is None:
        y, *last = operator(x, hx, *how, False)
    else:
        y, *last = operator(x, batch_sizes, hx, *how)
    return y, tuple(last)
