"""A product on kept columns, with its derivative."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from strop.functional import compiled, routes, transforms
from strop.functional.autograd import (
    autocast_dtype,
    autocast_to,
    cast,
    gradients_by_autograd,
    is_one_of_many,
    may_round,
    transforming,
    without_autocast,
)
from strop.functional.checks import check_input, check_mask, check_operand
from strop.functional.linear_costs import Sizes
from strop.ops import dispatch, products
from strop.ops.products import Keep
from strop.pattern import Mask


class _Linear(torch.autograd.Function):
    """A product of a whole sequence on kept columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep, bf16: bool) -> Tensor:
        ctx.backend, ctx.keep, ctx.bf16 = dispatch.products(x), keep, bf16
        ctx.save_for_backward(x, weight, bias)
        return ctx.backend.forward(x, weight, bias, keep, bf16)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or is_one_of_many(grad_outputs):
            with without_autocast(x):
                run = partial(_plain, keep=ctx.keep)
                grads = gradients_by_autograd(run, (x, weight, bias), ctx.needs_input_grad[:3], grad_outputs)
            return *grads, None, None
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        with torch.no_grad(), without_autocast(x):
            dy = grad_outputs[0].contiguous()
            return (
                ctx.backend.input_grad(dy, weight, ctx.keep, ctx.bf16) if need_x else None,
                ctx.backend.weight_grad(x, dy, ctx.keep, ctx.bf16) if need_weight else None,
                dy.sum((0, 1)) if need_bias else None,
                None,
                None,
            )


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep) -> tuple[Tensor]:
    """The product by torch's operations."""
    return (products.forward(x, weight, bias, keep),)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Mask | None = None) -> Tensor:
    """``torch.nn.functional.linear`` on the dropped x.

    Under autocast it runs in the weight's dtype where the mask drops columns on a CPU, its operands rounded
    to bfloat16 if that is asked for and faster, and as torch's elsewhere.

    Args:
        x: ``[steps, batch, in]``; any shape if ``mask`` is None.
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
        mask: a mask drawn for x, or None to drop nothing.

    Returns:
        ``[steps, batch, out]``.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit.
    """
    if mask is None:
        return torch.nn.functional.linear(x, weight, bias)
    check_input(x, 3, "[steps, batch, in]")
    steps, batch, features = x.shape
    check_mask("mask", mask, steps, batch, features, x.device)
    if mask.index is None:
        return torch.nn.functional.linear(x * mask.multiplier(x.dtype), weight, bias)
    if weight.dim() != 2:
        raise ValueError(f"weight must be [out, in], got {list(weight.shape)}")
    bf16, dtype = may_round(x), autocast_to(x, weight)
    with without_autocast(x):
        x, weight, bias = cast(dtype, x, weight, bias)
        check_operand("weight", weight, (weight.shape[0], features), x)
        check_operand("bias", bias, (weight.shape[0],), x)
        keep = Keep(mask.index, mask.count, mask.scale)
        if x.is_complex():  # there are no kernels
            return _plain(x, weight, bias, keep)[0]
        if torch.compiler.is_compiling():
            return compiled.linear_forward(x, weight, bias, *keep, bf16)
        if transforming():
            return transforms.linear(x, weight, bias, *keep, bf16)
        return by_kernels(x, weight, bias, keep, bf16)


def linear_by_rule(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None) -> Tensor:
    """``linear``, by torch's product on a masked input where the rule says that this is faster."""
    if mask is not None and mask.index is not None and _operator_is_faster(x, weight, mask):
        steps, batch, features = x.shape
        check_mask("mask", mask, steps, batch, features, x.device)
        check_operand("weight", weight, (weight.shape[0], features), x)
        check_operand("bias", bias, (weight.shape[0],), x)
        return by_operator(x, weight, bias, mask)
    return linear(x, weight, bias, mask)


def _operator_is_faster(x: Tensor, weight: Tensor, mask: Mask) -> bool:
    if (
        (not x.is_cpu or x.dtype is not torch.float32 or x.dim() != 3 or not x.numel())
        or (torch.compiler.is_compiling() or transforming() or autocast_dtype(x) is not None)
        or (not dispatch.may_leave_kernels() or dispatch.select(x) != "native")
    ):
        return False
    steps, batch, features = x.shape
    return routes.linear(Sizes(features, len(weight), steps, batch, 1 / mask.scale)) == "operator"


def by_kernels(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep, bf16: bool = False) -> Tensor:
    """The product on the columns that are kept."""
    return _Linear.apply(x.contiguous(), weight.contiguous(), bias, keep, bf16)


def by_operator(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask) -> Tensor:
    """torch's product on all columns, of an input times the mask.

    What is dropped is zero whatever it was, as where it is never read.
    """
    return torch.nn.functional.linear(torch.where(mask.kept(), x, 0) * mask.scale, weight, bias)
