"""A recurrent layer over a sequence, with dropout on its input and on its hidden state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strop.functional import compiled, transforms
from strop.functional.autograd import (
    autocast_to,
    cast,
    gradients_by_autograd,
    is_one_of_many,
    may_round,
    transforming,
    without_autocast,
)
from strop.functional.checks import check_input, check_mask, check_operand, keep_of
from strop.ops import cells, dispatch
from strop.ops import recurrence as plain
from strop.ops.cells import Cell
from strop.ops.products import Keep
from strop.ops.recurrence import Layer, Rows
from strop.pattern import Mask

_NO_LISTS = (None, None, 1.0)

States = tuple[Tensor, ...]
"""h, and c if the cell has one."""

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""weight_ih, weight_hh, bias_ih, bias_hh, and weight_hr of an LSTM with projections."""


class Direction(NamedTuple):
    """One direction of a layer: see ``lstm``."""

    x: Tensor
    states: States | None
    weights: Weights
    input_mask: Mask | None
    recurrent_mask: Mask | None
    reverse: bool = False


class _Run(NamedTuple):
    """A direction once it is checked, but for its tensors."""

    layer: Layer
    input_keep: Keep | None
    recurrent_keep: Keep | None


# A run's tensors: x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr and the recurrent mask.
_TENSORS = 9


def _each(backend: Any, name: str, calls: list[tuple[Any, ...]]) -> list[Any]:
    """A backend's function of each call's arguments, side by side where the backend can."""
    together = getattr(backend, f"{name}_each", None)
    return [getattr(backend, name)(*call) for call in calls] if together is None else together(calls)


def _in_groups(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(items[first : first + size]) for first in range(0, len(items), size)]


def _projection(w_hr: Tensor | None) -> tuple[Tensor, ...]:
    """The last argument of a backend's functions, where there is one."""
    return () if w_hr is None else (w_hr,)


class _Recurrence(torch.autograd.Function):
    """A layer's whole sequence, in each of its directions: y, h and, if there is one, c of each in turn."""

    @staticmethod
    def forward(ctx: Any, runs: tuple[_Run, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        each = _in_groups(tensors, _TENSORS)
        x, w_hr = each[0][0], each[0][7]
        assert x is not None
        ctx.backend, ctx.runs = dispatch.recurrence(x, w_hr is not None), runs
        found = _each(
            ctx.backend,
            "forward",
            [
                (run.layer, *own[:7], run.input_keep, run.recurrent_keep, own[8], *_projection(own[7]))
                for run, own in zip(runs, each, strict=True)
            ],
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(one for y, _, _, saved in found for one in (y, *saved)))
        ctx.results = 3 if runs[0].layer.cell.has_c else 2
        return tuple(one for result in found for one in result[: ctx.results])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        runs, count = ctx.runs, len(ctx.runs) * _TENSORS
        tensors = ctx.saved_tensors  # asked for once, as checkpointing demands
        each = _in_groups(tensors[:count], _TENSORS)
        results = _in_groups(tensors[count:], (len(tensors) - count) // len(runs))
        needed = _in_groups(ctx.needs_input_grad[1:], _TENSORS)
        upstream = _in_groups(grad_outputs, ctx.results)
        found: list[list[Tensor | None]] = [[None] * _TENSORS for _ in runs]
        if torch.is_grad_enabled() or is_one_of_many(grad_outputs):
            for run, own, need, grads, into in zip(runs, each, needed, upstream, found, strict=True):
                with without_autocast(own[0]):
                    plain_run = partial(_plain, run.layer, masks=(run.input_keep, run.recurrent_keep, own[8]))
                    into[:8] = gradients_by_autograd(plain_run, own[:8], need[:8], grads)
            return None, *chain(*found)
        calls, of_weights, reached = [], [], []
        for number, (run, own, (y, *saved), grads) in enumerate(
            zip(runs, each, results, upstream, strict=True)
        ):
            if all(grad is None for grad in grads):
                continue
            x, h0, c0, w_ih, w_hh, _, _, w_hr, recurrent_mask = own
            dy, dh, dc = (None if grad is None else grad.contiguous() for grad in (*grads, None)[:3])
            masks = (run.input_keep, run.recurrent_keep, recurrent_mask)
            states = (x, y, h0, c0, w_ih, w_hh, tuple(saved))
            need_x = needed[number][0]
            calls.append((run.layer, dy, dh, dc, *states, *masks, need_x, *_projection(w_hr)))
            of_weights.append((run.layer, x, y, h0, masks))
            reached.append(number)
        if not reached:
            return None, *chain(*found)
        with torch.no_grad(), without_autocast(each[0][0]):
            back = _each(ctx.backend, "backward", calls)
            wanted = any(any(needed[number][3:8]) for number in reached)
            arguments = [
                (layer, x, y, h0, dgates, *masks)
                for (layer, x, y, h0, masks), (dgates, *_) in zip(of_weights, back, strict=True)
            ]
            weights = _each(ctx.backend, "weight_grad", arguments) if wanted else [()] * len(reached)
        for number, (_, dx, dh0, dc0), dweights in zip(reached, back, weights, strict=True):
            grads = (dx, dh0, dc0, *dweights)
            wanted = zip(grads, needed[number], strict=False)
            found[number][: len(grads)] = [grad if need else None for grad, need in wanted]
        return None, *chain(*found)


def _plain(layer: Layer, *operands: Any, masks: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layer by torch's operations: y, the last h and c."""
    *others, w_hr = operands
    given: Any = (*others, *masks, w_hr)
    return plain.forward(layer, *given)[: 3 if layer.cell.has_c else 2]


def _name(cell: Cell) -> str:
    return cell.name.lower()


def _from_second_turn(keep: Keep | None, steps: int, units: int, reverse: bool, device: torch.device) -> Keep:
    """``keep`` without the columns of the first turn, where the state is zero."""
    if keep is None:
        keep = Keep(torch.arange(units, dtype=torch.int32, device=device).expand(steps, units), None, 1.0)
    index = keep.index.clone(memory_format=torch.contiguous_format)
    count = index.new_full((steps,), index.shape[1]) if keep.count is None else keep.count.clone()
    # fill_, as assigning a number to one element of a GPU's tensor copies it from the host, which waits and
    # which no CUDA graph can capture.
    first = steps - 1 if reverse else 0
    index.select(0, first).fill_(units)
    count.select(0, first).fill_(0)
    return Keep(index, count, keep.scale)


def check_batch_sizes(batch_sizes: Tensor, rows: int) -> list[int]:
    """The rows of each step; refuses what is not those of a packed sequence of so many rows in all."""
    if batch_sizes.dtype != torch.int64 or batch_sizes.dim() != 1 or batch_sizes.device.type != "cpu":
        raise TypeError(
            "batch_sizes must be int64 [steps] on the CPU, as in a PackedSequence, "
            f"got {batch_sizes.dtype} {list(batch_sizes.shape)} on {batch_sizes.device}"
        )
    sizes = batch_sizes.tolist()
    if not sizes or sum(sizes) != rows or sizes[-1] < 1 or any(a < b for a, b in pairwise(sizes)):
        raise ValueError(
            f"batch_sizes must never grow, end with 1 or more and sum to the {rows} rows of x, got {sizes}"
        )
    return sizes


def _run(runs: Sequence[_Run], each: Sequence[tuple[Tensor | None, ...]]) -> list[tuple[Tensor, ...]]:
    """y, h and, if there is one, c of each run."""
    x, has_c = each[0][0], runs[0].layer.cell.has_c
    assert x is not None
    if x.is_complex():  # there are no kernels
        return [
            _plain(run.layer, *own[:8], masks=(run.input_keep, run.recurrent_keep, own[8]))
            for run, own in zip(runs, each, strict=True)
        ]
    compiling = torch.compiler.is_compiling()
    if not compiling and not transforming():
        # Here, where autograd follows it.
        own = [tensor if tensor is None else tensor.contiguous() for tensor in chain(*each)]
        return _in_groups(_Recurrence.apply(tuple(runs), *own), 3 if has_c else 2)
    operator = compiled.recurrence_forward if compiling else transforms.recurrence
    found = []
    for (layer, input_keep, recurrent_keep), (*operands, recurrent_mask) in zip(runs, each, strict=True):
        lists = (*(input_keep or _NO_LISTS), *(recurrent_keep or _NO_LISTS))
        layout = compiled.layout(x.device.type, x.dtype, operands[-1] is not None) if compiling else ""
        what = layer.cell.name, layer.reverse, layer.bf16, layout, layer.batch_sizes
        found.append(operator(*what, *operands, *lists, recurrent_mask)[: 3 if has_c else 2])
    return found


def times_mask(x: Tensor, mask: Mask, layer: Layer) -> Tensor:
    """A layer's input, packed or not, times the mask.

    What a mask that the batch shares drops is zero whatever it was, as where it is never read.
    """
    shared = mask.index is not None
    factor = mask.kept() if shared else mask.multiplier(x.dtype)
    if layer.batch_sizes is not None:
        factor = Rows(layer, x).spread(factor)
    return torch.where(factor, x, 0) * mask.scale if shared else x * factor


def _sizes(cell: Cell, weight_hh: Tensor, weight_hr: Tensor | None) -> tuple[int, int]:
    """Units of h and of the cell."""
    shape, names = weight_hh.shape, "hidden, hidden"
    if weight_hr is not None:
        if weight_hr.dim() != 2 or 0 in weight_hr.shape:
            raise ValueError(f"weight_hr must be [projection, hidden], got {list(weight_hr.shape)}")
        names = "hidden, projection"
    hidden = None if len(shape) != 2 else shape[1] if weight_hr is None else weight_hr.shape[1]
    if hidden is None or 0 in shape or shape[0] != cell.gates * hidden:
        rows = f"{cell.gates} * " if cell.gates > 1 else ""
        raise ValueError(f"weight_hh must be [{rows}{names}], got {list(shape)}")
    return shape[1], hidden


def recurrences(
    cell: Cell, directions: Sequence[Direction], *, batch_sizes: Tensor | None = None
) -> list[tuple[Tensor, States]]:
    """y and the last states of each direction of one layer, of any cell: see ``lstm``."""
    checked = [_checked(cell, direction, batch_sizes) for direction in directions]
    runs, tensors = zip(*checked, strict=True)
    x = tensors[0][0]
    with without_autocast(x):
        return [(y, tuple(last)) for y, *last in _run(runs, tensors)]


def _checked(
    cell: Cell, direction: Direction, batch_sizes: Tensor | None
) -> tuple[_Run, tuple[Tensor | None, ...]]:
    x, states, weights, input_mask, recurrent_mask, reverse = direction
    if batch_sizes is None:
        check_input(x, 3, "[steps, batch, input]")
        steps, batch, features = x.shape
    else:
        check_input(x, 2, "[rows of all steps, input]")
        sizes = check_batch_sizes(batch_sizes, x.shape[0])
        steps, batch, features = len(sizes), sizes[0], x.shape[1]
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    units, hidden = _sizes(cell, weight_hh, weight_hr)
    gates = cell.gates * hidden
    h0 = x.new_zeros(batch, units) if states is None else states[0]
    c0 = None
    if cell.has_c:
        c0 = states[1] if states is not None else h0 if units == hidden else x.new_zeros(batch, hidden)
    bf16, dtype = may_round(x), autocast_to(x, weight_hh)
    with without_autocast(x):
        x, h0, c0 = cast(dtype, x, h0, c0)
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights = cast(dtype, *weights)
        check_operand("h0", h0, (batch, units), x)
        check_operand("c0", c0, (batch, hidden), x)
        check_operand("weight_ih", weight_ih, (gates, features), x)
        check_operand("weight_hh", weight_hh, (gates, units), x)
        check_operand("bias_ih", bias_ih, (gates,), x)
        check_operand("bias_hh", bias_hh, (gates,), x)
        check_operand("weight_hr", weight_hr, (units, hidden), x)
        check_mask("input_mask", input_mask, steps, batch, features, x.device)
        check_mask("recurrent_mask", recurrent_mask, steps, batch, units, x.device)
        layer = Layer(cell, reverse, batch_sizes, bf16, states is None)
        if input_mask is not None and input_mask.index is None:
            x = times_mask(x, input_mask, layer)
        multiplier = None
        if recurrent_mask is not None and recurrent_mask.index is None:
            multiplier = recurrent_mask.multiplier(x.dtype)
        recurrent_keep = keep_of(recurrent_mask)
        # On a GPU the first step's product takes less than the kernels that would spare it.
        if states is None and multiplier is None and x.is_cpu:
            recurrent_keep = _from_second_turn(recurrent_keep, steps, units, reverse, x.device)
    return _Run(layer, keep_of(input_mask), recurrent_keep), (x, h0, c0, *weights, multiplier)


def recurrence(
    cell: Cell,
    x: Tensor,
    states: States | None,
    weights: Weights,
    input_mask: Mask | None,
    recurrent_mask: Mask | None,
    *,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, States]:
    """One layer of any cell in one direction: see ``lstm``."""
    direction = Direction(x, states, weights, input_mask, recurrent_mask, reverse)
    return recurrences(cell, [direction], batch_sizes=batch_sizes)[0]


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    weight_hr: Tensor | None = None,
    input_mask: Mask | None = None,
    recurrent_mask: Mask | None = None,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer over a sequence, with dropout on its input and on its hidden state.

    At step t the products see ``x[t]`` dropped by ``input_mask`` and the h that enters the step (h0
    included) dropped by ``recurrent_mask``. The cell state and the h that is returned are never dropped.
    Under autocast it runs in the weights' dtype on a CPU (the operands of its products may be rounded to
    bfloat16, if that is asked for and faster), on a GPU in the dtype that is asked for.

    Args:
        x: ``[steps, batch, input]``.
        hx: h0 and c0, ``[batch, hidden]`` each, or None for zeros, which spares the first step's products.
        weight_ih: ``[4 * hidden, input]``, gates in torch's order.
        weight_hh: ``[4 * hidden, hidden]``.
        bias_ih: ``[4 * hidden]``, or None.
        bias_hh: ``[4 * hidden]``, or None.
        weight_hr: ``[projection, hidden]``, which makes h of what comes out of the cell (Sak et al. 2014,
            torch's ``proj_size``), or None. With it weight_hh is ``[4 * hidden, projection]``, and h0, y, h
            and the recurrent mask have ``projection`` units in place of ``hidden``.
        input_mask: a mask drawn for ``[steps, batch, input]``, or None to drop nothing. Step t is x[t],
            whatever the direction.
        recurrent_mask: the same for ``[steps, batch, hidden]``.
        reverse: run from the last step to the first.
        batch_sizes: rows of each step if x holds those of a packed sequence, ``[rows, input]``, as
            ``torch.nn.utils.rnn.PackedSequence.batch_sizes``. Rows of hx and masks are in its order.

    Returns:
        y ``[steps, batch, hidden]`` (``[rows, hidden]``), and each row's last h and c, ``[batch, hidden]``.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit.
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    y, (h, c) = recurrence(
        cells.LSTM, x, hx, weights, input_mask, recurrent_mask, reverse=reverse, batch_sizes=batch_sizes
    )
    return y, (h, c)


def _of_h_alone(cell: Cell, what: str) -> Any:
    def function(
        x: Tensor,
        hx: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
        *,
        input_mask: Mask | None = None,
        recurrent_mask: Mask | None = None,
        reverse: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        weights = (weight_ih, weight_hh, bias_ih, bias_hh, None)
        states = None if hx is None else (hx,)
        y, (h,) = recurrence(
            cell, x, states, weights, input_mask, recurrent_mask, reverse=reverse, batch_sizes=batch_sizes
        )
        return y, h

    rows, order = (f"{cell.gates} * hidden", ", gates in torch's order") if cell.gates > 1 else ("hidden", "")
    function.__name__ = function.__qualname__ = _name(cell)
    function.__doc__ = f"""One {what} layer over a sequence, with dropout on its input and hidden state.

    As ``lstm``, without a cell state.

    Args:
        x: ``[steps, batch, input]``.
        hx: h0 ``[batch, hidden]``, or None for zeros, which spares the first step's products.
        weight_ih: ``[{rows}, input]``{order}.
        weight_hh: ``[{rows}, hidden]``.
        bias_ih: ``[{rows}]``, or None.
        bias_hh: ``[{rows}]``, or None.
        input_mask: a mask drawn for ``[steps, batch, input]``, or None to drop nothing.
        recurrent_mask: the same for ``[steps, batch, hidden]``.
        reverse: run from the last step to the first.
        batch_sizes: rows of each step if x holds those of a packed sequence, as in ``lstm``.

    Returns:
        y ``[steps, batch, hidden]`` (``[rows, hidden]``), and each row's last h ``[batch, hidden]``.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit.
    """
    return function


gru = _of_h_alone(cells.GRU, "GRU")
rnn_tanh = _of_h_alone(cells.RNN_TANH, "RNN (tanh)")
rnn_relu = _of_h_alone(cells.RNN_RELU, "RNN (relu)")
