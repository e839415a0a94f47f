"""A projection and the cross entropy of its results, in one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from strop.functional.autograd import (
    gradients_by_autograd,
    is_one_of_many,
    may_round,
    transforming,
    without_autocast,
)
from strop.functional.checks import check_input, check_mask, check_operand, keep_of
from strop.functional.linear import linear
from strop.ops import dispatch, products
from strop.ops.products import Keep
from strop.pattern import Mask

# Multiplications from which fusing them with the cross entropy pays where nothing is dropped: below, torch's
# two operators are faster by up to 0.2 ms a call (one thread, 200 to 10,000 classes).
_LEAST_FUSED = 1 << 25


class _LinearCrossEntropy(torch.autograd.Function):
    """The losses of a sequence's rows ``[T, B]``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        smoothing: float,
        keep: Keep | None,
        save: bool,
        bf16: bool,
    ) -> Tensor:
        ctx.backend, ctx.smoothing, ctx.keep, ctx.bf16 = dispatch.cross_entropy(), smoothing, keep, bf16
        loss, saved = ctx.backend.linear_cross_entropy(x, weight, bias, target, smoothing, keep, save, bf16)
        ctx.save_for_backward(x, weight, bias, target, *saved)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, weight, bias, target, *saved = ctx.saved_tensors
        if torch.is_grad_enabled() or is_one_of_many(grad_outputs):
            with without_autocast(x):
                run = partial(_plain, target=target, smoothing=ctx.smoothing, keep=ctx.keep)
                grads = gradients_by_autograd(run, (x, weight, bias), ctx.needs_input_grad[:3], grad_outputs)
            return *grads, None, None, None, None, None
        with torch.no_grad(), without_autocast(x):
            grads = ctx.backend.linear_cross_entropy_grad(
                grad_outputs[0],
                tuple(saved),
                x,
                weight,
                target,
                ctx.smoothing,
                ctx.keep,
                ctx.needs_input_grad[:3],
                ctx.bf16,
            )
        return *grads, None, None, None, None, None


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, keep: Keep | None
) -> tuple[Tensor]:
    """The losses by torch's operations."""
    logits = products.forward(x, weight, bias, keep).flatten(0, 1)
    how: Any = {"ignore_index": -1, "label_smoothing": smoothing, "reduction": "none"}
    return (torch.nn.functional.cross_entropy(logits, target.flatten().long(), **how).view(target.shape),)


def _check_target(target: Tensor, x: Tensor, classes: int, ignore_index: int) -> Tensor:
    """True where a row counts."""
    if target.dtype != torch.int64:
        raise TypeError(f"target must be int64 (classes, not probabilities), got {target.dtype}")
    if target.shape != x.shape[:-1] or target.device != x.device:
        raise ValueError(
            f"target must be {list(x.shape[:-1])} on {x.device}, a class for every row of x, "
            f"got {list(target.shape)} on {target.device}"
        )
    counts = target != ignore_index
    # These cannot look at values, and to look at a GPU's is to wait for it; torch's operator checks them.
    if torch.compiler.is_compiling() or transforming() or target.device.type != "cpu":
        return counts
    wrong = target[counts & ((target < 0) | (target >= classes))]
    if wrong.numel():
        raise IndexError(
            f"target must be in [0, {classes}), or ignore_index={ignore_index} where a row does not count, "
            f"got {wrong[0]}"
        )
    return counts


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Mask | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` of ``linear(x, weight, bias, mask)`` as logits.

    Natively one pass makes a panel of 64 logits and their part in the softmax, while they are in the cache.
    Kept for the backward pass are their exponentials alone, where torch comes to hold four numbers for each:
    the logit, its logarithmic softmax and the gradients of both.

    Args:
        x: ``[steps, batch, in]``; ``[..., in]`` if ``mask`` is None.
        weight: ``[classes, in]``.
        bias: ``[classes]``, or None.
        target: int64, a class for each row of x, in x's shape without the last dimension.
        mask: a mask drawn for x, or None to drop nothing.
        reduction: ``mean``, ``sum`` or ``none``, as ``torch.nn.functional.cross_entropy``. Weights of
            classes and targets that are probabilities are not supported.
        ignore_index: the target of rows that do not count.
        label_smoothing: the share of every target that is spread over all classes, in [0, 1].

    Returns:
        A scalar, or losses in the shape of ``target`` if ``reduction`` is ``none``.

    Raises:
        TypeError, ValueError: a shape, dtype, device or option does not fit.
        IndexError: a target is no class.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be [classes, in], got {list(weight.shape)}")
    if mask is not None:
        check_input(x, 3, "[steps, batch, in]")
        steps, batch, features = x.shape
        check_mask("mask", mask, steps, batch, features, x.device)
    elif x.dim() == 0 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point [..., in], got {x.dtype} {list(x.shape)}")
    counts = _check_target(target, x, weight.shape[0], ignore_index)
    bf16 = may_round(x)
    with without_autocast(x) as autocast:
        if autocast is None or (mask is not None and mask.index is not None):
            x = x if autocast is None else x.to(weight.dtype)
            check_operand("weight", weight, (weight.shape[0], x.shape[-1]), x)
            check_operand("bias", bias, (weight.shape[0],), x)
            if _fuses(x, weight, mask):
                target = target.masked_fill(~counts, -1)
                losses = _fused(x, weight, bias, target, mask, label_smoothing, bf16)
                if reduction == "none":
                    return losses.view(target.shape)
                return losses.sum() if reduction == "sum" else losses.sum() / counts.sum()
    loss = torch.nn.functional.cross_entropy(
        linear(x, weight, bias, mask).view(-1, weight.shape[0]),
        target.reshape(-1),
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return loss.view(target.shape) if reduction == "none" else loss


def _fuses(x: Tensor, weight: Tensor, mask: Mask | None) -> bool:
    """Whether product and cross entropy run as one."""
    if torch.compiler.is_compiling() or transforming() or not x.numel():
        return False
    drops_columns = mask is not None and mask.index is not None
    large = x.numel() * weight.shape[0] >= _LEAST_FUSED
    return (drops_columns or large) and dispatch.select(x) == "native"


def _fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    mask: Mask | None,
    smoothing: float,
    bf16: bool,
) -> Tensor:
    """The loss of every row, 0 where the target is below 0."""
    if mask is not None and mask.index is None:
        x = x * mask.multiplier(x.dtype)
    sequence = x if x.dim() == 3 else x.reshape(1, -1, x.shape[-1])
    target = target.int().view(sequence.shape[:2])
    operands = (x, weight, bias)
    save = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in operands)
    how = float(smoothing), keep_of(mask), save, bf16
    return _LinearCrossEntropy.apply(sequence.contiguous(), weight.contiguous(), bias, target, *how)
