"""Dropout as a layer of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strop.functional.checks import check_mask
from strop.nn.masks import check_block, pattern_template, repr_of_pattern, with_probability
from strop.pattern import Mask, Pattern, check_probability


class Dropout(nn.Module):
    """``torch.nn.Dropout`` with a pattern, where no product consumes the result and could skip columns.

    Args:
        p: probability of a unit to be dropped in training, in [0, 1).
        inplace: overwrite the input, as in torch.
        pattern: ``structured``, ``fixed``, ``random``, ``variational``, or a Pattern, whose p is ignored.
        block: adjacent units dropped together; it must divide the number of units.

    The input is ``[time, batch, units]``; ``[batch, units]`` is taken as one time step.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, pattern: str | Pattern = "structured", block: int = 1
    ) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.inplace = inplace
        self.pattern = pattern_template(pattern, block)

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
        if mask is None and not (self.training and self.p and input.numel()):
            return input
        if input.dim() not in (2, 3):
            raise ValueError(
                "input must be [time, batch, units] or [batch, units] when something is dropped, "
                f"got {list(input.shape)}"
            )
        x = input if input.dim() == 3 else input.unsqueeze(0)
        steps, batch, units = x.shape
        check_block(self.pattern, self.p, "units", units)
        if mask is None:
            mask = self.draw(steps, batch, units, device=x.device)
        check_mask("mask", mask, steps, batch, units, x.device)
        assert mask is not None
        multiplier = mask.multiplier(x.dtype)
        x = x.mul_(multiplier) if self.inplace else x * multiplier
        return x if input.dim() == 3 else x.squeeze(0)

    def extra_repr(self) -> str:
        """torch's, and the pattern."""
        return f"p={self.p}, inplace={self.inplace}" + repr_of_pattern(self)
