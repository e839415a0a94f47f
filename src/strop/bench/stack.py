"""The stack of LSTMs of a preset in each implementation."""

import torch
from torch import Tensor, nn

import strop
from strop.bench.presets import Impl, Preset
from strop.functional.stack import stack
from strop.ops.cells import CELLS


class TorchStack(nn.Module):
    """`torch.nn.LSTM` with its own dropout between layers, and `nn.Dropout` between stacks of other sizes
    (and on the first one's input, if the preset says so)."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(
            nn.LSTM(
                layers.input,
                layers.hidden,
                layers.count,
                dropout=preset.nr if layers.count > 1 else 0.0,
                bidirectional=layers.bidirectional,
            )
            for layers in preset.stack
        )
        self.dropout = nn.Dropout(preset.nr)
        self.drops_input = preset.torch_drops_input

    def forward(self, x: Tensor) -> Tensor:
        for i, lstm in enumerate(self.lstms):
            x, _ = lstm(self.dropout(x) if i or self.drops_input else x)
        return x


class DroppedStack(nn.Module):
    """`strop.LSTM` with structured dropout on the input of every layer, and on hidden states if `rh`."""

    def __init__(self, preset: Preset, nr: float, rh: float) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(
            strop.LSTM(
                layers.input,
                layers.hidden,
                layers.count,
                dropout=nr if layers.count > 1 else 0.0,
                bidirectional=layers.bidirectional,
                input_dropout=nr,
                recurrent_dropout=rh,
            )
            for layers in preset.stack
        )

    def forward(self, x: Tensor) -> Tensor:
        for lstm in self.lstms:
            x, _ = lstm(x)
        return x


class DenseStack(nn.Module):
    """strop's own kernels with nothing dropped (where `strop.LSTM` may prefer another path)."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(
            strop.LSTM(layers.input, layers.hidden, layers.count, bidirectional=layers.bidirectional)
            for layers in preset.stack
        )

    def forward(self, x: Tensor) -> Tensor:
        for lstm in self.lstms:
            assert isinstance(lstm, strop.LSTM)
            weights = lstm.all_weights
            whole = (None,) * len(weights)
            x, _ = stack(CELLS["LSTM"], x, None, weights, whole, whole, bidirectional=lstm.bidirectional)
        return x


def build(preset: Preset, impl: Impl) -> TorchStack | DroppedStack | DenseStack:
    if impl == "torch":
        return TorchStack(preset)
    if impl == "dense":
        return DenseStack(preset)
    return DroppedStack(preset, *preset.dropout(impl))


def inputs(preset: Preset, device: torch.device) -> tuple[Tensor, Tensor]:
    """An input of the stack, and a gradient of its output."""
    x = torch.randn(preset.steps, preset.batch, preset.stack[0].input, device=device)
    grad = torch.randn(preset.steps, preset.batch, preset.stack[-1].output, device=device)
    return x.requires_grad_(), grad
