"""What convert and revert refuse, without changing anything."""

from __future__ import annotations

import pytest
import torch
from published import WordModel
from torch import nn

import strop

IDS = torch.zeros(3, 2, dtype=torch.long)


def snapshot(model):
    return {
        name: (type(module), set(vars(module)), {name for name, _ in module.named_parameters(recurse=False)})
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"recurrent_dropout": 1.0}, ValueError, r"recurrent_dropout must be in \[0, 1\), got 1.0"),
        ({"recurrent_dropout": float("nan")}, ValueError, r"recurrent_dropout must be in \[0, 1\), got nan"),
        ({"recurrent_dropout": "0.5"}, TypeError, "recurrent_dropout must be a number"),
        ({"pattern": "striped"}, ValueError, "pattern must be one of random, .* got 'striped'"),
        ({"pattern": 3}, TypeError, "pattern must be a name or a strop.Pattern"),
        ({"filter_fn": "rnn"}, TypeError, "filter_fn must be callable or None, got 'rnn'"),
        (
            {"example_inputs": {1, 2}},
            TypeError,
            "example_inputs must be a tensor, .* got set: ",
        ),
        ({"example_inputs": [IDS, IDS, IDS]}, ValueError, "a list is taken for positional arguments"),
        (
            {"example_inputs": (IDS, IDS, IDS)},
            ValueError,
            "example_inputs: the model fails on them .*TypeError",
        ),
        ({"example_inputs": {"idx": IDS}}, ValueError, "example_inputs: the model fails on them"),
        (
            {"example_inputs": IDS.float()},
            ValueError,
            "example_inputs: the model fails on them .*RuntimeError",
        ),
    ],
    ids=str,
)
def test_bad_arguments(arguments, error, message):
    model = WordModel().eval()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        strop.convert(model, **arguments)
    assert snapshot(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("function", [strop.convert, strop.revert])
@pytest.mark.parametrize("model", [None, "model", nn.LSTM, [nn.LSTM(2, 2)]], ids=str)
def test_only_modules(function, model):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got"):
        function(model)


def within_autograd(model):
    # As torch.func.functional_call does it for the time of a call.
    model.rnn._parameters["weight_hh_l0"] = model.rnn.weight_hh_l0 * 2
    return model


def quantised(model):
    model.other = torch.ao.nn.quantized.dynamic.LSTMCell(4, 4)
    return model


def quantised_tensor(model):
    model.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    return model


def in_place_compiled(model):
    model.rnn.compile(backend="eager")
    return model


def lazy(model):
    model.head = nn.LazyLinear(3)
    return model


def scripted(model):
    model.head = torch.jit.ScriptModule()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model.to("meta"), r"'encoder' has 'weight', which is on the meta device.*to_empty"),
        (
            within_autograd,
            r"'rnn' has 'weight_hh_l0', which is in the middle of an autograd graph \(MulBackward0\)",
        ),
        (quantised, "'other' is a LSTMCell, which is quantised: convert before quantising"),
        (quantised_tensor, "has 'table', which is quantised"),
        (scripted, "'head' is a ScriptModule, whose code is fixed: convert before torch.jit.script"),
        (lambda model: torch.compile(model, backend="eager"), "is compiled: convert before torch.compile"),
        (in_place_compiled, "'rnn' is compiled: convert before torch.compile"),
        (lazy, "'head' has 'weight', which has no size yet: run the model once"),
    ],
    ids=[
        "meta",
        "autograd",
        "quantised",
        "quantised tensor",
        "scripted",
        "compiled",
        "compiled in place",
        "lazy",
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
def test_models_that_are_refused(make, message):
    model = make(WordModel())
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        strop.convert(model, recurrent_dropout=0.5, example_inputs=IDS)
    assert snapshot(model) == before
    with pytest.raises(ValueError, match=message.replace("convert", "revert")):
        strop.revert(model)


def test_an_error_in_filter_fn_changes_nothing():
    model = WordModel()
    before = snapshot(model)

    def only_first(module, name):
        if name == "decoder":
            raise KeyError(name)
        return True

    with pytest.raises(KeyError):
        strop.convert(model, filter_fn=only_first)
    assert snapshot(model) == before
