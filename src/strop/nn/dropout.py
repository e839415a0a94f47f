"""Dropout as a layer of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strop.functional.checks import check_mask
from strop.nn.deployment import Unscripted
from strop.nn.masks import check_block, pattern_template, repr_of_pattern, with_probability
from strop.pattern import Mask, Pattern, check_probability


class Dropout(Unscripted, nn.Module):
    """``torch.nn.Dropout`` with a pattern, where no product consumes the result and could skip columns.

    Args:
        p: probability of a unit to be dropped in training, in [0, 1).
        inplace: overwrite the input, as in torch.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide the number of units.
        batch_first: the input is ``[batch, time, units]``, as in ``strop.LSTM``.

    The input is ``[time, batch, units]``, or ``[batch, time, units]`` if ``batch_first``; ``[batch, units]``
    is taken as one time step.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        pattern: str | Pattern = "structured",
        block: int = 1,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.inplace = inplace
        self.pattern = pattern_template(pattern, block)
        self.batch_first = batch_first

    def draw(
        self,
        steps: int,
        batch: int,
        units: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Mask | None:
        """The mask of ``steps`` steps of ``batch`` rows; None if nothing is dropped."""
        pattern = with_probability(self.pattern, self.p)
        return pattern.draw(steps, units, batch, generator=generator, device=device)

    def forward(self, input: Tensor, mask: Mask | None = None) -> Tensor:
        """The input, dropped: in training by a new mask, in training and evaluation by ``mask``.

        Raises:
            TypeError, ValueError: the input or the mask does not fit.
        """
        if not isinstance(input, Tensor):
            raise TypeError(f"input must be a Tensor, got {type(input).__name__}")
        if mask is None and not (self.training and self.p and input.numel()):
            return input
        if input.dim() not in (2, 3):
            axes = "batch, time" if self.batch_first else "time, batch"
            raise ValueError(
                f"input must be [{axes}, units] or [batch, units] when something is dropped, "
                f"got {list(input.shape)}"
            )
        if not (input.is_floating_point() or input.is_complex()):
            raise TypeError(f"input must be of a floating dtype when something is dropped, got {input.dtype}")
        rows, units = input.shape[:-1], input.shape[-1]
        steps, batch = (1, *rows) if len(rows) == 1 else rows[::-1] if self.batch_first else rows
        check_block(self.pattern, self.p, "units", units)
        if mask is None:
            mask = self.draw(steps, batch, units, device=input.device)
        check_mask("mask", mask, steps, batch, units, input.device)
        assert mask is not None
        multiplier = mask.multiplier(input.dtype)
        if len(rows) == 1:
            multiplier = multiplier.squeeze(0)
        elif self.batch_first:
            multiplier = multiplier.transpose(0, 1)
        return input.mul_(multiplier) if self.inplace else input * multiplier

    def extra_repr(self) -> str:
        """torch's, and the pattern."""
        order = ", batch_first=True" if self.batch_first else ""
        return f"p={self.p}, inplace={self.inplace}" + repr_of_pattern(self) + order
