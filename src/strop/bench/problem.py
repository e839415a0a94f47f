"""What is put to all that compute the same layer, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import strop
from strop.bench.presets import Preset
from strop.bench.stack import inputs
from strop.nn.masks import Masks

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

Outcome = dict[str, Tensor]
"""The output, and the gradients of the input and of all parameters, as torch has them."""


@dataclass(frozen=True)
class Problem:
    """A layer with its weights, an input `[steps, batch, units]`, a gradient of its output, and masks."""

    lstm: strop.LSTM
    x: Tensor
    grad: Tensor
    masks: Masks

    @classmethod
    def of(cls, preset: Preset) -> Problem:
        """The same one in every process."""
        torch.manual_seed(0)
        (layers,) = preset.stack
        lstm = strop.LSTM(layers.input, layers.hidden, input_dropout=preset.nr, recurrent_dropout=preset.rh)
        x, grad = inputs(preset, torch.device("cpu"))
        return cls(lstm, x, grad, lstm.draw(preset.steps, preset.batch))

    @property
    def weights(self) -> list[Tensor]:
        return [getattr(self.lstm, f"{name}_l0").detach() for name in PARAMETERS]

    @property
    def multipliers(self) -> tuple[Tensor, Tensor]:
        """The masks `[steps, 1, units]` of the input and of the state, to multiply by."""
        masks = self.masks.input[0], self.masks.recurrent[0]
        units = self.x.shape[2], self.lstm.hidden_size
        steps = len(self.x)
        input_mask, recurrent_mask = (
            self.x.new_ones(steps, 1, count) if mask is None else mask.dense()
            for mask, count in zip(masks, units, strict=True)
        )
        # Laid out as masks that are drawn for timing, or what was compiled for these is not what is timed.
        return input_mask.contiguous(), recurrent_mask.contiguous()
