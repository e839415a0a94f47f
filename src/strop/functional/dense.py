"""Stacks of recurrent layers with nothing dropped, by the fastest way there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strop.functional import operator, routes, ways
from strop.functional.autograd import autocast_dtype, exporting, transforming, without_autocast
from strop.functional.recurrence import States, check_batch_sizes
from strop.functional.stack import stack
from strop.functional.trial import runs_under_autocast
from strop.ops import dispatch, native
from strop.ops.cells import LSTM, Cell


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
    """``stack`` with nothing dropped; each direction has ``each`` weights.

    torch's own operator is what exporting, tracing and ``torch.func`` see, projections in evaluation, and an
    LSTM evaluated under ``torch.compile``; it also runs calls so small that it is faster, and autocast, but
    for training on a CPU that multiplies bfloat16. Where torch's operator would fail on a CPU, the
    weights' dtype is used.
    """
    autocast, dtype = autocast_dtype(x), flat[0].dtype
    gradients = ways.needs_grad(*flat, x, *(states or ()))
    compiling = torch.compiler.is_compiling()
    how: Any = {"bidirectional": bidirectional, "training": training}
    # On a CPU, as of torch 2.13: torch.compile cannot differentiate the operator, oneDNN has no float64 and,
    # for most CPUs, no float16; where it is not asked, float16 rounds the state of every step.
    lacks = dtype is not torch.float32 or autocast is not torch.bfloat16

    def in_the_weights_dtype() -> tuple[Tensor, States]:
        own = None if states is None else tuple(state.to(dtype) for state in states)
        with without_autocast(x):
            y, last = dense_stack(cell, x.to(dtype), own, flat, each, batch_sizes=batch_sizes, **how)
        return (y, last) if lacks else (y.to(autocast), tuple(state.to(autocast) for state in last))

    if autocast is not None and x.is_cpu and (lacks or (compiling and gradients)):
        return in_the_weights_dtype()
    traced = (
        # The compiler has one operation for an LSTM; others it would unroll, anew for each number of steps.
        (compiling and not gradients and (cell is LSTM or autocast is not None))
        or exporting()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or transforming()
    )

    def by_layers(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, States]:
        weights = operator.by_direction(flat, each)
        nothing = (None,) * len(weights)
        how = {"bidirectional": bidirectional, "batch_sizes": batch_sizes, "by_kernels": True}
        return stack(cell, x, states, weights, nothing, nothing, **how)

    if compiling and not traced and x.numel():
        return by_layers(x, flat)
    if (
        (autocast is torch.bfloat16 and x.is_cpu and gradients and training and not traced)
        and (native.has_bf16 and dispatch.select(flat[0]) == "native")
        and (x.numel() and _rounds(x, flat, batch_sizes))
    ):
        y, last = by_layers(x, flat)
        return y.to(autocast), tuple(state.to(autocast) for state in last)
    if (autocast is not None and x.is_cpu) and (
        not runs_under_autocast(cell.name, each, "cpu", autocast, gradients)
    ):
        return in_the_weights_dtype()
    projected = each % 2 == 1
    if (
        (autocast is not None or traced or not x.numel() or dispatch.select(x) != "native")
        or (projected and not (gradients and training))  # the kernels for projections are those of training
    ):
        return operator.stack(cell, x, states, flat, each, bidirectional, batch_sizes)
    if batch_sizes is None:
        steps, batch = x.shape[:2]
    else:
        sizes = check_batch_sizes(batch_sizes, x.shape[0])
        steps, batch = len(sizes), sizes[0]
        if x.shape[0] == steps * batch:  # a plain sequence after all
            y, last = dense_stack(cell, x.view(steps, batch, -1), states, flat, each, **how)
            return y.flatten(0, 1), last

    def by_operator(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, States]:
        return operator.stack(cell, x, states, flat, each, bidirectional, batch_sizes)

    def by_kernels(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, States]:
        if batch_sizes is None and not gradients:
            h, c = (*(states or operator.zeros(cell, x, batch, flat, each)), None)[:2]
            y, h, c = dispatch.recurrence(x).evaluate(cell, x, h, c, flat, each == 4, bidirectional)
            return y, (h,) if c is None else (h, c)
        return by_layers(x, flat)

    if not dispatch.may_leave_kernels():
        return by_kernels(x, flat)
    packed, directions = batch_sizes is not None, 2 if bidirectional else 1
    sizes = routes.sizes_of(cell, x, flat, each, directions, steps, batch, packed)
    phase = "training" if gradients and training else "forward" if gradients else "inference"
    way = ways.fastest(
        lambda: (ways.about(sizes), phase, each, x.dtype, *routes.kind()),
        lambda: f"{sizes}, nothing dropped, {phase}",
        {"operator": by_operator, "kernels": by_kernels},
        *(x, flat, routes.dense(sizes, phase)),
        gradients=gradients,
        backward=phase == "training",
    )
    return by_operator(x, flat) if way == "operator" else by_kernels(x, flat)


def _rounds(x: Tensor, flat: Sequence[Tensor], batch_sizes: Tensor | None) -> bool:
    batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
    return not dispatch.may_leave_kernels() or routes.rounds(x.shape[:-1].numel(), batch, flat)
