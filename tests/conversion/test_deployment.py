"""Converted models before torch's tools that know layers by their very class."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

import strop

# torch's own: all of these tools are deprecated, and its layers ask for sizes while they are traced.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:torch.quantize_per:UserWarning", "ignore::torch.jit.TracerWarning"
)

X = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.rnn, self.cell, self.fc = nn.LSTM(8, 8), nn.GRUCell(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        y, _ = self.rnn(self.drop(x))
        return self.fc(self.drop(y)) + self.fc(self.drop(self.cell(y[-1])))


@pytest.fixture
def model():
    model = Model()
    strop.convert(model, recurrent_dropout=0.5, example_inputs=X, only_if_faster=False)
    assert type(model.fc) is strop.Linear
    return model.eval()


@pytest.mark.parametrize("kinds", [None, {nn.LSTM, nn.Linear}, {nn.GRUCell}])
def test_a_converted_model_is_quantised(model, kinds):
    kept = {name: type(module) for name, module in model.named_modules()}
    expected = model(X)
    small = quantize_dynamic(model, kinds)
    for name, kind in (("rnn", nn.LSTM), ("cell", nn.GRUCell), ("fc", nn.Linear)):
        quantised = type(getattr(small, name)).__module__.startswith("torch.ao.nn.quantized.dynamic")
        assert quantised == (kinds is None or kind in kinds)
        assert not type(getattr(small, name)).__module__.startswith("strop")
    torch.testing.assert_close(small(X), expected, rtol=0, atol=0.05)
    assert {name: type(module) for name, module in model.named_modules()} == kept
    assert torch.equal(model(X), expected)


def test_layers_made_without_convert_are_quantised():
    model = nn.Sequential(strop.Linear(8, 8, dropout=0.5)).eval()
    assert "quantized" in type(quantize_dynamic(model, inplace=True)[0]).__module__


def test_models_without_strops_layers_are_quantised_as_ever():
    assert "quantized" in type(quantize_dynamic(nn.Sequential(nn.Linear(8, 8)))[0]).__module__


def test_scripting_says_what_to_do(model):
    expected = model(X)
    for part in (model, *model.children(), strop.Dropout(0.5)):
        before = copy.deepcopy(part.state_dict())
        with pytest.raises(RuntimeError, match=r"cannot be scripted: call strop.revert\(model\) first"):
            torch.jit.script(part)
        assert before.keys() == part.state_dict().keys()
    torch.testing.assert_close(torch.jit.trace(model, X)(X), expected)
    strop.revert(model)
    torch.testing.assert_close(torch.jit.script(model)(X), expected)
