"""What one would write without strop: the alternatives that a sweep compares with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strop.bench.presets import Preset


class TorchDropout(nn.Module):
    """`torch.nn.LSTM` with its own dropout between layers, and `nn.Dropout` on the input."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        (layers,) = preset.stack
        between = preset.nr if layers.count > 1 else 0.0
        self.dropout = nn.Dropout(preset.nr)
        self.lstm = nn.LSTM(
            layers.input, layers.hidden, layers.count, dropout=between, bidirectional=layers.bidirectional
        )

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.dropout(x))
        return y


class EagerLoop(nn.Module):
    """Dropout of inputs and of hidden states in a loop over the steps, with masks that the batch shares.

    `torch.nn.LSTM` cannot drop hidden states, so this is what is left to a user of torch.

    Args:
        preset: with equal layers.
        run: what runs a layer, `eager_lstm` if not given.
    """

    def __init__(self, preset: Preset, run: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.run = run or eager_lstm
        (layers,) = preset.stack
        self.nr, self.rh = preset.nr, preset.rh
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.LSTMCell(units, layers.hidden) for _ in range(layers.directions))
            for units in layers.inputs
        )

    def forward(self, x: Tensor) -> Tensor:
        for directions in self.layers:
            assert isinstance(directions, nn.ModuleList)
            input_mask = step_masks(x, x.shape[2], self.nr)
            ys = []
            for cell, back in zip(directions, (False, True), strict=False):
                assert isinstance(cell, nn.LSTMCell)
                operands = x, input_mask, step_masks(x, cell.hidden_size, self.rh)
                own_x, *masks = (operand.flip(0) for operand in operands) if back else operands
                y = self.run(own_x, cell, *masks)
                ys.append(y.flip(0) if back else y)
            x = torch.cat(ys, 2) if len(ys) > 1 else ys[0]
        return x


def step_masks(x: Tensor, units: int, p: float) -> Tensor:
    """Masks `[steps, 1, units]` for the steps of x, to multiply by."""
    return F.dropout(x.new_ones(x.shape[0], 1, units), p)


def eager_lstm(x: Tensor, cell: nn.LSTMCell, input_mask: Tensor, recurrent_mask: Tensor) -> Tensor:
    """A layer over x [steps, batch, input], with masks [steps, 1, units] to multiply by.

    One product projects the input of all steps; `unbind` cuts them out, its gradient a single `stack`.
    """
    h = c = x.new_zeros(x.shape[1], cell.hidden_size)
    projected = F.linear(x * input_mask, cell.weight_ih, cell.bias_ih + cell.bias_hh)
    weight = cell.weight_hh.t()
    outputs = []
    for of_input, mask in zip(projected.unbind(), recurrent_mask.unbind(), strict=True):
        i, f, g, o = torch.addmm(of_input, h * mask, weight).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)
