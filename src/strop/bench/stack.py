"""The stack of LSTMs of a preset in each implementation."""

import torch
from torch import Tensor, nn

import strop
from strop import functional
from strop.bench.presets import Impl, Preset


class TorchStack(nn.Module):
    """`torch.nn.LSTM` with its own dropout between layers, and `nn.Dropout` between stacks of other sizes."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(
            nn.LSTM(layers.input, layers.hidden, layers.count, dropout=preset.nr if layers.count > 1 else 0.0)
            for layers in preset.stack
        )
        self.dropout = nn.Dropout(preset.nr)

    def forward(self, x: Tensor) -> Tensor:
        for i, lstm in enumerate(self.lstms):
            x, _ = lstm(self.dropout(x) if i else x)
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
            strop.LSTM(layers.input if i == 0 else layers.hidden, layers.hidden)
            for layers in preset.stack
            for i in range(layers.count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for lstm in self.lstms:
            zeros = x.new_zeros(x.shape[1], lstm.hidden_size)  # pyright: ignore[reportArgumentType,reportCallIssue]
            x, _ = functional.lstm(x, (zeros, zeros), *lstm.parameters())
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
    grad = torch.randn(preset.steps, preset.batch, preset.stack[-1].hidden, device=device)
    return x.requires_grad_(), grad
