"""On a GPU the weights of each layer begin a chunk of memory, from which cuDNN takes them as they lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import strop
from strop.functional import operator
from strop.nn import recurrent
from strop.ops.cells import CELLS


@pytest.fixture
def cudnn(monkeypatch) -> list[tuple]:
    """What cuDNN was asked to lay out; it does so as torch's does, weights before biases, on the CPU."""
    asked: list[tuple] = []

    def flatten(weights, each, features, mode, hidden, projected, layers, batch_first, bidirectional):
        asked.append((len(weights), each, features, hidden, layers, bidirectional))
        whole = torch.empty(sum(weight.numel() for weight in weights))
        at = 0
        for weight in weights:
            part = whole[at : at + weight.numel()].view_as(weight)
            part.copy_(weight)
            weight.data = part
            at += weight.numel()

    def of_torch(module):
        flat = module._flat_weights
        if len(flat) == len(module._flat_weights_names):
            with torch.no_grad():
                flatten(flat, 4, module.input_size, 2, module.hidden_size, 0, module.num_layers, False, False)

    monkeypatch.setattr(recurrent, "_is_for_cudnn", lambda weight: True)
    monkeypatch.setattr(recurrent.rnn, "get_cudnn_mode", lambda mode: 2)
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", flatten, raising=False)
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", of_torch)
    return asked


def chunks(module: nn.RNNBase) -> list[set[int]]:
    """Of each layer the chunks of memory that its weights lie in."""
    flat = module._flat_weights
    layers = operator.by_direction(flat, len(flat) // module.num_layers)
    return [{weight.untyped_storage().data_ptr() for weight in layer} for layer in layers]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_each_layer_that_drops_has_a_chunk_of_its_own(cudnn, kind, bidirectional):
    module = getattr(strop, kind)(5, 7, 3, bidirectional=bidirectional, dropout=0.5)
    found = chunks(module)
    assert [len(layer) for layer in found] == [1, 1, 1]
    assert len(set.union(*found)) == 3
    directions = 1 + bidirectional
    assert cudnn[-3:] == [
        (4 * directions, 4, features, 7, 1, bidirectional) for features in (5, 7 * directions, 7 * directions)
    ]
    for layer in range(3):
        weights = operator.by_direction(module._flat_weights, 4 * directions)[layer]
        assert weights[0].storage_offset() == 0
    before = [weight.clone() for weight in module.parameters()]
    module.flatten_parameters()
    for weight, expected in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, expected)
    assert len(set.union(*chunks(module))) == 3


def test_one_that_drops_nothing_is_one_chunk_as_torchs(cudnn):
    assert len(set.union(*chunks(strop.LSTM(5, 7, 3)))) == 1
    assert len(set.union(*chunks(strop.LSTM(5, 7, 1, input_dropout=0.5)))) == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", list(CELLS))
def test_layer_by_layer_is_the_same(name, given, packed):
    cell = CELLS[name]
    mode = {"nonlinearity": "relu"} if name == "RNN_RELU" else {}
    module = getattr(nn, name.split("_")[0])(5, 7, 3, bidirectional=True, **mode)
    x, batch_sizes = torch.randn(4, 3, 5), None
    if packed:
        x, batch_sizes, *_ = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1]))
    states = tuple(torch.randn(6, 3, 7) for _ in range(1 + cell.has_c)) if given else None
    how = (states, module._flat_weights, 4, True, batch_sizes)
    y, last = operator.stack(cell, x, *how)
    ours, ours_last = operator.layer_by_layer(cell, x, *how)
    for value, expected in zip((ours, *ours_last), (y, *last), strict=True):
        torch.testing.assert_close(value, expected)
