"""The LSTM with projections (Sak et al. 2014; torch's ``proj_size``): a loop over the steps in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from strop.functional.autograd import without_autocast
from strop.functional.checks import check_mask, keep_of
from strop.ops import cells, products
from strop.ops.recurrence import Layer, Rows
from strop.pattern import Mask


def _dropped(x: Tensor, mask: Mask | None, rows: Rows, at: slice = slice(None)) -> Tensor:
    if mask is None:
        return x
    keep = keep_of(mask)
    if keep is None:
        return x * rows.spread(mask.multiplier(x.dtype))[at]
    dropped = rows.spread(products.dropped(keep, mask.steps, mask.units))[at]
    return (x * mask.scale).masked_fill(dropped, 0)


def projected_lstm(
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    weight_hr: Tensor,
    input_mask: Mask | None,
    recurrent_mask: Mask | None,
    *,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``lstm`` whose h is ``weight_hr`` ``[projection, hidden]`` times the cell's output.

    weight_hh is ``[4 * hidden, projection]``, h and y have ``projection`` units, c has ``hidden``.
    """
    with without_autocast(x) as autocast:
        if autocast is not None:
            x = x.to(weight_hr.dtype)
            states = None if states is None else tuple(state.to(weight_hr.dtype) for state in states)
        return _loop(x, states, weights, weight_hr, input_mask, recurrent_mask, reverse, batch_sizes)


def _loop(
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    weight_hr: Tensor,
    input_mask: Mask | None,
    recurrent_mask: Mask | None,
    reverse: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    layer = Layer(cells.LSTM, reverse, batch_sizes)
    rows = Rows(layer, x)
    steps, batch, hidden = len(rows.turns), rows.count(0), weight_hh.shape[0] // 4
    check_mask("input_mask", input_mask, steps, batch, x.shape[-1], x.device)
    check_mask("recurrent_mask", recurrent_mask, steps, batch, len(weight_hr), x.device)
    of_input = linear(_dropped(x.reshape(len(rows), -1), input_mask, rows), weight_ih, bias_ih)
    if states is None:
        states = of_input.new_zeros(batch, len(weight_hr)), of_input.new_zeros(batch, hidden)
    h, c = states
    ys: list[Tensor] = [x] * steps
    for step in rows.turns:
        at, count = rows.of(step), rows.count(step)
        before = _dropped(h[:count], recurrent_mask, rows, at)
        of_hidden = linear(before, weight_hh, bias_hh)
        _, raw, c_step = cells.LSTM.forward(of_input[at], of_hidden, h[:count], c[:count])
        assert c_step is not None
        ys[step] = linear(raw, weight_hr)
        h, c = torch.cat((ys[step], h[count:])), torch.cat((c_step, c[count:]))
    return torch.cat(ys).view(*x.shape[:-1], -1), (h, c)
