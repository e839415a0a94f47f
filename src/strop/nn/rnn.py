"""Recurrent layers with structured dropout, on torch's contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from strop import functional
from strop.pattern import Mask, Pattern, check_probability

Hidden = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a stack over one sequence, one per layer each; None where nothing is dropped.

    Attributes:
        input: of each layer's input.
        recurrent: of each layer's hidden state.
    """

    input: tuple[Mask | None, ...]
    recurrent: tuple[Mask | None, ...]


def pattern_template(pattern: str | Pattern, block: int) -> Pattern:
    """The pattern that ``pattern=`` and ``block=`` of a constructor mean, with a p to be filled in."""
    if isinstance(pattern, str):
        return Pattern.named(pattern, 0.0, block)
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a name or a strop.Pattern, got {pattern!r}")
    if block not in (1, pattern.block):
        raise ValueError(f"block must be given in the pattern or beside its name, got {block} and {pattern}")
    return replace(pattern, p=0.0)


def check_block(pattern: Pattern, p: float, name: str, units: int) -> None:
    """Refuse a block that does not divide ``units`` that are dropped (``p`` > 0)."""
    if p and units % pattern.block:
        raise ValueError(
            f"block must divide {name} to drop it in blocks, got block={pattern.block}, {name}={units}"
        )


@lru_cache
def _with_probability(pattern: Pattern, p: float) -> Pattern:
    return replace(pattern, p=p)


class LSTM(nn.RNNBase):
    """``torch.nn.LSTM`` with structured dropout on its inputs and on its hidden states.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, device, dtype: as ``torch.nn.LSTM``.
        dropout: probability of a unit to be dropped between layers, in [0, 1).
        bidirectional, proj_size: not supported yet; use ``torch.nn.LSTM``.
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
        NotImplementedError: ``bidirectional`` or ``proj_size`` is given.
    """

    weight_ih_l0: nn.Parameter

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
        dropout = check_probability("dropout", dropout)
        input_dropout = check_probability("input_dropout", input_dropout)
        recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        if bidirectional:
            raise NotImplementedError("bidirectional=True is not supported yet: use torch.nn.LSTM")
        if proj_size:
            raise NotImplementedError(f"proj_size={proj_size} is not supported yet: use torch.nn.LSTM")
        template = pattern_template(pattern, block)
        super().__init__(
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
        )
        check_block(template, input_dropout, "input_size", input_size)
        check_block(template, recurrent_dropout or (num_layers > 1 and dropout), "hidden_size", hidden_size)
        self.input_dropout = input_dropout
        self.recurrent_dropout = recurrent_dropout
        self.pattern = template

    def draw(self, steps: int, batch: int, *, generator: torch.Generator | None = None) -> Masks:
        """Draw the masks of ``steps`` steps of ``batch`` rows, for ``forward(masks=)``.

        Randomness comes from ``generator``, or else from torch's global one.
        """
        device = self.weight_ih_l0.device

        def mask(p: float, units: int) -> Mask | None:
            return _with_probability(self.pattern, p).draw(
                steps, units, batch, generator=generator, device=device
            )

        layers = range(self.num_layers)
        return Masks(
            tuple(
                mask(self.dropout, self.hidden_size) if layer else mask(self.input_dropout, self.input_size)
                for layer in layers
            ),
            tuple(mask(self.recurrent_dropout, self.hidden_size) for _ in layers),
        )

    def forward(
        self, input: Tensor, hx: Hidden | None = None, *, masks: Masks | None = None
    ) -> tuple[Tensor, Hidden]:
        """``torch.nn.LSTM``'s contract, for batched sequences.

        Args:
            input: ``[time, batch, input_size]``, or ``[batch, time, input_size]`` if ``batch_first``.
            hx: h0 and c0, ``[num_layers, batch, hidden_size]`` each; zeros if None.
            masks: what to drop, in training and in evaluation; None draws in training and drops nothing
                in evaluation.

        Returns:
            The last layer's h of every step, laid out as the input, and the last h and c of every layer.

        Raises:
            NotImplementedError: a PackedSequence or an unbatched input.
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        self._update_flat_weights()
        self._check(input, hx)
        x = input.transpose(0, 1) if self.batch_first else input
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        masks = self._masks(masks, x)
        if masks is None or not any((*masks.input, *masks.recurrent)):
            weights: list[Tensor] = self._flat_weights  # type: ignore[assignment]
            y, hx = functional.dense_lstm(x, hx, weights, self.bias)
        else:
            of_layers = [[getattr(self, name) for name in names] for names in self._all_weights]
            y, hx = functional.lstm_layers(x, hx, of_layers, masks.input, masks.recurrent)
        return y.transpose(0, 1) if self.batch_first else y, hx

    def _masks(self, masks: Masks | None, x: Tensor) -> Masks | None:
        """The masks to use on x ``[T, B, I]``: those given, after a check, or new ones in training."""
        steps, batch, _ = x.shape
        if masks is None:
            # An empty batch has nothing to drop.
            return self.draw(steps, batch) if self.training and batch else None
        if not isinstance(masks, Masks):
            raise TypeError(f"masks must be what draw() returns, got {type(masks).__name__}")
        for kind in ("input", "recurrent"):
            given = getattr(masks, kind)
            if len(given) != self.num_layers:
                raise ValueError(
                    f"masks.{kind} must have {self.num_layers} masks, one a layer, got {len(given)}"
                )
            for layer, mask in enumerate(given):
                units = self.input_size if kind == "input" and layer == 0 else self.hidden_size
                functional.check_mask(f"masks.{kind}[{layer}]", mask, steps, batch, units, x.device)
        return masks

    def _check(self, input: Tensor, hx: Hidden | None) -> None:
        """Refuse what does not fit; torch's own errors where torch has one."""
        if isinstance(input, PackedSequence):
            raise NotImplementedError("input: a PackedSequence is not supported yet: use torch.nn.LSTM")
        if input.dim() == 2:
            raise NotImplementedError(
                f"input: an unbatched {list(input.shape)} is not supported yet: "
                f"give it a batch axis (unsqueeze({0 if self.batch_first else 1})), or use torch.nn.LSTM"
            )
        if input.dim() != 3:
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        weight = self.weight_ih_l0
        if input.device != weight.device:
            raise RuntimeError(
                "Input and parameter tensors are not at the same device, "
                f"found input tensor at {input.device} and parameter tensor at {weight.device}"
            )
        self.check_input(input, None)
        shape = self.get_expected_hidden_size(input, None)
        if hx is None:
            return
        h, c = hx
        if h.dim() != 3 or c.dim() != 3:
            raise RuntimeError(
                "For batched 3-D input, hx and cx should also be 3-D "
                f"but got ({h.dim()}-D, {c.dim()}-D) tensors"
            )
        for index, state in enumerate(hx):
            self.check_hidden_size(state, shape, f"Expected hidden[{index}] size {{}}, got {{}}")
            if state.dtype != input.dtype or state.device != input.device:
                raise RuntimeError(
                    f"hidden[{index}] must be {input.dtype} on {input.device} as the input is, "
                    f"got {state.dtype} on {state.device}"
                )

    def extra_repr(self) -> str:
        """torch's, and what is dropped."""
        extra = super().extra_repr()
        for name in ("input_dropout", "recurrent_dropout"):
            extra += f", {name}={getattr(self, name)}" if getattr(self, name) else ""
        if self.dropout or self.input_dropout or self.recurrent_dropout:
            extra += f", pattern={self.pattern.name}"
            extra += f", block={self.pattern.block}" if self.pattern.block != 1 else ""
        return extra
