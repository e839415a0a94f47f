"""What one would write without strop: the alternatives that a sweep compares with."""

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
        self.lstm = nn.LSTM(layers.input, layers.hidden, layers.count, dropout=between)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.dropout(x))
        return y


class EagerLoop(nn.Module):
    """Dropout of inputs and of hidden states in a loop over the steps, with masks that the batch shares.

    `torch.nn.LSTM` cannot drop hidden states, so this is what is left to a user of torch.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        (layers,) = preset.stack
        self.nr, self.rh = preset.nr, preset.rh
        self.cells = nn.ModuleList(
            nn.LSTMCell(layers.hidden if layer else layers.input, layers.hidden)
            for layer in range(layers.count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            assert isinstance(cell, nn.LSTMCell)
            masks = (
                F.dropout(x.new_ones(x.shape[0], 1, units), p)
                for p, units in ((self.nr, cell.input_size), (self.rh, cell.hidden_size))
            )
            x = eager_lstm(x, cell, *masks)
        return x


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
