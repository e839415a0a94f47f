"""Recurrent layers with structured dropout, on torch's contract."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from strop.nn import tracing
from strop.nn.masks import Masks
from strop.nn.recurrent import Recurrent
from strop.pattern import Pattern

Hidden = tuple[Tensor, Tensor]

tracing.admit(Recurrent)


class LSTM(Recurrent, nn.LSTM):
    """``torch.nn.LSTM`` with structured dropout on its inputs and on its hidden states.

    Sarma et al. (NeurIPS 2021), section 3. Takes the arguments of ``torch.nn.LSTM`` in torch's order and,
    by keyword, what else is dropped. With ``proj_size`` recurrent dropout drops units of the projected h.

    Args:
        dropout: probability of a unit to be dropped between layers, in [0, 1).
        input_dropout: the same, on the first layer's input.
        recurrent_dropout: the same, on every layer's hidden state on its way to the next step. The
            cell state and the outputs are never dropped.
        pattern: ``structured`` (a new mask every step, shared by the batch), ``fixed``, ``random``,
            ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Parameters have torch's names, shapes and initial values, so a ``state_dict`` goes into
    ``torch.nn.LSTM`` and back. Nothing is dropped in evaluation.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    _title = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
    ) -> None:
        Recurrent.__init__(
            self,
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            input_dropout,
            recurrent_dropout,
            pattern,
            block,
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: Hidden | None = None, masks: Masks | None = None
    ) -> tuple[Any, Hidden]:
        """``torch.nn.LSTM``'s contract.

        Args:
            input: ``[time, batch, input_size]``, ``[batch, time, input_size]`` if ``batch_first``,
                ``[time, input_size]``, or a PackedSequence.
            hx: h0 and c0, ``[num_layers * directions, batch, units]`` each (without batch for an input
                without); zeros if None.
            masks: what to drop, in training and in evaluation; None draws in training and drops nothing in
                evaluation. Rows of the batch are in the order of the sequences that were packed.

        Returns:
            The last layer's h of every step, laid out as the input, directions side by side, and the last h
            and c of every layer and direction.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        return self._run(input, hx, masks)


class GRU(Recurrent, nn.GRU):
    """``torch.nn.GRU`` with structured dropout on its inputs and on its hidden states.

    Takes the arguments of ``torch.nn.GRU`` in torch's order and, by keyword, what else is dropped. The
    hidden state is dropped on its way into the products alone: the update gate mixes in the whole one, and
    the reset gate is applied after the product, as torch does. Parameters are torch's, as in ``strop.LSTM``.

    Args:
        dropout: probability of a unit to be dropped between layers, in [0, 1).
        input_dropout: probability of a unit of the first layer's input to be dropped, in [0, 1).
        recurrent_dropout: the same, of every layer's hidden state on its way to the next step.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    _title = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
    ) -> None:
        Recurrent.__init__(
            self,
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            input_dropout,
            recurrent_dropout,
            pattern,
            block,
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, masks: Masks | None = None
    ) -> tuple[Any, Tensor]:
        """``torch.nn.GRU``'s contract.

        Args:
            input: ``[time, batch, input_size]``, ``[batch, time, input_size]`` if ``batch_first``,
                ``[time, input_size]``, or a PackedSequence.
            hx: h0 ``[num_layers * directions, batch, hidden_size]`` (without batch for an input without);
                zeros if None.
            masks: what to drop, as in ``LSTM.forward``.

        Returns:
            The last layer's h of every step, laid out as the input, directions side by side, and the last
            h of every layer and direction.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        return self._run(input, hx, masks)


class RNN(Recurrent, nn.RNN):
    """``torch.nn.RNN`` (``nonlinearity`` tanh or relu) with structured dropout on inputs and hidden states.

    Takes the arguments of ``torch.nn.RNN`` in torch's order and, by keyword, what else is dropped.
    Parameters are torch's, as in ``strop.LSTM``.

    Args:
        dropout: probability of a unit to be dropped between layers, in [0, 1).
        input_dropout: probability of a unit of the first layer's input to be dropped, in [0, 1).
        recurrent_dropout: the same, of every layer's hidden state on its way to the next step.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    _title = "RNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self.nonlinearity = nonlinearity
        Recurrent.__init__(
            self,
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
            input_dropout,
            recurrent_dropout,
            pattern,
            block,
        )

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None, masks: Masks | None = None
    ) -> tuple[Any, Tensor]:
        """``torch.nn.RNN``'s contract.

        Args:
            input: ``[time, batch, input_size]``, ``[batch, time, input_size]`` if ``batch_first``,
                ``[time, input_size]``, or a PackedSequence.
            hx: h0 ``[num_layers * directions, batch, hidden_size]`` (without batch for an input without);
                zeros if None.
            masks: what to drop, as in ``LSTM.forward``.

        Returns:
            The last layer's h of every step, laid out as the input, directions side by side, and the last
            h of every layer and direction.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        return self._run(input, hx, masks)
