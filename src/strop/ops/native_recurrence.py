"""The native CPU kernels of the recurrence: the functions are those of ``recurrence``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor

from strop.ops import cells
from strop.ops.native import contiguous, empty, lists, rounds
from strop.ops.products import Keep
from strop.ops.recurrence import Layer, projection_grad

_NUMBERS = {name: number for number, name in enumerate(("LSTM", "GRU", "RNN_TANH", "RNN_RELU"))}
_PANEL, _GROUP = 64, 16  # columns of a panel of gates, and units that a gate has side by side


Calls = Sequence[tuple[Any, ...]]
"""The arguments of calls that do not depend on each other."""

# y, the last h and c, and what is saved; gradients of gates, x, h0 and c0.
_Forward = tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]
_Backward = tuple[tuple[Tensor, ...], Tensor | None, Tensor, Tensor | None]

# An operator's arguments, and a function that makes the results once it has run.
_Prepared = tuple[tuple[Any, ...], Callable[[], tuple[Any, ...]]]


def saved_like(layer: Layer, x: Tensor, hidden_size: int, projected: bool = False) -> tuple[Tensor, ...]:
    """Empty tensors like those that ``forward`` saves for x.

    The gates after their nonlinearities, for each step in panels ``[panels, rows of the step, 64]``, and
    all c of an LSTM or what the reset gate of a GRU acts on; and what a projection acts on.
    """
    groups = layer.cell.gates * -(-hidden_size // _GROUP)
    gates = empty(x, prod(x.shape[:-1]), -(-groups // (_PANEL // _GROUP)) * _PANEL)
    others = 0 if layer.cell.gates == 1 else 2 if projected else 1
    return gates, *(empty(x, *x.shape[:-1], hidden_size) for _ in range(others))


def _rows(sequence: Tensor) -> Tensor:
    return sequence.contiguous().flatten(0, -2)


def _saved(saved: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    gates, *others = saved
    states, projected = (*others, None, None)[:2]
    return gates, states, projected


def _what(layer: Layer) -> tuple[int, bool, Tensor | None]:
    return _NUMBERS[layer.cell.name], layer.reverse, contiguous(layer.batch_sizes)


def _each(of_one: Any, of_two: Any, prepare: Callable[..., _Prepared], calls: Calls) -> list[Any]:
    prepared = [prepare(*call) for call in calls]
    for first in range(0, len(prepared), 2):
        together = [arguments for arguments, _ in prepared[first : first + 2]]
        (of_one if len(together) == 1 else of_two)(*chain(*together))
    return [results() for _, results in prepared]


def _last(layer: Layer, states: Tensor) -> Tensor:
    """Each row's last of the states ``[T, B, H]`` or ``[N, H]``: a copy, not a view."""
    sizes = layer.batch_sizes
    if sizes is None:
        return states[0 if layer.reverse else -1].clone()
    batch = int(sizes[0])
    if layer.reverse:
        return states[:batch].clone()
    rows = torch.arange(batch, device="cpu")  # as the sizes are, whatever the default device
    lengths = (sizes.unsqueeze(1) > rows).sum(0)
    starts = sizes.cumsum(0) - sizes
    return states[starts[lengths - 1] + rows]


def forward(*call: Any) -> _Forward:
    """FP over the sequence: see ``recurrence.forward``, and ``saved_like``."""
    return forward_each([call])[0]


def forward_each(calls: Calls) -> list[_Forward]:
    """``forward`` of each call's arguments, two calls side by side."""
    return _each(
        torch.ops.strop.recurrence_forward, torch.ops.strop.recurrence_forward_of_two, _forward, calls
    )


def _forward(
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
) -> _Prepared:
    rows, cell = _rows(x), layer.cell
    y = empty(x, *x.shape[:-1], h0.shape[1])
    saved = saved_like(layer, x, len(w_hh) // cell.gates, w_hr is not None)
    gates, states, projected = _saved(saved)
    arguments = (
        *_what(layer),
        rows,
        h0.contiguous(),
        contiguous(c0),
        w_ih.contiguous(),
        w_hh.contiguous(),
        contiguous(b_ih),
        contiguous(b_hh),
        contiguous(w_hr),
        *lists(input_keep),
        *lists(recurrent_keep),
        contiguous(recurrent_mask),
        rounds(layer.bf16),
        y.flatten(0, -2),
        gates,
        None if states is None else states.flatten(0, -2),
        None if projected is None else projected.flatten(0, -2),
    )

    def results() -> tuple[Any, ...]:
        c = _last(layer, states) if cell.has_c and states is not None else None
        return y, _last(layer, y), c, saved

    return arguments, results


def backward(*call: Any) -> _Backward:
    """BP through time: see ``recurrence.backward``. The gates' gradients are in panels."""
    return backward_each([call])[0]


def backward_each(calls: Calls) -> list[_Backward]:
    """``backward`` of each call's arguments, two calls side by side."""
    return _each(
        torch.ops.strop.recurrence_backward, torch.ops.strop.recurrence_backward_of_two, _backward, calls
    )


def _backward(
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
) -> _Prepared:
    gates, states, projected = _saved(saved)
    # Only the reset gate makes the shares of input and hidden state differ.
    dgates = tuple(empty(x, *gates.shape) for _ in range(2 if layer.cell is cells.GRU else 1))
    of_projection = () if projected is None else (empty(x, *_rows(y).shape), _rows(projected))
    dx = empty(x, *x.shape) if need_dx else None
    dh0, dc0 = empty(x, *h0.shape), None if c0 is None else empty(x, *c0.shape)
    arguments = (
        *_what(layer),
        None if dy is None else _rows(dy),
        contiguous(dh_last),
        contiguous(dc_last),
        _rows(y),
        h0.contiguous(),
        contiguous(c0),
        w_ih.contiguous(),
        w_hh.contiguous(),
        contiguous(w_hr),
        gates,
        None if states is None else _rows(states),
        *lists(input_keep),
        *lists(recurrent_keep),
        contiguous(recurrent_mask),
        rounds(layer.bf16),
        dgates[0],
        dgates[1] if len(dgates) > 1 else None,
        of_projection[0] if of_projection else None,
        None if dx is None else dx.flatten(0, -2),
        dh0,
        dc0,
    )
    return arguments, lambda: ((*dgates, *of_projection), dx, dh0, dc0)


def weight_grad(*call: Any) -> tuple[Tensor, ...]:
    """WG: see ``recurrence.weight_grad``."""
    return weight_grad_each([call])[0]


def weight_grad_each(calls: Calls) -> list[tuple[Tensor, ...]]:
    """``weight_grad`` of each call's arguments, two calls side by side."""
    of_one, of_two = torch.ops.strop.recurrence_weight_grad, torch.ops.strop.recurrence_weight_grad_of_two
    return _each(of_one, of_two, _weight_grad, calls)


def _weight_grad(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    dgates: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> _Prepared:
    of_input, *rest = dgates
    of_hidden, of_projection = (rest[0], []) if layer.cell is cells.GRU else (None, rest)
    units = h0.shape[1]
    gates = layer.cell.gates * (of_projection[1].shape[1] if of_projection else units)
    dw_ih, dw_hh, db_ih = empty(x, gates, x.shape[-1]), empty(x, gates, units), empty(x, gates)
    db_hh = None if of_hidden is None else empty(x, gates)
    arguments = (
        *_what(layer),
        _rows(x),
        _rows(y),
        h0.contiguous(),
        of_input,
        of_hidden,
        *lists(input_keep),
        *lists(recurrent_keep),
        contiguous(recurrent_mask),
        rounds(layer.bf16),
        dw_ih,
        dw_hh,
        db_ih,
        db_hh,
    )

    def results() -> tuple[Any, ...]:
        return dw_ih, dw_hh, db_ih, db_ih.clone() if db_hh is None else db_hh, *projection_grad(of_projection)

    return arguments, results


def evaluate(
    cell: cells.Cell,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weights: list[Tensor],
    has_bias: bool,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A stack of layers with nothing dropped and nothing saved for a backward pass.

    Args:
        x: ``[T, B, I]``.
        h0, c0: ``[layers * directions, B, H]`` each.
        weights: of each direction of each layer in turn w_ih, w_hh and, if ``has_bias``, b_ih, b_hh.

    Returns:
        The last layer's h of every step ``[T, B, directions * H]``, and the last h and c as h0 and c0.
    """
    directions = 2 if bidirectional else 1
    y, h = empty(x, *x.shape[:2], directions * h0.shape[2]), empty(x, *h0.shape)
    c = None if c0 is None else empty(x, *c0.shape)
    torch.ops.strop.recurrence_eval(
        _NUMBERS[cell.name],
        bidirectional,
        x.contiguous(),
        h0.contiguous(),
        contiguous(c0),
        [weight.contiguous() for weight in weights],
        has_bias,
        y,
        h,
        c,
    )
    return y, h, c
