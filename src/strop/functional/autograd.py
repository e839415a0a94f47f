"""What every operation with a derivative of its own needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from strop.ops import dispatch


def refuse_second_derivative(name: str) -> NoReturn:
    raise RuntimeError(
        f"strop.functional.{name} cannot be differentiated twice: "
        "use torch.nn for models that need second derivatives (a gradient penalty, a Hessian)"
    )


def is_one_of_many(grads: Sequence[Tensor | None]) -> bool:
    """Whether gradients stand for many, as ``torch.autograd.grad(is_grads_batched=True)`` makes them."""
    return any(grad is not None and is_legacy_batchedtensor(grad) for grad in grads)


def gradients_by_autograd(
    run: Callable[..., Sequence[Tensor | None]],
    operands: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of ``run(*operands)`` by autograd: differentiable in turn, and of many ``grads`` at once.

    Kernels give numbers. Where a backward pass needs more, plain PyTorch does the work of both passes again.

    Args:
        run: operations of torch's.
        needed: whether each operand's gradient is wanted.
        grads: of the results, None for zero.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: an operand that is given twice, such as tied biases, has a gradient in each place.
        aliases = [None if operand is None else operand.view_as(operand) for operand in operands]
        results = [
            (y, dy) for y, dy in zip(run(*aliases), grads, strict=False) if y is not None and dy is not None
        ]
        wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need and alias is not None]
        found: Iterator[Tensor | None] = iter(())
        if results and wanted:
            ys, dys = zip(*results, strict=True)
            found = iter(torch.autograd.grad(ys, wanted, dys, create_graph=create_graph, allow_unused=True))
    return tuple(next(found, None) if need else None for need in needed)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The precision that autocast asks for where x is; None if there is no autocast."""
    device = x.device.type
    # Not amp.is_autocast_available: torch.compile of torch 2.10 and 2.11 does not know it.
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def may_round(x: Tensor) -> bool:
    """Whether autocast lets products round their operands to bfloat16 where x is."""
    return autocast_dtype(x) is torch.bfloat16


def autocast_to(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The dtype that autocast has an operation of ours run in where x is; None if there is no autocast.

    On a GPU that which was asked for, as of torch's layers; on a CPU the weight's, as there are no kernels
    for another.
    """
    dtype = autocast_dtype(x)
    if dtype is None:
        return None
    on_gpu = x.is_cuda or (not torch.compiler.is_compiling() and dispatch.asked() == "triton")
    return dtype if on_gpu and weight.dtype is torch.float32 else weight.dtype


def cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> Any:
    """The tensors in this dtype, those that are None left out of it; as they are if dtype is None."""
    return tensors if dtype is None else tuple(None if each is None else each.to(dtype) for each in tensors)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Suspends autocast; ``as`` gives None if there is none."""
    return nullcontext() if autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)


def exporting() -> bool:
    """Whether ``torch.export`` is at work.

    Not ``torch.compiler.is_exporting``, which is true under torch.compile, too, in torch 2.11.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else flag


def transforming() -> bool:
    """Whether ``torch.func`` (grad, vmap, jvp…) or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
