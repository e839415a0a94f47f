"""Ways to run a layer or a stack of them, for ``ops.choice`` to time: which is fastest here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from strop.ops import choice, dispatch
from strop.ops.cells import Cell

Way = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Any]]
"""From x and the weights to y and the last states."""

# What is above is for the kernels, without a measurement, which would take long: their calls cost more than
# those of torch's operators, their multiplications less (1.8 times at 64 units, 256 rows and 200 steps).
_SMALL_BATCH, _SMALL_WORK = 32, 1 << 27


def needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_small(rows: int, batch: int, flat: Sequence[Tensor]) -> bool:
    """Whether torch's operator may be faster than the kernels on a CPU, and is not ruled out."""
    work = rows * sum(weight.numel() for weight in flat)
    return batch <= _SMALL_BATCH and work <= _SMALL_WORK and dispatch.may_leave_kernels()


def small_stack(
    cell: Cell,
    x: Tensor,
    hidden: int,
    weights: int,
    steps: int,
    batch: int,
    packed: bool,
    gradients: bool,
    training: bool,
) -> Hashable:
    """The kind of work that a small stack with nothing dropped is."""
    backward = gradients and training
    return (
        cell.name,
        x.shape[-1],
        hidden,
        weights,
        about(steps),
        about(batch),
        packed,
        gradients,
        backward,
    )


def about(size: int) -> tuple[int, int]:
    """The same for all sizes in half an octave or less, so that not each of many needs a measurement."""
    octave = size.bit_length()
    return octave, size >> max(octave - 2, 0)


def fastest(
    key: Hashable,
    what: Callable[[], str],
    ways: Mapping[str, Way],
    x: Tensor,
    flat: Sequence[Tensor],
    unmeasured: str,
    *,
    gradients: bool = True,
    backward: bool = True,
) -> str:
    """The one that takes least time for this kind of work, with its backward pass if there is one."""
    stand_ins = any(type(tensor) not in (Tensor, Parameter) for tensor in (x, *flat))
    if stand_ins or (gradients and any(tensor.is_inference() for tensor in (x, *flat))):
        return unmeasured
    leaves: list[Tensor] = []

    def call(way: Way) -> None:
        # Made in the measurement: an answer that is known is to be had for nothing.
        leaves[:] = leaves or (tensor.detach().requires_grad_(gradients) for tensor in (x, *flat))
        with torch.set_grad_enabled(gradients):
            y, _ = way(leaves[0], leaves[1:])
            if backward:
                # Here: a GPU's own thread would wait for the lock that this one holds while it measures, as
                # soon as the backward pass of a layer has a way to choose, too.
                with torch.autograd.set_multithreading_enabled(False):
                    torch.autograd.grad(y, leaves, torch.ones_like(y))

    timed = {name: partial(call, way) for name, way in ways.items()}
    return choice.fastest(key, what, timed, x.device, unmeasured)
