from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import oracle
from strop.bench.baselines import EagerLoop, TorchDropout, eager_lstm
from strop.bench.presets import Layers, Preset


def preset(nr: float, rh: float, layers: int = 2, bidirectional: bool = False) -> Preset:
    return Preset("tiny", (Layers(6, 8, layers, bidirectional),), batch=3, steps=5, nr=nr, rh=rh)


def outcome(y: Tensor, grad: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return [y, *torch.autograd.grad(y, tensors, grad)]


def test_the_loop_computes_what_the_oracle_does():
    cell = nn.LSTMCell(6, 8, dtype=torch.float64)
    x = torch.randn(5, 3, 6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 3, 8, dtype=torch.float64)
    masks = [2.0 * torch.randint(2, (5, 1, units), dtype=torch.float64) for units in (6, 8)]
    weights = list(cell.parameters())
    zeros = torch.zeros(1, 3, 8, dtype=torch.float64)
    given = [SimpleNamespace(dense=lambda dtype, mask=mask: mask.expand(5, 3, -1)) for mask in masks]
    expected, _, _ = oracle.lstm(x, (zeros, zeros), [weights], given[:1], given[1:])
    actual = eager_lstm(x, cell, *masks)
    for a, b in zip(
        outcome(actual, grad, [x, *weights]), outcome(expected, grad, [x, *weights]), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_with_nothing_dropped_both_are_torchs_lstm(layers: int, bidirectional: bool):
    theirs = TorchDropout(preset(0.0, 0.0, layers, bidirectional))
    loop = EagerLoop(preset(0.0, 0.0, layers, bidirectional))
    for ours, weight in zip(loop.parameters(), theirs.lstm.parameters(), strict=True):
        ours.data.copy_(weight)
    x = torch.randn(5, 3, 6)
    expected, _ = theirs.lstm(x)
    torch.testing.assert_close(theirs(x), expected)
    torch.testing.assert_close(loop(x), expected)


def test_torch_drops_inputs_and_between_layers():
    model = TorchDropout(preset(0.25, 0.5))
    assert (model.dropout.p, model.lstm.dropout, model.lstm.num_layers) == (0.25, 0.25, 2)
    assert TorchDropout(preset(0.25, 0.5, layers=1)).lstm.dropout == 0
    seen = []
    model.lstm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(torch.ones(50, 30, 6))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_the_loop_drops_units_of_the_whole_batch_at_each_step(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def recorded(x: Tensor, cell: nn.LSTMCell, *masks: Tensor) -> Tensor:
        seen.extend(masks)
        return eager_lstm(x, cell, *masks)

    monkeypatch.setattr("strop.bench.baselines.eager_lstm", recorded)
    EagerLoop(preset(0.25, 0.5))(torch.randn(400, 3, 6))
    assert [mask.shape for mask in seen] == [(400, 1, 6), (400, 1, 8), (400, 1, 8), (400, 1, 8)]
    for mask, p in zip(seen, (0.25, 0.5, 0.25, 0.5), strict=True):
        assert mask.unique().tolist() == [0.0, pytest.approx(1 / (1 - p))]
        assert (mask == 0).float().mean().item() == pytest.approx(p, abs=0.05)
        assert len(mask.unique(dim=0)) > 1
