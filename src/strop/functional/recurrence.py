"""A recurrent layer over a sequence, with dropout on its input and on its hidden state."""

from __future__ import annotations

from functools import partial
from itertools import pairwise, zip_longest
from typing import Any

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


class _Recurrence(torch.autograd.Function):
    """A layer's whole sequence in one direction."""

    @staticmethod
    def forward(
        ctx: Any,
        layer: Layer,
        x: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        input_keep: Keep | None,
        recurrent_keep: Keep | None,
        recurrent_mask: Tensor | None,
    ) -> tuple[Tensor, ...]:
        backend = dispatch.recurrence(x, w_hr is not None)
        masks = (input_keep, recurrent_keep, recurrent_mask)
        projection = () if w_hr is None else (w_hr,)
        y, h, c, saved = backend.forward(layer, x, h0, c0, w_ih, w_hh, b_ih, b_hh, *masks, *projection)
        ctx.set_materialize_grads(False)
        ctx.backend, ctx.layer, ctx.input_keep, ctx.recurrent_keep = (
            backend,
            layer,
            input_keep,
            recurrent_keep,
        )
        ctx.save_for_backward(x, y, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, recurrent_mask, *saved)
        return (y, h) if c is None else (y, h, c)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Any:
        x, y, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, recurrent_mask, *saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:9]
        masks = (ctx.input_keep, ctx.recurrent_keep, recurrent_mask)
        if torch.is_grad_enabled() or is_one_of_many(grad_outputs):
            with without_autocast(x):
                operands = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr)
                run = partial(_plain, ctx.layer, masks=masks)
                grads = gradients_by_autograd(run, operands, needed, grad_outputs)
            return None, *grads, None, None, None
        need_x, need_h0, need_c0, *need_weights = needed
        projection = () if w_hr is None else (w_hr,)
        dy, dh, dc = (None if grad is None else grad.contiguous() for grad in (*grad_outputs, None)[:3])
        dx = dh0 = dc0 = None
        dweights: tuple[Tensor, ...] = ()
        if dy is not None or dh is not None or dc is not None:
            with torch.no_grad(), without_autocast(x):
                states = (x, y, h0, c0, w_ih, w_hh, tuple(saved))
                dgates, dx, dh0, dc0 = ctx.backend.backward(
                    ctx.layer, dy, dh, dc, *states, *masks, need_x, *projection
                )
                if any(need_weights):
                    dweights = ctx.backend.weight_grad(ctx.layer, x, y, h0, dgates, *masks)
        wanted = zip_longest(dweights, need_weights)
        return (
            *(None, dx, dh0 if need_h0 else None, dc0 if need_c0 else None),
            *(grad if need else None for grad, need in wanted),
            *(None, None, None),
        )


def _plain(layer: Layer, x: Tensor, *operands: Any, masks: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layer by torch's operations: y, the last h and c."""
    *others, w_hr = operands
    given: Any = (*others, *masks, w_hr)
    return plain.forward(layer, x, *given)[: 3 if layer.cell.has_c else 2]


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


def _run(
    layer: Layer,
    x: Tensor,
    operands: tuple[Tensor | None, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, ...]:
    if x.is_complex():  # there are no kernels
        masks = (input_keep, recurrent_keep, recurrent_mask)
        return _plain(layer, x, *operands, masks=masks)
    compiling = torch.compiler.is_compiling()
    if not compiling and not transforming():
        # Here, where autograd follows it.
        operands = tuple(None if each is None else each.contiguous() for each in operands)
        return _Recurrence.apply(layer, x.contiguous(), *operands, input_keep, recurrent_keep, recurrent_mask)
    lists = (*(input_keep or _NO_LISTS), *(recurrent_keep or _NO_LISTS))
    operator = compiled.recurrence_forward if compiling else transforms.recurrence
    layout = compiled.layout(x.device.type, x.dtype, operands[-1] is not None) if compiling else ""
    what = layer.cell.name, layer.reverse, layer.bf16, layout, layer.batch_sizes
    found = operator(*what, x, *operands, *lists, recurrent_mask)
    return found[: 3 if layer.cell.has_c else 2]


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
        y, *last = _run(layer, x, (h0, c0, *weights), keep_of(input_mask), recurrent_keep, multiplier)
    return y, tuple(last)


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
