"""The operations as ``torch.compile`` sees them: opaque, with shapes for tracing and derivatives.

Eager code calls the backends through ``torch.autograd.Function``, at a tenth of the overhead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from strop.ops import dispatch
from strop.ops.cells import CELLS
from strop.ops.products import Keep
from strop.ops.recurrence import Layer

_Maybe = Tensor | None


def _keep(index: _Maybe, count: _Maybe, scale: float) -> Keep | None:
    return None if index is None else Keep(index, count, scale)


_SAVED = 3  # tensors that any backend saves for BP, at most


def _saved_like(layer: Layer, x: Tensor, hidden_size: int, projected: bool) -> tuple[Tensor, ...]:
    backend = dispatch.recurrence(x, projected)
    return backend.saved_like(layer, x, hidden_size, *((True,) if projected else ()))


def layout(device: str, dtype: torch.dtype, projected: bool) -> str:
    """How the backend of such operands lays out what it saves, and the CPU's instruction set.

    The compiler's caches outlive a process and go by what stands in a graph: without this the code that was
    made for one backend, release or instruction set would be taken for another. With torch 2.13 code made for
    vectors of 8 floats, compiled again with AVX-512 on, writes beyond the ends of tensors.
    """
    saved = _saved_like(Layer(CELLS["LSTM"]), torch.empty(2, 3, 1, device=device, dtype=dtype), 5, projected)
    made_for = torch.backends.cpu.get_cpu_capability()
    return " ".join((*(f"{list(each.shape)} {each.dtype}" for each in saved), made_for))


# For traced code to call it as it is: assume_constant_result, without the seconds to import torch._dynamo.
layout._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def projection(w_hr: _Maybe) -> tuple[Tensor, ...]:
    """The last argument of a backend's functions, where there is one."""
    return () if w_hr is None else (w_hr.contiguous(),)


def _or_empty(like: Tensor, tensor: _Maybe) -> Tensor:
    """An operator cannot return None."""
    return like.new_empty(0) if tensor is None else tensor


@custom_op("strop_compiled::recurrence_forward", mutates_args=())
def recurrence_forward(
    cell: str,
    reverse: bool,
    bf16: bool,
    layout: str,
    batch_sizes: _Maybe,
    x: Tensor,
    h0: Tensor,
    c0: _Maybe,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: _Maybe,
    b_hh: _Maybe,
    w_hr: _Maybe,
    input_index: _Maybe,
    input_count: _Maybe,
    input_scale: float,
    recurrent_index: _Maybe,
    recurrent_count: _Maybe,
    recurrent_scale: float,
    recurrent_mask: _Maybe,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """FP of one layer: y, the last h and c, and what is saved for BP; what there is not is empty.

    ``layout`` is there to be read in the graph.
    """
    layer = Layer(CELLS[cell], reverse, batch_sizes, bf16)
    y, h, c, saved = dispatch.recurrence(x, w_hr is not None).forward(
        layer,
        *(x.contiguous(), h0.contiguous(), None if c0 is None else c0.contiguous()),
        *(w_ih.contiguous(), w_hh.contiguous(), b_ih, b_hh),
        _keep(input_index, input_count, input_scale),
        _keep(recurrent_index, recurrent_count, recurrent_scale),
        recurrent_mask,
        *projection(w_hr),
    )
    empties = tuple(x.new_empty(0) for _ in range(_SAVED - len(saved)))
    return y, h, _or_empty(x, c), *saved, *empties  # pyright: ignore[reportReturnType]


@recurrence_forward.register_fake
def _(
    cell: str,
    reverse: bool,
    bf16: bool,
    layout: str,
    batch_sizes: _Maybe,
    x: Tensor,
    h0: Tensor,
    c0: _Maybe,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: _Maybe,
    b_hh: _Maybe,
    w_hr: _Maybe,
    *_: Any,
) -> tuple[Tensor, ...]:
    layer = Layer(CELLS[cell], reverse, batch_sizes, bf16)
    y, state = x.new_empty(*x.shape[:-1], h0.shape[1]), torch.empty_like(h0)
    saved = _saved_like(layer, x, h0.shape[1] if w_hr is None else w_hr.shape[1], w_hr is not None)
    empties = tuple(x.new_empty(0) for _ in range(_SAVED - len(saved)))
    return y, state, x.new_empty(0) if c0 is None else torch.empty_like(c0), *saved, *empties


@custom_op("strop_compiled::recurrence_backward", mutates_args=())
def recurrence_backward(
    cell: str,
    reverse: bool,
    bf16: bool,
    batch_sizes: _Maybe,
    dy: Tensor,
    dh: Tensor,
    dc: _Maybe,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: _Maybe,
    w_ih: Tensor,
    w_hh: Tensor,
    w_hr: _Maybe,
    first: Tensor,
    second: Tensor,
    third: Tensor,
    input_index: _Maybe,
    input_count: _Maybe,
    input_scale: float,
    recurrent_index: _Maybe,
    recurrent_count: _Maybe,
    recurrent_scale: float,
    recurrent_mask: _Maybe,
    need_dx: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """BP and WG of one layer: gradients of x, h0, c0, weights and biases; unneeded ones are empty."""
    layer, backend = Layer(CELLS[cell], reverse, batch_sizes, bf16), dispatch.recurrence(x, w_hr is not None)
    masks = (
        _keep(input_index, input_count, input_scale),
        _keep(recurrent_index, recurrent_count, recurrent_scale),
        recurrent_mask,
    )
    x, h0, w_ih, w_hh = (tensor.contiguous() for tensor in (x, h0, w_ih, w_hh))
    c0 = None if c0 is None else c0.contiguous()
    saved = tuple(each for each in (first, second, third) if each.numel())
    dc = None if dc is None else dc.contiguous()
    dgates, dx, dh0, dc0 = backend.backward(
        *(layer, dy.contiguous(), dh.contiguous(), dc, x, y, h0, c0, w_ih, w_hh, saved, *masks, need_dx),
        *projection(w_hr),
    )
    grads: tuple[Tensor, ...] = tuple(x.new_empty(0) for _ in range(5))
    if need_weights:
        dw_ih, dw_hh, db_ih, db_hh, *dw_hr = backend.weight_grad(layer, x, y, h0, dgates, *masks)
        grads = (dw_ih, dw_hh, db_ih, db_hh, *(dw_hr or (x.new_empty(0),)))
    return _or_empty(x, dx), dh0, _or_empty(x, dc0), *grads  # pyright: ignore[reportReturnType]


@recurrence_backward.register_fake
def _(
    cell: str,
    reverse: bool,
    bf16: bool,
    batch_sizes: _Maybe,
    dy: Tensor,
    dh: Tensor,
    dc: _Maybe,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: _Maybe,
    w_ih: Tensor,
    w_hh: Tensor,
    w_hr: _Maybe,
    *rest: Any,
) -> tuple[Tensor, ...]:
    *_, need_dx, need_weights = rest
    of_projection = (0,) if w_hr is None else (*w_hr.shape,)
    sizes = ((*w_ih.shape,), (*w_hh.shape,), (len(w_ih),), (len(w_ih),), of_projection)
    return (
        x.new_empty(x.shape if need_dx else 0),
        h0.new_empty(h0.shape),
        x.new_empty(0) if c0 is None else c0.new_empty(c0.shape),
        *(x.new_empty(size if need_weights else 0) for size in sizes),
    )


def save_recurrence(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """``setup_context`` of ``recurrence_forward``."""
    cell, reverse, bf16, _, batch_sizes, x, h0, c0, w_ih, w_hh, _, _, w_hr, *masks = inputs
    y, _, _, *saved = output
    (ctx.input_scale, ctx.recurrent_scale), ctx.what = (masks[2], masks[5]), (cell, reverse, bf16)
    lists = (masks[0], masks[1], masks[3], masks[4], masks[6])
    ctx.save_for_backward(batch_sizes, x, y, h0, c0, w_ih, w_hh, w_hr, *saved, *lists)


def recurrence_gradients(
    ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor, *_: Any, backward: Any = recurrence_backward
) -> tuple[_Maybe, ...]:
    """``backward`` of ``recurrence_forward``, by an operator like ``recurrence_backward``."""
    batch_sizes, x, y, h0, c0, w_ih, w_hh, w_hr, *rest = ctx.saved_tensors
    saved, lists = rest[:_SAVED], rest[_SAVED:]
    _, _, _, _, _, need_x, need_h0, need_c0, *of_weights = ctx.needs_input_grad[:13]
    index, count, recurrent_index, recurrent_count, recurrent_mask = lists
    upstream = (dy, dh, None if c0 is None else dc)
    masks = (index, count, ctx.input_scale, recurrent_index, recurrent_count, ctx.recurrent_scale)
    grads = backward(
        *(*ctx.what, batch_sizes, *upstream, x, y, h0, c0, w_ih, w_hh, w_hr, *saved),
        *(*masks, recurrent_mask, need_x, any(of_weights)),
    )
    needs = (need_x, need_h0, need_c0, *of_weights)
    wanted = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    return None, None, None, None, None, *wanted, *([None] * 7)


recurrence_forward.register_autograd(recurrence_gradients, setup_context=save_recurrence)


@custom_op("strop_compiled::linear_forward", mutates_args=())
def linear_forward(
    x: Tensor, weight: Tensor, bias: _Maybe, index: Tensor, count: _Maybe, scale: float, bf16: bool
) -> Tensor:
    """FP of a product on kept columns."""
    keep = Keep(index, count, scale)
    return dispatch.products(x).forward(x.contiguous(), weight.contiguous(), bias, keep, bf16)


@linear_forward.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[0])


@custom_op("strop_compiled::linear_backward", mutates_args=())
def linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    count: _Maybe,
    scale: float,
    bf16: bool,
    need_dx: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """BP and WG of it: gradients of x and of the weight, empty if unneeded."""
    keep, backend = Keep(index, count, scale), dispatch.products(x)
    dy, x, weight = dy.contiguous(), x.contiguous(), weight.contiguous()
    dx = backend.input_grad(dy, weight, keep, bf16) if need_dx else x.new_empty(0)
    return dx, backend.weight_grad(x, dy, keep, bf16) if need_weight else x.new_empty(0)


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, need_dx, need_weight = rest
    return x.new_empty(x.shape if need_dx else 0), x.new_empty(weight.shape if need_weight else 0)


def save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """``setup_context`` of ``linear_forward``."""
    x, weight, _, index, count, ctx.scale, ctx.bf16 = inputs
    ctx.save_for_backward(x, weight, index, count)


def linear_gradients(ctx: Any, dy: Tensor, *, backward: Any = linear_backward) -> tuple[_Maybe, ...]:
    """``backward`` of ``linear_forward``, by an operator like ``linear_backward``."""
    x, weight, index, count = ctx.saved_tensors
    need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
    dx, dw = backward(dy, x, weight, index, count, ctx.scale, ctx.bf16, need_x, need_weight)
    db = dy.sum((0, 1)) if need_bias else None
    return dx if need_x else None, dw if need_weight else None, db, None, None, None, None


linear_forward.register_autograd(linear_gradients, setup_context=save_linear)
