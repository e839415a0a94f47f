"""Cells: what happens to the gates between two products, and its derivative, in plain PyTorch.

A cell's gates get a share from the step's input and one from the hidden state of the step before, biases
included. All cells are called alike; c is None where a cell has none, and so is its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Gradients(NamedTuple):
    """What a cell's step gives back. Shapes ``[B, gates * H]`` twice, ``[B, H]`` twice."""

    of_input: Tensor  # of the input's share of the gates
    of_hidden: Tensor  # of the hidden state's share
    h: Tensor | None  # of the h of the step before, but for the product's share; None is zero
    c: Tensor | None


@dataclass(frozen=True)
class Cell:
    """A kind of recurrent cell.

    Attributes:
        name: as torch calls the mode: ``LSTM``, ``GRU``, ``RNN_TANH``, ``RNN_RELU``.
        gates: sets of H rows in its weights, in torch's order.
        has_c: whether it carries a cell state c beside h.
    """

    name: str
    gates: int
    has_c: bool = False

    def forward(
        self, of_input: Tensor, of_hidden: Tensor, h: Tensor, c: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
        """One step from the gates' shares ``[B, gates * H]`` and the states before ``[B, H]``.

        Returns:
            What ``backward`` needs, each ``[B, …]``, and h and c of this step.
        """
        raise NotImplementedError

    def backward(
        self, dh: Tensor, dc: Tensor | None, saved: tuple[Tensor, ...], h: Tensor, c: Tensor | None
    ) -> Gradients:
        """The derivative of ``forward``: dh and dc are this step's, h and c those before the step."""
        raise NotImplementedError


class _LSTM(Cell):
    """Sarma et al. eqs. 1 to 6, and 7 to 9; gates i, f, g, o."""

    def forward(self, of_input: Tensor, of_hidden: Tensor, h: Tensor, c: Tensor | None) -> Any:
        assert c is not None
        i, f, g, o = (of_input + of_hidden).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        return (torch.cat((i, f, g, o), 1), c), o * c.tanh(), c

    def backward(self, dh: Tensor, dc: Tensor | None, saved: Any, h: Tensor, c: Tensor | None) -> Gradients:
        assert c is not None
        active, c_after = saved
        i, f, g, o = active.chunk(4, 1)
        tanh_c = c_after.tanh()
        # 1 - tanh² as a product, which stays accurate to the last bit where tanh is close to 1.
        through_h = dh * o * ((1 - tanh_c) * (1 + tanh_c))
        through = through_h if dc is None else dc + through_h
        gates = (
            through * g * i * (1 - i),
            through * c * f * (1 - f),
            through * i * ((1 - g) * (1 + g)),
            dh * tanh_c * o * (1 - o),
        )
        dgates = torch.cat(gates, 1)
        return Gradients(dgates, dgates, None, through * f)


class _GRU(Cell):
    """Cho et al. (2014) as torch has it: gates r, z, n, and r acts on the product of h, not on h."""

    def forward(self, of_input: Tensor, of_hidden: Tensor, h: Tensor, c: Tensor | None) -> Any:
        hidden = h.shape[1]
        r, z = (of_input + of_hidden)[:, : 2 * hidden].sigmoid().chunk(2, 1)
        share = of_hidden[:, 2 * hidden :]
        n = (of_input[:, 2 * hidden :] + r * share).tanh()
        return (torch.cat((r, z, n), 1), share), n + z * (h - n), None

    def backward(self, dh: Tensor, dc: Tensor | None, saved: Any, h: Tensor, c: Tensor | None) -> Gradients:
        active, share = saved
        r, z, n = active.chunk(3, 1)
        dn = dh * (1 - z) * ((1 - n) * (1 + n))
        dr = dn * share * r * (1 - r)
        dz = dh * (h - n) * z * (1 - z)
        return Gradients(torch.cat((dr, dz, dn), 1), torch.cat((dr, dz, dn * r), 1), dh * z, None)


class _RNN(Cell):
    """Elman's network with tanh or relu."""

    def forward(self, of_input: Tensor, of_hidden: Tensor, h: Tensor, c: Tensor | None) -> Any:
        gate = of_input + of_hidden
        h = gate.tanh() if self.name == "RNN_TANH" else gate.relu()
        return (h,), h, None

    def backward(self, dh: Tensor, dc: Tensor | None, saved: Any, h: Tensor, c: Tensor | None) -> Gradients:
        (after,) = saved
        dgate = dh * ((1 - after) * (1 + after) if self.name == "RNN_TANH" else after > 0)
        return Gradients(dgate, dgate, None, None)


LSTM: Cell = _LSTM("LSTM", 4, has_c=True)
GRU: Cell = _GRU("GRU", 3)
RNN_TANH: Cell = _RNN("RNN_TANH", 1)
RNN_RELU: Cell = _RNN("RNN_RELU", 1)

CELLS = {cell.name: cell for cell in (LSTM, GRU, RNN_TANH, RNN_RELU)}
