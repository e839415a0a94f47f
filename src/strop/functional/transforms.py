"""The operations as ``torch.func`` sees them: differentiable once, mapped one sample after another.

A torch.autograd.Function for ``torch.func`` binds its arguments by their signature at each call, and gives
what it saves as results; so eager code has others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strop.functional import compiled
from strop.functional.autograd import refuse_second_derivative


def _one_by_one(function: Any, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
    """A function's ``vmap``."""
    found = []
    for number in range(info.batch_size):
        given = zip(inputs, in_dims, strict=True)
        found.append(function.apply(*(x if dim is None else x.select(dim, number) for x, dim in given)))
    if isinstance(found[0], Tensor):
        return torch.stack(found), 0
    return tuple(map(torch.stack, zip(*found, strict=True))), (0,) * len(found[0])


class _Backward(torch.autograd.Function):
    """What the backward operators share: no derivative of their own."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0].lower() if isinstance(inputs[0], str) else "linear"

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        refuse_second_derivative(ctx.name)


class _RecurrenceBackward(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return compiled.recurrence_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _one_by_one(_RecurrenceBackward, info, in_dims, *inputs)


class _LinearBackward(_Backward):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return compiled.linear_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _one_by_one(_LinearBackward, info, in_dims, *inputs)


class _Recurrence(torch.autograd.Function):
    setup_context = staticmethod(compiled.save_recurrence)

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return compiled.recurrence_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return compiled.recurrence_gradients(ctx, *grad_outputs, backward=_RecurrenceBackward.apply)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _one_by_one(_Recurrence, info, in_dims, *inputs)


class _Linear(torch.autograd.Function):
    setup_context = staticmethod(compiled.save_linear)

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return compiled.linear_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return compiled.linear_gradients(ctx, *grad_outputs, backward=_LinearBackward.apply)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _one_by_one(_Linear, info, in_dims, *inputs)


recurrence: Callable[..., tuple[Tensor, ...]] = _Recurrence.apply
"""``compiled.recurrence_forward``."""

linear: Callable[..., Tensor] = _Linear.apply
"""``compiled.linear_forward``."""
