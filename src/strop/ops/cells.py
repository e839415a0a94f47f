"""Cells: what happens to the gates between two products, and its derivative, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the LSTM (Sarma et al. eqs. 1 to 6; gates in torch's order i, f, g, o).

    Args:
        gates: ``[B, 4H]``, before their nonlinearities.
        c: cell state ``[B, H]`` of the step before.

    Returns:
        The gates after their nonlinearities ``[B, 4H]``, and this step's h and c ``[B, H]``.
    """
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return torch.cat((i, f, g, o), 1), o * c.tanh(), c


def lstm_backward(
    dh: Tensor, dc: Tensor | None, active: Tensor, c: Tensor, c_before: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivative of ``lstm`` (eqs. 7 to 9).

    Args:
        dh, dc: gradients of this step's h and c ``[B, H]``; None is zero.
        active: the gates after their nonlinearities ``[B, 4H]``.
        c, c_before: cell states ``[B, H]`` after and before this step.

    Returns:
        Gradients of the gates before their nonlinearities ``[B, 4H]`` and of ``c_before`` ``[B, H]``.
    """
    i, f, g, o = active.chunk(4, 1)
    tanh_c = c.tanh()
    # 1 - tanh² as a product, which stays accurate to the last bit where tanh is close to 1.
    through_h = dh * o * ((1 - tanh_c) * (1 + tanh_c))
    dc = through_h if dc is None else dc + through_h
    dgates = torch.cat(
        (
            dc * g * i * (1 - i),
            dc * c_before * f * (1 - f),
            dc * i * ((1 - g) * (1 + g)),
            dh * tanh_c * o * (1 - o),
        ),
        1,
    )
    return dgates, dc * f
