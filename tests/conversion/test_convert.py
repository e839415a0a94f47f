"""strop.convert and strop.revert: what changes, what stays, and what it computes."""

from __future__ import annotations

import copy
import io
import random
import re
import subprocess
import sys
from functools import partial
from operator import attrgetter

import pytest
import torch
from published import WordModel
from torch import nn
from torch.nn.utils import parametrizations, prune

import strop
from strop.nn.taken_over import TakenOver

convert = partial(strop.convert, only_if_faster=False)  # at sizes at which nothing pays

STEPS, BATCH, WORDS = 5, 3, 30


def ids(steps=STEPS, batch=BATCH):
    return torch.randint(WORDS, (steps, batch))


def actions(report):
    return {entry.name: entry.action for entry in report}


def why(report, name):
    return next(entry.why for entry in report if entry.name == name)


def test_layers_stay_the_same_objects_with_the_same_parameters():
    model = WordModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layers, parameters = dict(model.named_modules()), dict(model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert(model, recurrent_dropout=0.4, example_inputs=ids())
    assert type(model.rnn) is strop.LSTM
    assert (model.rnn.input_dropout, model.rnn.dropout, model.rnn.recurrent_dropout) == (0.5, 0.5, 0.4)
    assert type(model.decoder) is strop.Linear
    assert model.decoder.dropout == 0.5
    assert isinstance(model.drop, TakenOver)
    assert all(module is layers[name] for name, module in model.named_modules())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    before = model.rnn.weight_hh_l1.detach().clone()
    model(ids())[0].sum().backward()
    optimizer.step()
    assert not torch.equal(model.rnn.weight_hh_l1, before)


def test_without_example_inputs_dropouts_stay():
    model = WordModel()
    report = convert(model)
    assert actions(report) == {"drop": "left", "encoder": "left", "rnn": "swapped", "decoder": "left"}
    assert "example_inputs" in why(report, "drop")
    assert (model.rnn.input_dropout, model.rnn.dropout, model.rnn.recurrent_dropout) == (0, 0.5, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_dropped_computes_what_torch_computes(dtype):
    model = WordModel().to(dtype)
    x = ids()
    training = WordModel(p=0.0).to(dtype)
    training.load_state_dict(model.state_dict())
    expected = training(x)
    expected[0].pow(2).sum().backward()
    convert(model, recurrent_dropout=0.4, example_inputs=x)
    converted = copy.deepcopy(training)
    converted.zero_grad()
    convert(converted)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(model.eval()(x), expected, **tolerance)
    actual = converted(x)
    torch.testing.assert_close(actual, expected, **tolerance)
    actual[0].pow(2).sum().backward()
    for (name, ours), theirs in zip(converted.named_parameters(), training.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def test_trained_and_reverted_is_torch_bit_for_bit():
    model = WordModel()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    convert(model, recurrent_dropout=0.4, example_inputs=ids())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        x = ids()
        nn.functional.nll_loss(model(x)[0], x.flatten()).backward()
        optimizer.step()
    parameters = list(model.parameters())
    report = strop.revert(nn.ModuleDict({"whole": model}))
    swapped = {"whole.encoder": "left", "whole.rnn": "swapped", "whole.decoder": "swapped"}
    assert actions(report) == {"whole.drop": "put back"} | swapped
    assert why(report, "whole.rnn") == "loses recurrent_dropout=0.4"
    assert why(report, "whole.decoder") == ""
    assert (type(model.rnn), type(model.decoder), type(model.drop)) == (nn.LSTM, nn.Linear, nn.Dropout)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    plain = WordModel()
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each.eval()
    assert torch.equal(model(x)[0], plain(x)[0])
    torch.manual_seed(1)
    actual = model.train()(x)[0]
    torch.manual_seed(1)
    assert torch.equal(actual, plain.train()(x)[0])


def test_a_recurrent_layer_is_a_model_too():
    lstm = nn.LSTM(4, 6)
    report = convert(lstm, recurrent_dropout=0.5)
    assert type(lstm) is strop.LSTM
    assert [entry.name for entry in report] == [""]
    assert "(the model)" in str(report)
    strop.revert(lstm)
    assert type(lstm) is nn.LSTM


def test_shared_layers_are_swapped_everywhere():
    lstm = nn.LSTM(4, 4)
    model = nn.ModuleList([lstm, nn.ModuleList([lstm])])
    assert len(convert(model)) == 1
    assert model[0] is model[1][0] is lstm
    assert type(lstm) is strop.LSTM


def test_hooks_mode_and_attributes_stay():
    model = WordModel()
    model.rnn.eval()
    model.rnn.note = "mine"
    model.rnn.weight_hh_l0.requires_grad_(False)
    calls = []
    model.rnn.register_forward_hook(lambda module, args, output: calls.append(type(module)))
    model.rnn.register_forward_pre_hook(lambda module, args: calls.append("before"))
    model.drop.register_forward_hook(lambda module, args, output: calls.append("drop"))
    convert(model)
    model(ids())
    assert calls == ["drop", "before", strop.LSTM, "drop"]
    assert not model.rnn.training
    assert model.rnn.note == "mine"
    assert not model.rnn.weight_hh_l0.requires_grad


def test_a_graph_built_before_is_not_affected():
    model = WordModel(p=0.0)
    x = ids()
    expected = torch.autograd.grad(model(x)[0].pow(2).sum(), list(model.parameters()))
    pending = model(x)[0].pow(2).sum()
    convert(model, recurrent_dropout=0.5)
    pending.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_converted_models_are_copied_and_pickled():
    model = WordModel()
    convert(model, recurrent_dropout=0.4, example_inputs=ids())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert (type(other.rnn), other.rnn.recurrent_dropout) == (strop.LSTM, 0.4)
        strop.revert(other)
        assert (type(other.rnn), type(other.drop), other.drop.p) == (nn.LSTM, nn.Dropout, 0.5)
    assert type(model.rnn) is strop.LSTM


def test_converting_twice_changes_the_share():
    model = WordModel()
    convert(model, recurrent_dropout=0.4)
    report = convert(model, recurrent_dropout=0.2)
    assert why(report, "rnn") == "recurrent_dropout=0.2, it was 0.4"
    assert [entry.name for entry in report.changed] == ["rnn"]
    assert model.rnn.recurrent_dropout == 0.2
    assert not convert(model, recurrent_dropout=0.2).changed
    convert(model, recurrent_dropout=0.4)
    report = convert(model, example_inputs=ids(), pattern="fixed")
    assert why(report, "rnn").startswith("input_dropout=0.5, dropout=0.5, recurrent_dropout=0.4")
    assert (model.rnn.input_dropout, model.rnn.recurrent_dropout) == (0.5, 0.4)
    assert model.rnn.pattern.name == "structured"
    assert model.decoder.pattern.name == "fixed"
    assert isinstance(model.drop, TakenOver)
    strop.revert(model)
    assert (type(model.rnn), type(model.drop)) == (nn.LSTM, nn.Dropout)


def test_strops_own_models_are_reverted_with_what_is_lost():
    model = nn.ModuleDict(
        {"rnn": strop.LSTM(4, 4, input_dropout=0.2), "head": strop.Linear(4, 2, dropout=0.3)}
    )
    report = strop.revert(model)
    assert (type(model["rnn"]), type(model["head"])) == (nn.LSTM, nn.Linear)
    assert why(report, "rnn") == "loses input_dropout=0.2"
    assert why(report, "head") == "loses dropout=0.3"


def test_filter_fn_says_what_may_change():
    model = WordModel()
    seen = {}
    with pytest.warns(UserWarning, match="has changed nothing"):
        report = convert(
            model, filter_fn=lambda module, name: seen.setdefault(name, module) is None, example_inputs=ids()
        )
    assert seen == dict(model.named_modules())
    assert {entry.action for entry in report} == {"left"}
    assert why(report, "rnn") == why(report, "drop") == "filter_fn excludes it"
    with pytest.warns(UserWarning, match="filter_fn excludes it"):
        report = convert(model, filter_fn=lambda _, name: name != "rnn", example_inputs=ids())
    assert why(report, "drop") == "feeds 'rnn': filter_fn excludes it"
    assert type(model.drop) is nn.Dropout


def test_pattern_and_block_reach_all_layers():
    model = WordModel()
    pattern = strop.Pattern(0.0, block=4, exact=False)
    convert(model, pattern=pattern, recurrent_dropout=0.5, example_inputs=ids())
    assert model.rnn.pattern == model.decoder.pattern == pattern
    odd = WordModel(units=6)
    with pytest.warns(UserWarning, match="block must divide"):
        report = convert(odd, pattern=pattern, recurrent_dropout=0.5, example_inputs=ids())
    assert "block must divide" in why(report, "rnn")
    assert "block must divide" in why(report, "drop")
    assert type(odd.rnn) is nn.LSTM


class OwnLSTM(nn.LSTM):
    def forward(self, input, hx=None):
        return nn.functional.pad(input, (0, 0)), hx


def with_hook(function):
    lstm = nn.LSTM(4, 4)
    function(lstm)
    return lstm


def replaced_forward(lstm):
    lstm.forward = lstm.forward


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (OwnLSTM(4, 4), "a subclass of LSTM"),
        (nn.LSTM(4, 4, 2, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (with_hook(replaced_forward), "its forward was replaced"),
        (with_hook(lambda m: prune.l1_unstructured(m, "bias_hh_l0", 0.3)), "bias_hh_l0 is not a parameter"),
        (with_hook(lambda m: prune.l1_unstructured(m, "weight_hh_l0", 0.3)), "not a parameter"),
        (with_hook(lambda m: setattr(m, "pattern", "mine")), "has an attribute 'pattern' of its own"),
        (with_hook(lambda m: parametrizations.weight_norm(m, "weight_hh_l0")), "parametrized"),
    ],
    ids=["subclass", "p = 1", "forward", "pruned bias", "pruned", "attribute", "parametrized"],
)
def test_layers_that_may_do_something_else_are_left_alone(layer, reason):
    model = nn.Sequential(layer)
    kind, attributes = type(layer), set(vars(layer))
    with pytest.warns(UserWarning, match="has changed nothing"):
        report = convert(model, recurrent_dropout=0.5)
    (entry,) = [entry for entry in report if entry.name == "0"]
    assert entry.action == "left"
    assert re.search(reason, entry.why)
    assert type(layer) is kind
    assert set(vars(layer)) == attributes


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.LSTM(4, 6, 2, bias=False, dropout=0.3, bidirectional=True, proj_size=3), strop.LSTM),
        (nn.GRU(4, 6, 2, batch_first=True, dropout=0.3), strop.GRU),
        (nn.RNN(4, 6, 2, "relu", dropout=0.3), strop.RNN),
        (nn.LSTMCell(4, 6, bias=False), strop.LSTMCell),
        (nn.GRUCell(4, 6), strop.GRUCell),
        (nn.RNNCell(4, 6, nonlinearity="relu"), strop.RNNCell),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_every_kind_keeps_its_settings_and_comes_back(layer, kind):
    x = torch.randn(5, 4) if isinstance(layer, nn.RNNCellBase) else torch.randn(5, 3, 4)
    expected, plain, kept = layer.eval()(x), type(layer), dict(vars(layer))
    convert(layer, recurrent_dropout=0.5)
    assert type(layer) is kind
    assert layer.recurrent_dropout == 0.5
    assert {name: vars(layer)[name] for name in kept} == kept
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-6)
    layer.train()(x)
    strop.revert(layer)
    assert type(layer) is plain
    assert vars(layer).keys() == kept.keys()


def test_the_report_is_a_table():
    model = WordModel()
    table = str(convert(model, recurrent_dropout=0.5, example_inputs=ids()))
    lines = table.splitlines()
    assert lines[0].split()[:3] == ["layer", "was", "is"]
    assert lines[1].split()[:3] == ["drop", "Dropout", "strop.TakenOver"]
    words = ("is", "strop.TakenOver", "strop.LSTM")
    assert len({line.index(word) for line, word in zip(lines, words, strict=False)}) == 1
    assert lines[-1] == "Other layers, left as they were: Embedding."
    with pytest.warns(UserWarning, match="No recurrent layer, no dropout"):
        assert str(convert(nn.ReLU())).startswith("No recurrent layer, no dropout.")


class Restless(nn.Module):
    """Changes all that a forward can change."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.embedding = nn.Embedding(10, 4, max_norm=0.1)
        self.calls = 0
        self.state = None

    def forward(self, x):
        assert self.training
        self.calls += 1
        y, self.state = self.rnn(self.embedding(x) * random.random() * torch.rand(()))
        self.norm.running_mean = self.norm.running_mean + 1
        return self.norm(y.flatten(0, 1))


def test_the_run_leaves_no_trace():
    model = Restless().eval()
    model.rnn.weight_ih_l0.grad = torch.ones(16, 4)
    state = copy.deepcopy(model.state_dict())
    buffer = model.norm.running_mean
    modes = list(map(attrgetter("training"), model.modules()))
    x = torch.randint(10, (3, 2))
    randoms = torch.get_rng_state(), random.getstate()
    convert(model, example_inputs=x)
    assert type(model.rnn) is strop.LSTM
    assert (model.calls, model.state) == (0, None)
    assert model.norm.running_mean is buffer
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert list(map(attrgetter("training"), model.modules())) == modes
    assert torch.equal(torch.get_rng_state(), randoms[0])
    assert random.getstate() == randoms[1]
    assert torch.equal(model.rnn.weight_ih_l0.grad, torch.ones(16, 4))
    assert model.embedding.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_converting_imports_nothing_slow():
    """torch._dynamo takes seconds."""
    code = "import sys, torch, strop; from torch import nn; "
    code += "strop.convert(nn.Sequential(nn.Dropout(), nn.LSTM(3, 3)), example_inputs=torch.ones(2, 2, 3)); "
    code += "sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
