"""torch's own operators of recurrent cells and of whole stacks of layers, with nothing dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strop.functional.recurrence import States
from strop.ops.cells import CELLS, Cell

STACKS: dict[str, Any] = {name: getattr(torch._VF, name.lower()) for name in CELLS}
STEPS: dict[str, Any] = {name: getattr(torch, f"{name.lower()}_cell") for name in CELLS}


def by_direction(flat: Sequence[Tensor], each: int) -> list[Sequence[Tensor]]:
    return [flat[first : first + each] for first in range(0, len(flat), each)]


def zeros(cell: Cell, x: Tensor, batch: Any, flat: Sequence[Tensor], each: int) -> States:
    gates, units = flat[1].shape  # weight_hh, whose columns are fewer than the units if they are projected
    h = x.new_zeros(len(flat) // each, batch, units)
    return (h, x.new_zeros(len(flat) // each, batch, gates // cell.gates)) if cell.has_c else (h,)


def stack(
    cell: Cell,
    x: Tensor,
    states: States | None,
    flat: Sequence[Tensor],
    each: int,
    bidirectional: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, States]:
    operator = STACKS[cell.name]
    if states is None:
        batch = x.shape[1] if batch_sizes is None else batch_sizes[0]  # a tensor, which tracing follows
        states = zeros(cell, x, batch, flat, each)
    hx = states if cell.has_c else states[0]
    layers = len(flat) // each // (2 if bidirectional else 1)
    # cuDNN keeps what a backward pass needs only if it is told that one may follow.
    train = x.is_cuda and torch.is_grad_enabled()
    how = (flat, each >= 4, layers, 0.0, train, bidirectional)
    if batch_sizes is None:
        y, *last = operator(x, hx, *how, False)
    else:
        y, *last = operator(x, batch_sizes, hx, *how)
    return y, tuple(last)
