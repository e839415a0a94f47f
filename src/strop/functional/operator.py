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


def share_memory(layers: Sequence[Sequence[Tensor]]) -> bool:
    """Whether the weights of all layers lie in one chunk of memory, as torch puts them on a GPU."""
    chunks = {tensor.untyped_storage().data_ptr() for layer in layers for tensor in layer}
    return len(chunks) == 1


def layer_by_layer(
    cell: Cell,
    x: Tensor,
    states: States | None,
    flat: Sequence[Tensor],
    each: int,
    bidirectional: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, States]:
    """``stack``, a call for each layer: cuDNN copies weights that do not begin a chunk of memory."""
    directions = 2 if bidirectional else 1
    lasts: list[States] = []
    for number, layer in enumerate(by_direction(flat, directions * each)):
        here = slice(number * directions, (number + 1) * directions)
        own = None if states is None else tuple(state[here] for state in states)
        x, last = stack(cell, x, own, layer, each, bidirectional, batch_sizes)
        lasts.append(last)
    return x, tuple(torch.cat(each) for each in zip(*lasts, strict=True))


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
    if x.is_cuda and layers > 1 and not share_memory(by_direction(flat, len(flat) // layers)):
        return layer_by_layer(cell, x, states, flat, each, bidirectional, batch_sizes)
    # cuDNN keeps what a backward pass needs only if it is told that one may follow.
    train = x.is_cuda and torch.is_grad_enabled()
    how = (flat, each >= 4, layers, 0.0, train, bidirectional)
    if batch_sizes is None:
        y, *last = operator(x, hx, *how, False)
    else:
        y, *last = operator(x, batch_sizes, hx, *how)
    return y, tuple(last)
