"""Structured dropout as functions: where autograd meets the products."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from strop.ops import dispatch
from strop.ops.products import Keep
from strop.pattern import Mask


class _RefuseSecondDerivative(torch.autograd.Function):
    """Passes gradients through, and fails if they are differentiated in turn."""

    @staticmethod
    def forward(ctx: Any, name: str, anchor: Tensor, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.name = name
        return tuple(None if grad is None else grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            f"strop.functional.{ctx.name} cannot be differentiated twice: "
            "use torch.nn for models that need second derivatives (a gradient penalty, a Hessian)"
        )


def _once(name: str, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients that refuse to be differentiated; the name is for the error."""
    if not torch.is_grad_enabled():  # only create_graph=True enables it in a backward pass
        return grads
    anchor = torch.zeros((), requires_grad=True)
    return _RefuseSecondDerivative.apply(name, anchor, *grads)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Suspends autocast; ``as`` gives None if there is none."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _keep(mask: Mask | None) -> Keep | None:
    """What the products need of a mask that the batch shares."""
    return None if mask is None or mask.index is None else Keep(mask.index, mask.count, mask.scale)


def _from_second_step(keep: Keep | None, steps: int, units: int, device: torch.device) -> Keep:
    """``keep`` without the first step's columns, which are zero."""
    if keep is None:
        keep = Keep(torch.arange(units, dtype=torch.int32, device=device).expand(steps, units), None, 1.0)
    index = keep.index.clone(memory_format=torch.contiguous_format)
    count = index.new_full((steps,), index.shape[1]) if keep.count is None else keep.count.clone()
    index[0], count[0] = units, 0
    return Keep(index, count, keep.scale)


def check_mask(
    name: str, mask: Mask | None, steps: int, batch: int, units: int, device: torch.device
) -> None:
    """Refuse a mask that was drawn for other activations than ``[steps, batch, units]`` on ``device``.

    The batch counts only where each of its rows has its own mask.

    Raises:
        TypeError: not a Mask.
        ValueError: another shape or device.
    """
    if mask is None:
        return
    if not isinstance(mask, Mask):
        raise TypeError(f"{name} must be a strop.Mask or None, got {type(mask).__name__}")
    drawn, given = (mask.steps, mask.batch, mask.units), (steps, batch, units)
    if mask.index is not None:
        drawn, given = (mask.steps, mask.units), (steps, units)
    if drawn != given:
        axes = "[steps, units]" if mask.index is not None else "[steps, batch, units]"
        raise ValueError(f"{name} must be drawn for {axes} = {list(given)}, got one drawn for {list(drawn)}")
    if mask.device != device:
        raise ValueError(f"{name} must be on {device}, where the input is, got one on {mask.device}")


def _check_operand(name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor is None:
        return
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device} as the input is, "
            f"got {tensor.dtype} on {tensor.device}"
        )


def _check_input(x: Tensor, dims: str) -> None:
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point {dims}, got {x.dtype} {list(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x must not be empty, got {list(x.shape)} for {dims}")


class _LSTM(torch.autograd.Function):
    """A layer's whole sequence."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        input_keep: Keep | None,
        recurrent_keep: Keep | None,
        recurrent_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, h0, c0, w_ih, w_hh = (tensor.contiguous() for tensor in (x, h0, c0, w_ih, w_hh))
        backend = dispatch.recurrence(x)
        y, c, saved = backend.lstm_forward(
            x, h0, c0, w_ih, w_hh, b_ih, b_hh, input_keep, recurrent_keep, recurrent_mask
        )
        ctx.set_materialize_grads(False)
        ctx.backend, ctx.input_keep, ctx.recurrent_keep = backend, input_keep, recurrent_keep
        ctx.save_for_backward(x, y, h0, c0, w_ih, w_hh, recurrent_mask, *saved)
        # A copy of the last h: as a view of y it would tie the two in autograd.
        return y, y[-1].clone(), c

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        x, y, h0, c0, w_ih, w_hh, recurrent_mask, *saved = ctx.saved_tensors
        need_x, need_h0, need_c0, need_ih, need_hh, need_b_ih, need_b_hh, *_ = ctx.needs_input_grad
        masks = (ctx.input_keep, ctx.recurrent_keep, recurrent_mask)
        dy, dh, dc = (None if grad is None else grad.contiguous() for grad in grad_outputs)
        dx = dh0 = dc0 = dw_ih = dw_hh = db = None
        if dy is not None or dh is not None or dc is not None:
            with torch.no_grad(), _without_autocast(x):
                dgates, dx, dh0, dc0 = ctx.backend.lstm_backward(
                    dy, dh, dc, x, y, h0, c0, w_ih, w_hh, tuple(saved), *masks, need_x
                )
                if need_ih or need_hh or need_b_ih or need_b_hh:
                    dw_ih, dw_hh, db = ctx.backend.lstm_weight_grad(x, y, h0, dgates, *masks)
        grads = (
            dx,
            dh0 if need_h0 else None,
            dc0 if need_c0 else None,
            dw_ih if need_ih else None,
            dw_hh if need_hh else None,
            db if need_b_ih else None,
            db if need_b_hh else None,
        )
        return *_once("lstm", grads), None, None, None


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    input_mask: Mask | None = None,
    recurrent_mask: Mask | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer over a sequence, with dropout on its input and on its hidden state.

    At step t the products see ``x[t]`` dropped by ``input_mask`` and ``h[t-1]`` (h0 included) dropped by
    ``recurrent_mask``. The cell state and the h that is returned are never dropped. Under autocast it
    runs in the weights' dtype.

    Args:
        x: ``[steps, batch, input]``.
        hx: h0 and c0, ``[batch, hidden]`` each, or None for zeros, which spares the first step's products.
        weight_ih, weight_hh, bias_ih, bias_hh: ``[4 * hidden, input]``, ``[4 * hidden, hidden]`` and
            ``[4 * hidden]``, gates in torch's order.
        input_mask, recurrent_mask: masks drawn for ``[steps, batch, input]`` and
            ``[steps, batch, hidden]``, or None to drop nothing.

    Returns:
        y ``[steps, batch, hidden]``, and the last h and c, ``[batch, hidden]`` each.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit.
    """
    _check_input(x, "[steps, batch, input]")
    steps, batch, features = x.shape
    if weight_hh.dim() != 2 or weight_hh.shape[0] != 4 * weight_hh.shape[1] or 0 in weight_hh.shape:
        raise ValueError(f"weight_hh must be [4 * hidden, hidden], got {list(weight_hh.shape)}")
    hidden = weight_hh.shape[1]
    h0, c0 = (x.new_zeros(batch, hidden),) * 2 if hx is None else hx
    with _without_autocast(x) as autocast:
        if autocast is not None:
            x, h0, c0 = (tensor.to(weight_hh.dtype) for tensor in (x, h0, c0))
        _check_operand("h0", h0, (batch, hidden), x)
        _check_operand("c0", c0, (batch, hidden), x)
        _check_operand("weight_ih", weight_ih, (4 * hidden, features), x)
        _check_operand("weight_hh", weight_hh, (4 * hidden, hidden), x)
        _check_operand("bias_ih", bias_ih, (4 * hidden,), x)
        _check_operand("bias_hh", bias_hh, (4 * hidden,), x)
        check_mask("input_mask", input_mask, steps, batch, features, x.device)
        check_mask("recurrent_mask", recurrent_mask, steps, batch, hidden, x.device)
        if input_mask is not None and input_mask.index is None:
            x = x * input_mask.multiplier(x.dtype)
        multiplier = None
        if recurrent_mask is not None and recurrent_mask.index is None:
            multiplier = recurrent_mask.multiplier(x.dtype)
        recurrent_keep = _keep(recurrent_mask)
        if hx is None and multiplier is None:
            recurrent_keep = _from_second_step(recurrent_keep, steps, hidden, x.device)
        y, h, c = _LSTM.apply(
            x,
            h0,
            c0,
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
            _keep(input_mask),
            recurrent_keep,
            multiplier,
        )
    return y, (h, c)


def lstm_layers(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Sequence[Tensor]],
    input_masks: Sequence[Mask | None],
    recurrent_masks: Sequence[Mask | None],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A stack of ``lstm`` layers, with the weights and the masks of each.

    Args:
        x: ``[steps, batch, input]``.
        hx: h0 and c0, ``[layers, batch, hidden]`` each, or None for zeros.

    Returns:
        The last layer's h of every step, and the last h and c of every layer.
    """
    hs, cs = [], []
    for layer, (of_layer, input_mask, recurrent_mask) in enumerate(
        zip(weights, input_masks, recurrent_masks, strict=True)
    ):
        state = None if hx is None else (hx[0][layer], hx[1][layer])
        x, (h, c) = lstm(x, state, *of_layer, input_mask=input_mask, recurrent_mask=recurrent_mask)
        hs.append(h)
        cs.append(c)
    return x, (torch.stack(hs), torch.stack(cs))


def _zeros(x: Tensor, layers: int, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    zeros = x.new_zeros(layers, x.shape[1], weights[1].shape[1])
    return zeros, zeros


def dense_lstm(
    x: Tensor, hx: tuple[Tensor, Tensor] | None, weights: list[Tensor], has_bias: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A stack of LSTM layers with nothing dropped, by the fastest way there is.

    Tracing, exporting and autocast see torch's own operator.

    Args:
        x: ``[steps, batch, input]``.
        hx: h0 and c0, ``[layers, batch, hidden]`` each, or None for zeros.
        weights: of each layer in turn weight_ih, weight_hh and, if ``has_bias``, bias_ih and bias_hh.

    Returns:
        The last layer's h of every step, and the last h and c of every layer.
    """
    each = 4 if has_bias else 2
    layers = len(weights) // each
    autocast = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    if autocast or torch.compiler.is_compiling() or not x.numel() or dispatch.select(x) != "native":
        y, h, c = torch._VF.lstm(
            x, hx or _zeros(x, layers, weights), weights, has_bias, layers, 0.0, False, False, False
        )
        return y, (h, c)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *(hx or ()), *weights))):
        y, h, c = dispatch.recurrence(x).lstm_eval(x, *(hx or _zeros(x, layers, weights)), weights, has_bias)
        return y, (h, c)
    of_layers = [weights[layer * each : (layer + 1) * each] for layer in range(layers)]
    return lstm_layers(x, hx, of_layers, [None] * layers, [None] * layers)


class _Linear(torch.autograd.Function):
    """A product of a whole sequence on kept columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.backend, ctx.keep = dispatch.products(x), keep
        ctx.save_for_backward(x, weight)
        return ctx.backend.forward(x, weight, bias, keep)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        with torch.no_grad(), _without_autocast(x):
            dy = grad_outputs[0].contiguous()
            grads = (
                ctx.backend.input_grad(dy, weight, ctx.keep) if need_x else None,
                ctx.backend.weight_grad(x, dy, ctx.keep) if need_weight else None,
                dy.sum((0, 1)) if need_bias else None,
            )
        return *_once("linear", grads), None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Mask | None = None) -> Tensor:
    """``torch.nn.functional.linear`` on the dropped x. Under autocast it runs in the weight's dtype.

    Args:
        x: ``[steps, batch, in]``; any shape if ``mask`` is None.
        weight, bias: ``[out, in]`` and ``[out]``.
        mask: a mask drawn for x, or None to drop nothing.

    Returns:
        ``[steps, batch, out]``.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit.
    """
    if mask is None:
        return torch.nn.functional.linear(x, weight, bias)
    _check_input(x, "[steps, batch, in]")
    steps, batch, features = x.shape
    check_mask("mask", mask, steps, batch, features, x.device)
    if mask.index is None:
        return torch.nn.functional.linear(x * mask.multiplier(x.dtype), weight, bias)
    if weight.dim() != 2:
        raise ValueError(f"weight must be [out, in], got {list(weight.shape)}")
    with _without_autocast(x) as autocast:
        if autocast is not None:
            x = x.to(weight.dtype)
        _check_operand("weight", weight, (weight.shape[0], features), x)
        _check_operand("bias", bias, (weight.shape[0],), x)
        return _Linear.apply(x, weight, bias, _keep(mask))
