"""Single steps of a recurrence with structured dropout, on torch's contract."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from strop.functional.autograd import autocast_dtype
from strop.functional.checks import check_tensor
from strop.functional.recurrence import States
from strop.functional.stack import step
from strop.nn.deployment import Unscripted
from strop.nn.masks import Masks, check_block, pattern_template, repr_of_drops, with_probability
from strop.nn.taken_over import drops_input, get_share, set_share, source_of
from strop.ops.cells import CELLS
from strop.pattern import Mask, Pattern, check_probability


class _Drops(Unscripted, nn.RNNCellBase):
    """Beside one of torch's cells: what it drops."""

    def _set_drops(
        self, input_dropout: float, recurrent_dropout: float, pattern: str | Pattern, block: int
    ) -> None:
        self.input_dropout = check_probability("input_dropout", input_dropout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.pattern = pattern_template(pattern, block)
        check_block(self.pattern, input_dropout, "input_size", self.input_size)
        check_block(self.pattern, recurrent_dropout, "hidden_size", self.hidden_size)

    @property
    def input_dropout(self) -> float:
        """Probability of an input unit to be dropped."""
        return get_share(self, "_input_dropout")

    @input_dropout.setter
    def input_dropout(self, p: float) -> None:
        set_share(self, "_input_dropout", p)

    def _shares(self) -> tuple[float, float]:
        """What a call drops of the input and of the state."""
        of_input, of_state = self.input_dropout, self.recurrent_dropout
        of_input = of_input if of_input and drops_input(self) else 0.0
        return of_input, of_state if of_state and self.training else 0.0

    def draw(self, batch: int, *, generator: torch.Generator | None = None) -> Masks:
        """Draw the masks of one step of ``batch`` rows, for ``forward(masks=)``.

        Args:
            batch: rows of the batch; 1 for an input without.
            generator: where randomness comes from, else torch's global one.

        Raises:
            TypeError, ValueError: the size is no int, or below 1.
        """
        return self._draw(batch, (self.input_dropout, self.recurrent_dropout), generator)

    def _draw(
        self,
        batch: int,
        shares: tuple[float, float],
        generator: torch.Generator | None = None,
        source: Any = None,
    ) -> Masks:
        device, (of_input, of_state) = self.weight_ih.device, shares

        def mask(p: float, units: int) -> Mask | None:
            return with_probability(self.pattern, p).draw(1, units, batch, generator=generator, device=device)

        if source is None:
            x = mask(of_input, self.input_size)
        else:
            x = source.draw(1, batch, self.input_size, lambda: mask(of_input, self.input_size))
        return Masks((x,), (mask(of_state, self.hidden_size),))

    def _masks(self, input: Tensor, hx: Any, masks: Masks | None) -> Masks | None:
        """The masks to use on what fits; None if nothing is dropped."""
        check_tensor("input", input)
        if not self._fits(input, hx):
            self._refuse(input, hx)
        shares = self._shares()
        if masks is None and not any(shares):
            return None
        if not input.numel():  # an empty batch has nothing to drop
            return None
        batch = len(input) if input.dim() == 2 else 1
        if masks is None:
            masks = self._draw(batch, shares, source=source_of(self))
        elif not isinstance(masks, Masks):
            raise TypeError(f"masks must be what draw() returns, got {type(masks).__name__}")
        masks.check(1, batch, (self.input_size,), self.hidden_size, input)
        return masks if masks.input[0] or masks.recurrent[0] else None

    def _states(self, hx: Any) -> Any:
        return () if hx is None else hx if isinstance(self, LSTMCell) else (hx,)

    def _fits(self, input: Any, hx: Any) -> bool:
        """Whether these are of the sizes, dtype and device that a step takes.

        Asked whether something is dropped or not: torch's operators end the process on some of what does not
        fit (pytorch/pytorch#175978).
        """
        if not isinstance(input, Tensor) or input.dim() not in (1, 2):
            return False
        states, wanted = self._states(hx), 0 if hx is None else 2 if isinstance(self, LSTMCell) else 1
        if not isinstance(states, tuple | list) or len(states) != wanted:
            return False
        if not all(isinstance(state, Tensor) and state.dim() == input.dim() for state in states):
            return False
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return True  # a size that is compared would be a constant of the trace
        shape = (*input.shape[:-1], self.hidden_size)
        if input.shape[-1] != self.input_size or any(state.shape != shape for state in states):
            return False
        weight = self.weight_ih
        return all(
            tensor.device == weight.device
            and (tensor.dtype == weight.dtype or autocast_dtype(weight) is not None)
            for tensor in (input, *states)
        )

    def _refuse(self, input: Any, hx: Any) -> NoReturn:
        """In torch's own words, where torch has any."""
        states = self._states(hx)
        if not isinstance(states, Tensor | tuple | list):
            raise TypeError(f"hx must be a tuple of two tensors, got {type(hx).__name__}")
        dims = [state.dim() if isinstance(state, Tensor) else None for state in states]
        # Of states with a batch for an input without, torch looks at the wrong axis, and may crash.
        if not (isinstance(input, Tensor) and input.dim() == 1 and 2 in dims):
            super().forward(input, hx)
        raise ValueError(
            f"input and hx must be [batch, {self.input_size}] and [batch, {self.hidden_size}], "
            f"or [{self.input_size}] and [{self.hidden_size}], {self.weight_ih.dtype} on "
            f"{self.weight_ih.device}, got {_described(input)} and {_described(hx)}"
        )

    def _step(self, mode: str, input: Tensor, states: States | None, masks: Masks) -> States:
        x = input if input.dim() == 2 else input.unsqueeze(0)
        if states is not None and input.dim() == 1:
            states = tuple(state.unsqueeze(0) for state in states)
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        weights = tuple(each for each in weights if each is not None)
        last = step(CELLS[mode], x, states, weights, masks.input[0], masks.recurrent[0])
        return last if input.dim() == 2 else tuple(state.squeeze(0) for state in last)

    def extra_repr(self) -> str:
        """torch's, and what is dropped."""
        return super().extra_repr() + repr_of_drops(self, "input_dropout", "recurrent_dropout")


def _described(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"{list(given.shape)} {given.dtype} on {given.device}"
    return " and ".join(map(_described, given)) if isinstance(given, tuple | list) else repr(given)


class LSTMCell(_Drops, nn.LSTMCell):
    """``torch.nn.LSTMCell`` with structured dropout.

    One step of ``strop.LSTM``. Takes the arguments of ``torch.nn.LSTMCell`` in torch's order and, by
    keyword, what is dropped. In training each call draws its own masks; for patterns with one mask a
    sequence (``fixed``, ``variational``) draw it once and give it to every step:
    ``cell(x, hx, masks=masks)``.

    Args:
        input_dropout: probability of an input unit to be dropped, in [0, 1).
        recurrent_dropout: the same, of the hidden state on its way into the product. The cell state and
            what is returned are never dropped.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
    ) -> None:
        nn.LSTMCell.__init__(self, input_size, hidden_size, bias, device, dtype)
        self._set_drops(input_dropout, recurrent_dropout, pattern, block)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, masks: Masks | None = None
    ) -> tuple[Tensor, Tensor]:
        """``torch.nn.LSTMCell``'s contract.

        Args:
            input: ``[batch, input_size]`` or ``[input_size]``.
            hx: h and c, ``[batch, hidden_size]`` or ``[hidden_size]`` each; zeros if None.
            masks: what to drop, in training and in evaluation; None draws in training and drops nothing in
                evaluation.

        Returns:
            The next h and c, in the shape of hx.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        masks = self._masks(input, hx, masks)
        if masks is None:
            return nn.LSTMCell.forward(self, input, hx)
        h, c = self._step("LSTM", input, hx, masks)
        return h, c


class GRUCell(_Drops, nn.GRUCell):
    """``torch.nn.GRUCell`` with structured dropout.

    One step of ``strop.GRU``. Takes the arguments of ``torch.nn.GRUCell`` in torch's order and, by
    keyword, what is dropped. In training each call draws its own masks; for patterns with one mask a
    sequence (``fixed``, ``variational``) draw it once and give it to every step:
    ``cell(x, hx, masks=masks)``.

    Args:
        input_dropout: probability of an input unit to be dropped, in [0, 1).
        recurrent_dropout: the same, of the hidden state on its way into the product. What is returned is
            never dropped.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
    ) -> None:
        nn.GRUCell.__init__(self, input_size, hidden_size, bias, device, dtype)
        self._set_drops(input_dropout, recurrent_dropout, pattern, block)

    def forward(self, input: Tensor, hx: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        """``torch.nn.GRUCell``'s contract.

        Args:
            input: ``[batch, input_size]`` or ``[input_size]``.
            hx: h ``[batch, hidden_size]`` or ``[hidden_size]``; zeros if None.
            masks: what to drop, as in ``LSTMCell.forward``.

        Returns:
            The next h, in the shape of hx.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        masks = self._masks(input, hx, masks)
        if masks is None:
            return nn.GRUCell.forward(self, input, hx)
        return self._step("GRU", input, None if hx is None else (hx,), masks)[0]


class RNNCell(_Drops, nn.RNNCell):
    """``torch.nn.RNNCell`` with structured dropout.

    One step of ``strop.RNN``. Takes the arguments of ``torch.nn.RNNCell`` in torch's order and, by
    keyword, what is dropped. In training each call draws its own masks; for patterns with one mask a
    sequence (``fixed``, ``variational``) draw it once and give it to every step:
    ``cell(x, hx, masks=masks)``.

    Args:
        input_dropout: probability of an input unit to be dropped, in [0, 1).
        recurrent_dropout: the same, of the hidden state on its way into the product. What is returned is
            never dropped.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide every size that is dropped.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
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
        nn.RNNCell.__init__(self, input_size, hidden_size, bias, nonlinearity, device, dtype)
        self._set_drops(input_dropout, recurrent_dropout, pattern, block)

    def forward(self, input: Tensor, hx: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        """``torch.nn.RNNCell``'s contract.

        Args:
            input: ``[batch, input_size]`` or ``[input_size]``.
            hx: h ``[batch, hidden_size]`` or ``[hidden_size]``; zeros if None.
            masks: what to drop, as in ``LSTMCell.forward``.

        Returns:
            The next h, in the shape of hx.

        Raises:
            RuntimeError, TypeError, ValueError: a shape, dtype or device does not fit, as in torch.
        """
        masks = self._masks(input, hx, masks)
        if masks is None:
            return nn.RNNCell.forward(self, input, hx)
        mode = f"RNN_{self.nonlinearity.upper()}"
        return self._step(mode, input, None if hx is None else (hx,), masks)[0]
