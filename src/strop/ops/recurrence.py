"""A cell over a sequence, and back-propagation through time, in plain PyTorch.

Every backend's recurrence has ``forward``, ``backward`` and ``weight_grad``. Shapes: x ``[T, B, I]`` and y
``[T, B, P]``, or the rows of a packed sequence, ``[N, I]`` and ``[N, P]``; h ``[B, P]`` and c ``[B, H]``,
weights ``[gates * H, I]`` and ``[gates * H, P]`` in torch's gate order, T and B at least 1. P is H but where
an LSTM projects what comes out of its cell by ``w_hr`` ``[P, H]`` (Sak et al. 2014). At most one of
``recurrent_keep`` (shared by the batch) and ``recurrent_mask`` (a multiplier ``[T or 1, B, P]``) is given; at
step t it drops the h that enters the step on its way into the product, h0 included, never the h that is
returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from strop.ops import products
from strop.ops.cells import Cell
from strop.ops.products import Keep


class Layer(NamedTuple):
    """What runs over a sequence.

    Attributes:
        cell: the kind of cell.
        reverse: whether it runs from the last step to the first.
        batch_sizes: int64 ``[T]`` on the CPU, never growing: the rows of each step of a packed sequence;
            None for as many in every step.
        bf16: whether a backend may round the products' operands to bfloat16; sums, states and gradients keep
            their precision.
        from_zeros: whether the initial states are zeros, whose gradients nobody asks for.
    """

    cell: Cell
    reverse: bool = False
    batch_sizes: Tensor | None = None
    bf16: bool = False
    from_zeros: bool = False


class Rows:
    """Where the rows of each step are among those of a whole sequence, one step after another.

    Attributes:
        turns: the steps in the order in which they run.
    """

    def __init__(self, layer: Layer, x: Tensor) -> None:
        sizes = layer.batch_sizes
        self._counts: list[int] = [x.shape[1]] * x.shape[0] if sizes is None else sizes.tolist()
        self._starts = [0, *accumulate(self._counts)]
        steps = range(len(self._counts))
        self.turns = list(reversed(steps) if layer.reverse else steps)

    def __len__(self) -> int:
        return self._starts[-1]

    def count(self, step: int) -> int:
        """Rows of a step."""
        return self._counts[step]

    def of(self, step: int) -> slice:
        """Where they are."""
        return slice(self._starts[step], self._starts[step + 1])

    def before(self, turn: int, states: Tensor, begin: Tensor) -> Tensor:
        """The state ``[B, H]`` that enters a turn: from ``states`` ``[N, H]``, or ``begin`` in new rows."""
        count = self.count(self.turns[turn])
        if turn == 0:
            return begin[:count]
        earlier = states[self.of(self.turns[turn - 1])][:count]
        return torch.cat((earlier, begin[len(earlier) : count]))

    def spread(self, per_step: Tensor) -> Tensor:
        """``[T or 1, B or 1, K]`` to the rows ``[N, K]``."""
        steps = per_step.expand(len(self._counts), -1, -1).unbind()
        pairs = zip(steps, self._counts, strict=True)
        return torch.cat([step.expand(n, -1) if len(step) == 1 else step[:n] for step, n in pairs])


class _Drop:
    """What enters a product: the reference forms of index lists and of a multiplier."""

    def __init__(self, keep: Keep | None, mask: Tensor | None, rows: Rows, units: int) -> None:
        if keep is not None and mask is not None:
            raise ValueError("only one of recurrent_keep and recurrent_mask can be given")
        steps = len(rows.turns)
        self._dropped = None if keep is None else rows.spread(products.dropped(keep, steps, units))
        self._scale = 1.0 if keep is None else keep.scale
        self._mask = None if mask is None else rows.spread(mask)

    def __call__(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """x, which are these rows of the sequence, dropped."""
        if self._dropped is not None:
            return (x * self._scale).masked_fill_(self._dropped[rows], 0)
        return x if self._mask is None else x * self._mask[rows]


def saved_like(layer: Layer, x: Tensor, hidden_size: int, projected: bool = False) -> tuple[Tensor, ...]:
    """Empty tensors like those that ``forward`` saves for x."""
    rows = prod(x.shape[:-1])
    gates = x.new_empty(rows, layer.cell.gates * hidden_size)
    others = 0 if layer.cell.gates == 1 else 2 if projected else 1
    return gates, *(x.new_empty(rows, hidden_size) for _ in range(others))


def forward(
    layer: Layer,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
    w_hr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
    """FP over the sequence, by operations that autograd follows.

    Returns:
        y, each row's last h and c, and what ``backward`` needs: here what the cell saves, ``[N, …]`` each,
        and with a projection what was projected, ``[N, H]``.
    """
    rows = Rows(layer, x)
    drop_x = _Drop(input_keep, None, rows, x.shape[-1])
    drop_h = _Drop(recurrent_keep, recurrent_mask, rows, h0.shape[1])
    of_input = linear(drop_x(x.reshape(len(rows), -1)), w_ih, b_ih)
    ys: list[Tensor] = [x] * len(rows.turns)
    saved: list[tuple[Tensor, ...]] = [()] * len(rows.turns)
    # The states of all rows; those of a packed sequence that have ended, or not begun, keep theirs.
    h, c = h0, c0
    for step in rows.turns:
        at, count = rows.of(step), rows.count(step)
        of_hidden = linear(drop_h(h[:count], at), w_hh, b_hh)
        before = None if c is None else c[:count]
        saved[step], h_step, c_step = layer.cell.forward(of_input[at], of_hidden, h[:count], before)
        if w_hr is not None:
            saved[step], h_step = (*saved[step], h_step), linear(h_step, w_hr)
        ys[step] = h_step
        h = torch.cat((h_step, h[count:]))
        c = None if c is None or c_step is None else torch.cat((c_step, c[count:]))
    # No view: an operation's result that is one could not be written over.
    y = torch.stack(ys) if layer.batch_sizes is None else torch.cat(ys)
    return y, h, c, tuple(torch.cat(each) for each in zip(*saved, strict=True))


def backward(
    layer: Layer,
    dy: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    saved: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
    need_dx: bool,
    w_hr: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor, Tensor | None]:
    """BP through time, from the gradients of y, of the last h and of the last c (None is zero).

    Returns:
        What ``weight_grad`` needs, in the backend's own layout: gradients of the gates' shares (here of the
        input's and of the hidden state's, ``[N, gates * H]`` each), and with a projection those of each
        step's h and what was projected. Gradients of x if ``need_dx``, of h0 and of c0.
    """
    rows, units = Rows(layer, x), h0.shape[1]
    drop_x = _Drop(input_keep, None, rows, x.shape[-1])
    drop_h = _Drop(recurrent_keep, recurrent_mask, rows, units)
    ys = y.reshape(len(rows), units)
    *saved_by_cell, projected = saved if w_hr is not None else (*saved, None)
    of_input = x.new_empty(len(rows), len(w_hh))
    of_hidden, of_h = torch.empty_like(of_input), torch.empty_like(ys)
    dh = torch.zeros_like(h0) if dh_last is None else dh_last
    dc = torch.zeros_like(c0) if c0 is not None and dc_last is None else dc_last
    for turn in reversed(range(len(rows.turns))):
        step = rows.turns[turn]
        at, count = rows.of(step), rows.count(step)
        of_h[at] = dh[:count] if dy is None else dh[:count] + dy.reshape(len(rows), units)[at]
        c = None if c0 is None else rows.before(turn, saved_by_cell[-1], c0)
        grads = layer.cell.backward(
            of_h[at] if w_hr is None else of_h[at] @ w_hr,
            None if dc is None else dc[:count],
            tuple(each[at] for each in saved_by_cell),
            rows.before(turn, ys, h0),
            c,
        )
        of_input[at], of_hidden[at] = grads.of_input, grads.of_hidden
        through = drop_h(grads.of_hidden @ w_hh, at)
        dh = torch.cat((through if grads.h is None else through + grads.h, dh[count:]))
        dc = None if dc is None or grads.c is None else torch.cat((grads.c, dc[count:]))
    dx = drop_x(of_input @ w_ih).view(x.shape) if need_dx else None
    of_projection = () if projected is None else (of_h, projected)
    return (of_input, of_hidden, *of_projection), dx, dh, dc


def weight_grad(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    dgates: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, ...]:
    """WG: gradients of w_ih, w_hh, b_ih and b_hh, and of w_hr if there is one.

    Each is in memory of its own: somebody may scale one of them in place.
    """
    rows, (of_input, of_hidden, *of_projection) = Rows(layer, x), dgates
    ys = y.reshape(len(rows), -1)
    states = torch.empty_like(ys)
    for turn, step in enumerate(rows.turns):
        states[rows.of(step)] = rows.before(turn, ys, h0)
    drop_x = _Drop(input_keep, None, rows, x.shape[-1])
    drop_h = _Drop(recurrent_keep, recurrent_mask, rows, h0.shape[1])
    return (
        of_input.mT @ drop_x(x.reshape(len(rows), -1)),
        of_hidden.mT @ drop_h(states),
        of_input.sum(0),
        of_hidden.sum(0),
        *projection_grad(of_projection),
    )


def projection_grad(operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """WG of a projection, if there is one: from the gradients of all h and from what was projected."""
    if not operands:
        return ()
    of_h, projected = operands
    return (of_h.mT @ projected,)
