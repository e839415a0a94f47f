"""Stacks of recurrent layers, in one direction or both, with or without dropout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strop.functional import costs, operator, routes, ways
from strop.functional.autograd import autocast_dtype, transforming, without_autocast
from strop.functional.recurrence import Direction, States, recurrences, times_mask
from strop.ops import dispatch
from strop.ops.cells import GRU, Cell
from strop.ops.recurrence import Layer
from strop.pattern import Mask


class _Directions(NamedTuple):
    """What the directions of a layer run with, one of each for each direction."""

    cell: Cell
    states: States | None
    weights: Sequence[Sequence[Tensor]]
    input_masks: Sequence[Mask | None]
    recurrent_masks: Sequence[Mask | None]

    def flat(self) -> list[Tensor]:
        """The weights of all directions in one list."""
        return [tensor for own in self.weights for tensor in own]

    def having(self, flat: Sequence[Tensor]) -> _Directions:
        """The same with other weights, in one list."""
        return self._replace(weights=operator.by_direction(flat, len(self.weights[0])))


def stack(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Sequence[Tensor]],
    input_masks: tuple[Mask | None, ...],
    recurrent_masks: tuple[Mask | None, ...],
    *,
    bidirectional: bool = False,
    batch_sizes: Tensor | None = None,
    by_kernels: bool = False,
) -> tuple[Tensor, States]:
    """A stack of layers, with the weights and the masks of each direction of each layer in turn.

    Args:
        x: ``[steps, batch, input]``, or the rows of a packed sequence ``[rows, input]``.
        states: h0, and c0 if the cell has one, ``[layers * directions, batch, hidden]``, or None for zeros.
        weights: weight_ih, weight_hh and, where there are biases, bias_ih and bias_hh; weight_hr comes last.
        by_kernels: whether no layer may run by torch's operators, fast as they may be.

    Returns:
        The last layer's h of every step, directions side by side, and the last states as ``states``.
    """
    directions = 2 if bidirectional else 1
    lasts: list[States] = []
    for first in range(0, len(weights), directions):
        here = slice(first, first + directions)
        own = None if states is None else tuple(state[here] for state in states)
        layer = _Directions(cell, own, weights[here], input_masks[here], recurrent_masks[here])
        done = None if by_kernels and x.is_cpu else _elsewhere(x, layer, batch_sizes)
        x, last = done or _layer(x, layer, batch_sizes)
        lasts += last
    with without_autocast(x):  # which knows of two dtypes only, whatever that of the weights is
        return x, tuple(torch.stack(each) for each in zip(*lasts, strict=True))


def step(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Sequence[Tensor],
    input_mask: Mask | None,
    recurrent_mask: Mask | None,
) -> States:
    """One step of a layer over x ``[batch, input]`` from states ``[batch, hidden]``: the next states."""
    own: Any = None if states is None else tuple((state,) for state in states)
    layer, x = _Directions(cell, own, (weights,), (input_mask,), (recurrent_mask,)), x.unsqueeze(0)
    _, (last,) = _elsewhere(x, layer, None) or _layer(x, layer)
    return last


def _layer(x: Tensor, layer: _Directions, batch_sizes: Tensor | None = None) -> tuple[Tensor, list[States]]:
    """The directions of a layer: h of every step side by side, and the last states of each."""
    directions = []
    for number, (ih, hh, *biases) in enumerate(layer.weights):
        own = None if layer.states is None else tuple(state[number] for state in layer.states)
        masks = layer.input_masks[number], layer.recurrent_masks[number]
        hr = biases[-1] if len(biases) % 2 else None
        b_ih, b_hh = biases[:2] if len(biases) > 1 else (None, None)
        directions.append(Direction(x, own, (ih, hh, b_ih, b_hh, hr), *masks, number > 0))
    ys, lasts = zip(*recurrences(layer.cell, directions, batch_sizes=batch_sizes), strict=True)
    with without_autocast(x):
        return ys[0] if len(ys) == 1 else torch.cat(ys, -1), list(lasts)


def _elsewhere(
    x: Tensor, layer: _Directions, batch_sizes: Tensor | None
) -> tuple[Tensor, list[States]] | None:
    """``_layer`` by torch's own operators or cells, where that is faster; None where it is not."""
    if torch.compiler.is_compiling():
        return None
    one_mask = layer.input_masks.count(layer.input_masks[0]) == len(layer.input_masks)
    masks_x_alone = one_mask and not any(layer.recurrent_masks)
    backend = dispatch.select(x)
    if backend == "triton":
        return _by_cudnn(x, layer, batch_sizes) if masks_x_alone else None
    flat = layer.flat()
    if (
        (not x.is_cpu or x.dtype is not flat[0].dtype or not x.numel())
        or (transforming() or autocast_dtype(x) is not None)
        or (not dispatch.may_leave_kernels() or backend != "native")
    ):
        return None

    def cells(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _step_by_cells(x, layer.having(flat))

    def by_operator(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _by_operator(x, layer.having(flat), batch_sizes)

    def kernels(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _layer(x, layer.having(flat), batch_sizes)

    able = {"kernels": kernels}
    # A GRU's update gate keeps some of the state that no mask has touched.
    whole = layer.cell is GRU and layer.states is not None and any(layer.recurrent_masks)
    if batch_sizes is None and len(x) == 1 and len(layer.weights[0]) % 2 == 0:
        if not whole:
            able["cells"] = cells
    elif masks_x_alone:
        able["operator"] = by_operator
    if len(able) == 1:
        return None
    gradients = ways.needs_grad(x, *flat, *(layer.states or ()))
    phase = "training" if gradients else "inference"
    sizes = _sizes(x, layer, batch_sizes)

    def key() -> tuple[object, ...]:
        masks = (*layer.input_masks, *layer.recurrent_masks)
        drops = tuple(mask and mask.index is not None for mask in masks)
        return "layer", ways.about(sizes), phase, len(flat), drops, x.dtype, *routes.kind()

    way = ways.fastest(
        key,
        lambda: f"{sizes}, {phase}",
        able,
        *(x, flat, routes.dropping(sizes, phase, tuple(able))),
        gradients=gradients,
        backward=gradients,
    )
    return None if way == "kernels" else able[way](x, flat)


def _sizes(x: Tensor, layer: _Directions, batch_sizes: Tensor | None) -> costs.Sizes:
    steps, batch = x.shape[:2] if batch_sizes is None else (len(batch_sizes), int(batch_sizes[0]))
    of_input, of_hidden = _kept(layer.input_masks[0]), _kept(layer.recurrent_masks[0])
    if steps == 1 and layer.states is None:
        of_hidden = 0.0  # a product with zeros, which is skipped
    each, directions, packed = len(layer.weights[0]), len(layer.weights), batch_sizes is not None
    kept = of_input, of_hidden
    return routes.sizes_of(layer.cell, x, layer.flat(), each, directions, steps, batch, packed, kept)


def _kept(mask: Mask | None) -> float:
    """The share of units that take part in a product, of which element masks leave out none."""
    return 1.0 if mask is None or mask.index is None else 1 / mask.scale


def _by_operator(x: Tensor, layer: _Directions, batch_sizes: Tensor | None) -> tuple[Tensor, list[States]]:
    """``_layer`` by torch's operator on masked inputs."""
    cell, states, weights, (mask, *_), _ = layer
    if mask is not None:
        x = times_mask(x, mask, Layer(cell, batch_sizes=batch_sizes))
    each, both = len(weights[0]), len(weights) == 2
    y, last = operator.stack(cell, x, states, layer.flat(), each, both, batch_sizes)
    return y, list(zip(*last, strict=True))


def _step_by_cells(x: Tensor, layer: _Directions) -> tuple[Tensor, list[States]]:
    cell, states, weights, input_masks, recurrent_masks = layer
    ys, lasts = [], []
    for number, own in enumerate(weights):
        mask, recurrent_mask = input_masks[number], recurrent_masks[number]
        step = (x if mask is None else times_mask(x, mask, Layer(cell)))[0]
        if states is None:
            h, *c = (state[0] for state in operator.zeros(cell, x, x.shape[1], own, len(own)))
        else:
            h, *c = (state[number] for state in states)
            if recurrent_mask is not None:
                h = times_mask(h.unsqueeze(0), recurrent_mask, Layer(cell))[0]
        last = operator.STEPS[cell.name](step, (h, *c) if c else h, *own)
        lasts.append(last if c else (last,))
        ys.append(lasts[-1][0])
    y = ys[0] if len(ys) == 1 else torch.cat(ys, -1)
    return y.unsqueeze(0), lasts


def _by_cudnn(
    x: Tensor, layer: _Directions, batch_sizes: Tensor | None
) -> tuple[Tensor, list[States]] | None:
    """``_layer`` by cuDNN, for a layer that drops at most its input; None where autotune found Triton faster.

    Products over all steps run on tensor cores, to which single columns bring nothing (docs/performance.md).
    """
    cell, input_mask = layer.cell, layer.input_masks[0]

    def cudnn(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        with warnings.catch_warnings():
            # Of a stack's layers, which are one chunk of memory together: to copy one takes microseconds.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
            return _by_operator(x, layer.having(flat), batch_sizes)

    def triton(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _layer(x, layer.having(flat), batch_sizes)

    flat = layer.flat()
    if x.is_cpu or transforming() or torch.is_inference_mode_enabled():  # in the interpreter
        return cudnn(x, flat)
    batch = x.shape[1] if batch_sizes is None else int(batch_sizes[0])
    drops = None if input_mask is None else (f"{input_mask.scale:.3g}x", input_mask.index is not None)
    precisions = (autocast_dtype(x), x.dtype, torch.backends.cuda.matmul.fp32_precision)
    sizes = (x.shape[-1], *flat[1].shape, len(flat), batch)
    way = ways.fastest(
        lambda: (cell.name, *sizes, drops, batch_sizes is None, *precisions, x.device),
        lambda: f"{_describe(cell, x, flat)}, batch {batch}, nothing dropped of its state",
        {"cudnn": cudnn, "triton": triton},
        *(x, flat, "cudnn"),
    )
    return cudnn(x, flat) if way == "cudnn" else None


def _describe(cell: Cell, x: Tensor, flat: Sequence[Tensor]) -> str:
    return f"{cell.name} of {x.shape[-1]} to {flat[1].shape[1]} units, {str(x.dtype).removeprefix('torch.')}"
