"""Stacks of recurrent layers, in one direction or both, with or without dropout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strop.functional import operator, ways
from strop.functional.autograd import autocast_dtype, transforming, without_autocast
from strop.functional.recurrence import States, recurrence, times_mask
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
) -> tuple[Tensor, States]:
    """A stack of layers, with the weights and the masks of each direction of each layer in turn.

    Args:
        x: ``[steps, batch, input]``, or the rows of a packed sequence ``[rows, input]``.
        states: h0, and c0 if the cell has one, ``[layers * directions, batch, hidden]``, or None for zeros.
        weights: weight_ih, weight_hh and, where there are biases, bias_ih and bias_hh; weight_hr comes last.

    Returns:
        The last layer's h of every step, directions side by side, and the last states as ``states``.
    """
    directions = 2 if bidirectional else 1
    lasts: list[States] = []
    for first in range(0, len(weights), directions):
        here = slice(first, first + directions)
        own = None if states is None else tuple(state[here] for state in states)
        layer = _Directions(cell, own, weights[here], input_masks[here], recurrent_masks[here])
        done = _one_step(x, layer) if batch_sizes is None and len(x) == 1 else None
        if done is not None:
            x, last = done
            lasts += last
            continue
        if not any(layer.recurrent_masks) and input_masks[here].count(input_masks[first]) == directions:
            done = _by_cudnn(x, layer, batch_sizes)
            if done is not None:
                x, last = done
                lasts += zip(*last, strict=True)
                continue
        x, last = _layer(x, layer, batch_sizes)
        lasts += last
    with without_autocast(x):  # which knows of two dtypes only, whatever that of the weights is
        return x, tuple(torch.stack(each) for each in zip(*lasts, strict=True))


def _layer(x: Tensor, layer: _Directions, batch_sizes: Tensor | None = None) -> tuple[Tensor, list[States]]:
    """The directions of a layer: h of every step side by side, and the last states of each."""
    ys, lasts = [], []
    for number, (ih, hh, *biases) in enumerate(layer.weights):
        own = None if layer.states is None else tuple(state[number] for state in layer.states)
        masks = layer.input_masks[number], layer.recurrent_masks[number]
        hr = biases[-1] if len(biases) % 2 else None
        b_ih, b_hh = biases[:2] if len(biases) > 1 else (None, None)
        how = {"reverse": number > 0, "batch_sizes": batch_sizes}
        y, last = recurrence(layer.cell, x, own, (ih, hh, b_ih, b_hh, hr), *masks, **how)
        ys.append(y)
        lasts.append(last)
    with without_autocast(x):
        return ys[0] if len(ys) == 1 else torch.cat(ys, -1), lasts


def _one_step(x: Tensor, layer: _Directions) -> tuple[Tensor, list[States]] | None:
    """``_layer`` of the only step of a plain sequence, where that is for torch's cells; None elsewhere."""
    cell, states, weights, input_masks, recurrent_masks = layer
    flat, batch = layer.flat(), x.shape[1]
    if (
        (not x.is_cpu or x.dtype is not flat[0].dtype or len(weights[0]) % 2 == 1)
        # A GRU's update gate keeps some of the state that no mask has touched.
        or (cell is GRU and states is not None and any(recurrent_masks))
        or (torch.compiler.is_compiling() or transforming() or autocast_dtype(x) is not None)
        or not ways.is_small(batch, batch, flat)
    ):
        return None
    masks = *input_masks, *(recurrent_masks if states is not None else ())

    def cells(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _step_by_cells(x, layer.having(flat))

    def kernels(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[States]]:
        return _layer(x, layer.having(flat))

    gradients = ways.needs_grad(x, *flat, *(states or ()))
    drops = tuple(mask and (mask.index is None, mask.count is None, round(mask.scale, 2)) for mask in masks)
    sizes = (ways.about(batch), x.shape[2], *flat[1].shape, len(flat))
    key = ("step", cell.name, *sizes, x.dtype, states is None, drops, gradients)
    way = ways.fastest(
        *(key, lambda: f"a step of {_describe(cell, x, flat)}", {"cells": cells, "kernels": kernels}),
        *(x, flat, "kernels"),
        gradients=gradients,
        backward=gradients,
    )
    return cells(x, flat) if way == "cells" else None


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


def _by_cudnn(x: Tensor, layer: _Directions, batch_sizes: Tensor | None) -> tuple[Tensor, States] | None:
    """A layer that drops at most its input, where that is for cuDNN to run; None elsewhere.

    Products over all steps run on tensor cores, to which single columns bring nothing (docs/performance.md):
    so cuDNN is to run it where nothing says otherwise, and a GPU does by measurement.
    """
    if torch.compiler.is_compiling() or dispatch.select(x) != "triton":
        return None
    cell, states, weights, (input_mask, *_), _ = layer

    def cudnn(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, States]:
        if input_mask is not None:
            x = times_mask(x, input_mask, Layer(cell, batch_sizes=batch_sizes))
        with warnings.catch_warnings():
            # Of a stack's layers, which are one chunk of memory together: to copy one takes microseconds.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
            return operator.stack(cell, x, states, flat, len(weights[0]), len(weights) == 2, batch_sizes)

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
        (cell.name, *sizes, drops, batch_sizes is None, *precisions, x.device),
        lambda: f"{_describe(cell, x, flat)}, batch {batch}, nothing dropped of its state",
        {"cudnn": cudnn, "triton": triton},
        *(x, flat, "cudnn"),
    )
    return cudnn(x, flat) if way == "cudnn" else None


def _describe(cell: Cell, x: Tensor, flat: Sequence[Tensor]) -> str:
    return f"{cell.name} of {x.shape[-1]} to {flat[1].shape[1]} units, {str(x.dtype).removeprefix('torch.')}"
