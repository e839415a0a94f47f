"""A linear layer with dropout on its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strop import functional
from strop.functional.checks import check_tensor
from strop.functional.linear import linear_by_rule
from strop.nn.deployment import Unscripted
from strop.nn.masks import check_block, pattern_template, repr_of_drops, with_probability
from strop.nn.taken_over import drops_input, get_share, set_share, source_of
from strop.pattern import Mask, Pattern, check_probability


class Linear(Unscripted, nn.Linear):
    """``torch.nn.Linear`` with dropout on its input, in the product that consumes it.

    Takes the arguments of ``torch.nn.Linear`` in torch's order and, by keyword, what is dropped.

    Args:
        dropout: probability of an input unit to be dropped in training, in [0, 1).
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide ``in_features``.
        batch_first: the input is ``[batch, time, in]``, as in ``strop.LSTM``.

    Parameters are torch's. When something is dropped the input is ``[time, batch, in]``, or ``[batch, time,
    in]`` if ``batch_first``; ``[batch, in]`` is taken as one time step, so a mask shared by the batch is then
    one for all of its rows. Otherwise the input is any that ``torch.nn.Linear`` takes.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float = 0.0,
        pattern: str | Pattern = "structured",
        block: int = 1,
        batch_first: bool = False,
    ) -> None:
        self_dropout = check_probability("dropout", dropout)
        template = pattern_template(pattern, block)
        check_block(template, self_dropout, "in_features", in_features)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.dropout = self_dropout
        self.pattern = template
        self.batch_first = batch_first

    @property
    def dropout(self) -> float:
        """Probability of an input unit to be dropped."""
        return get_share(self, "_dropout")

    @dropout.setter
    def dropout(self, p: float) -> None:
        set_share(self, "_dropout", p)

    @property
    def _drops(self) -> bool:
        """Whether a call drops something."""
        return bool(self.dropout) and drops_input(self)

    def draw(self, steps: int, batch: int, *, generator: torch.Generator | None = None) -> Mask | None:
        """The mask of ``steps`` steps of ``batch`` rows; None if nothing is dropped."""
        pattern = with_probability(self.pattern, self.dropout)
        return pattern.draw(steps, self.in_features, batch, generator=generator, device=self.weight.device)

    def forward(self, input: Tensor, mask: Mask | None = None) -> Tensor:
        """``[time, batch, in]`` (or ``[batch, in]``) to ``[time, batch, out]``, as ``batch_first`` says.

        A mask is drawn in training and none in evaluation; ``mask`` is used in both.

        Raises:
            TypeError, ValueError: the input or the mask does not fit.
        """
        if mask is None and not self._drops:
            return functional.linear(input, self.weight, self.bias)
        sequence, mask = self._dropped(input, mask)
        y = linear_by_rule(sequence, self.weight, self.bias, mask)
        # Contiguous as torch's, of which models take a view.
        y = y.transpose(0, 1).contiguous() if self._swaps(input) else y
        return y.view(*input.shape[:-1], self.out_features)

    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        mask: Mask | None = None,
        *,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The cross entropy of what ``forward`` gives as logits, without storing these.

        Args:
            input: as of ``forward``.
            mask: as of ``forward``.
            target: int64, a class for each row of the input, in its shape without the last dimension.
            reduction: ``mean``, ``sum`` or ``none``, as ``torch.nn.functional.cross_entropy``.
            ignore_index: the target of rows that do not count.
            label_smoothing: the share of every target that is spread over all classes, in [0, 1].

        Returns:
            A scalar, or losses in the shape of ``target`` if ``reduction`` is ``none``.

        Raises:
            TypeError, ValueError, IndexError: as ``functional.linear_cross_entropy``.
        """
        sequence, swaps, of_rows = input, False, target
        if mask is not None or self._drops:
            sequence, mask = self._dropped(input, mask)
            swaps = self._swaps(input)
        if target.shape == input.shape[:-1]:
            of_rows = target.transpose(0, 1) if swaps else target.view(sequence.shape[:-1])
        loss = functional.linear_cross_entropy(
            sequence,
            self.weight,
            of_rows,
            bias=self.bias,
            mask=mask,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
        if reduction != "none":
            return loss.view(())
        return loss.transpose(0, 1) if swaps else loss.view(target.shape)

    def _swaps(self, input: Tensor) -> bool:
        """Whether time is the second axis."""
        return self.batch_first and input.dim() == 3

    def _dropped(self, input: Tensor, mask: Mask | None) -> tuple[Tensor, Mask | None]:
        """The input as a sequence of time steps, and its mask."""
        check_tensor("input", input)
        if input.dim() not in (2, 3):
            axes = "batch, time" if self.batch_first else "time, batch"
            raise ValueError(
                f"input must be [{axes}, {self.in_features}] or [batch, {self.in_features}] "
                f"when something is dropped, got {list(input.shape)}"
            )
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"input must have {self.in_features} units (in_features), got {list(input.shape)}"
            )
        sequence = input if input.dim() == 3 else input.unsqueeze(0)
        sequence = sequence.transpose(0, 1) if self._swaps(input) else sequence
        if 0 in input.shape:
            return sequence, None
        if mask is None:
            steps, batch, _ = sequence.shape
            if (source := source_of(self)) is None:
                mask = self.draw(steps, batch)
            else:
                mask = source.draw(steps, batch, self.in_features, lambda: self.draw(steps, batch))
        return sequence, mask

    def extra_repr(self) -> str:
        """torch's, and what is dropped."""
        drops = repr_of_drops(self, "dropout")
        return super().extra_repr() + drops + (", batch_first=True" if drops and self.batch_first else "")
