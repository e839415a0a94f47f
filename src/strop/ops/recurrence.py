"""The LSTM over a sequence, and back-propagation through time, in plain PyTorch.

Every backend's recurrence has these three functions. Shapes: x ``[T, B, I]``, y ``[T, B, H]``, h and c
``[B, H]``, weights ``[4H, I]`` and ``[4H, H]`` in torch's gate order, T and B at least 1. At most one of
``recurrent_keep`` (shared by the batch) and ``recurrent_mask`` (a multiplier ``[T or 1, B, H]``) is given;
at step t it drops ``h[t-1]`` on its way into the product, h0 included, never the h that is returned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strop.ops import cells, products
from strop.ops.products import Keep


class _StepDrop:
    """The recurrent drop of one step at a time."""

    def __init__(self, keep: Keep | None, mask: Tensor | None, steps: int, hidden: int) -> None:
        if keep is not None and mask is not None:
            raise ValueError("only one of recurrent_keep and recurrent_mask can be given")
        self.dropped = None if keep is None else products.dropped(keep, steps, hidden)
        self.scale = 1.0 if keep is None else keep.scale
        self.mask = None if mask is None else mask.expand(steps, *mask.shape[1:])

    def __call__(self, h: Tensor, step: int) -> Tensor:
        if self.dropped is not None:
            return (h * self.scale).masked_fill_(self.dropped[step], 0)
        return h if self.mask is None else h * self.mask[step]


def lstm_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """FP over the sequence.

    Returns:
        y, the last cell state, and what ``lstm_backward`` needs: here the gates after their
        nonlinearities ``[T, B, 4H]`` and all cell states ``[T, B, H]``.
    """
    bias = b_ih if b_hh is None else b_hh if b_ih is None else b_ih + b_hh
    gates = products.forward(x, w_ih, bias, input_keep)
    drop = _StepDrop(recurrent_keep, recurrent_mask, x.shape[0], h0.shape[1])
    active, hs, cs = [], [], []
    h, c = h0, c0
    for step in range(x.shape[0]):
        a, h, c = cells.lstm(torch.addmm(gates[step], drop(h, step), w_hh.mT), c)
        active.append(a)
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), c, (torch.stack(active), torch.stack(cs))


def lstm_backward(
    dy: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    saved: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
    need_dx: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """BP through time, from the gradients of y, of the last h and of the last c (None is zero).

    Returns:
        Gradients of the gates (in the backend's own layout, for ``lstm_weight_grad``; here
        ``[T, B, 4H]``), of x if ``need_dx``, of h0 and of c0.
    """
    active, cs = saved
    drop = _StepDrop(recurrent_keep, recurrent_mask, y.shape[0], y.shape[2])
    dgates = torch.empty_like(active)
    dh = torch.zeros_like(h0) if dh_last is None else dh_last
    dc = dc_last
    for step in reversed(range(y.shape[0])):
        if dy is not None:
            dh = dh + dy[step]
        dgates[step], dc = cells.lstm_backward(dh, dc, active[step], cs[step], cs[step - 1] if step else c0)
        dh = drop(dgates[step] @ w_hh, step)
    assert dc is not None
    return dgates, products.input_grad(dgates, w_ih, input_keep) if need_dx else None, dh, dc


def lstm_weight_grad(
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    dgates: Tensor,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """WG: gradients of both weights and of either bias (they share one)."""
    states = torch.cat((h0.unsqueeze(0), y[:-1]))
    if recurrent_mask is not None:
        states = states * recurrent_mask
    return (
        products.weight_grad(x, dgates, input_keep),
        products.weight_grad(states, dgates, recurrent_keep),
        dgates.sum((0, 1)),
    )
