"""Ways to run a layer or a stack of them: the rule's, or the fastest by ``ops.choice`` with autotune."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from strop.functional import costs
from strop.ops import choice

Way = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Any]]
"""From x and the weights to y and the last states."""


def needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def about(sizes: costs.Sizes) -> costs.Sizes:
    """The same for all steps and rows in half an octave or less, so that not each of many is timed."""
    near = {name: _near(getattr(sizes, name)) for name in ("steps", "batch", "rows")}
    return sizes._replace(
        **near, input_kept=round(sizes.input_kept, 1), recurrent_kept=round(sizes.recurrent_kept, 1)
    )


def _near(size: int) -> int:
    below = max(size.bit_length() - 2, 0)
    return size >> below << below


def fastest(
    key: Callable[[], Hashable],
    what: Callable[[], str],
    ways: Mapping[str, Way],
    x: Tensor,
    flat: Sequence[Tensor],
    rule: str,
    *,
    gradients: bool = True,
    backward: bool = True,
) -> str:
    """The rule's way, or with autotune the fastest, with its backward pass if there is one."""
    if not choice.timing():
        return rule
    stand_ins = any(type(tensor) not in (Tensor, Parameter) for tensor in (x, *flat))
    if stand_ins or (gradients and any(tensor.is_inference() for tensor in (x, *flat))):
        return rule
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
    return choice.fastest(key(), what, timed, x.device, rule)
