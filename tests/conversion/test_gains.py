"""Whether taking a dropout over is expected to pay, asked of the rule by which layers choose how to run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import strop
from strop.functional import routes
from strop.functional.linear_costs import Sizes
from strop.nn.taken_over import TakenOver
from strop.ops import native

T, B, U = 5, 3, 8

needs_kernels = pytest.mark.skipif(native.missing is not None, reason="no native kernels")


class Model(nn.Module):
    def __init__(self, layer=None):
        super().__init__()
        self.drop, self.rnn = nn.Dropout(0.5), nn.LSTM(U, U) if layer is None else layer
        self.fc = nn.Linear(U, U)

    def forward(self, x):
        return self.rnn(self.drop(x))


class Shared(Model):
    def forward(self, x):
        return self.fc(self.drop(self.rnn(self.drop(x))[0]))


def mlp():
    return nn.Sequential(nn.Linear(U, U), nn.ReLU(), nn.Dropout(0.5), nn.Linear(U, U))


@pytest.fixture
def rule(monkeypatch):
    """Sets what is expected: milliseconds of torch's and of strop's layers."""

    def expect(recurrent=(1.0, 1.0), linear=(1.0, 1.0)):
        asked = []

        def of_recurrent(*sizes, **how):
            asked.append((*sizes, how))
            return recurrent

        monkeypatch.setattr(routes, "expected_times", of_recurrent)
        monkeypatch.setattr(routes, "expected_linear_times", lambda sizes: (asked.append(sizes), linear)[1])
        return asked

    return expect


def entry_of(report, name):
    return next(entry for entry in report if entry.name == name)


@needs_kernels
def test_a_dropout_stays_where_layers_would_be_slower(rule):
    rule((1.0, 1.25))
    model = Model()
    report = strop.convert(model, example_inputs=torch.randn(T, B, U))
    assert type(model.drop) is nn.Dropout
    entry = entry_of(report, "drop")
    assert (entry.action, entry.gain) == ("left", None)
    assert entry.why == "would not pay: 'rnn' would train 0.80 times as fast on 5 steps of 3 rows"
    assert type(model.rnn) is strop.LSTM  # which drops nothing, and runs by the fastest way there is
    assert model.rnn.input_dropout == 0


@needs_kernels
def test_recurrent_layers_that_are_as_fast_take_over_and_linear_layers_do_not(rule):
    rule()
    model = Model()
    report = strop.convert(model, example_inputs=torch.randn(T, B, U))
    assert isinstance(model.drop, TakenOver)
    assert entry_of(report, "rnn").gain == 1
    model = mlp()
    with pytest.warns(UserWarning, match="nothing"):
        report = strop.convert(model, example_inputs=torch.randn(B, U))
    assert type(model[2]) is nn.Dropout
    assert entry_of(report, "2").why == "would not pay: '3' would train 1.00 times as fast on 3 rows"


@needs_kernels
def test_a_dropout_is_taken_over_where_it_pays(rule):
    asked = rule((3.0, 2.0))
    model = Model(nn.GRU(U, 4, 2, dropout=0.25, bidirectional=True, batch_first=True))
    report = strop.convert(model, example_inputs=torch.randn(B, T, U))
    assert isinstance(model.drop, TakenOver)
    assert entry_of(report, "rnn").gain == 1.5
    how = {"steps": T, "batch": B, "drops_states": False, "proj_size": 0, "bidirectional": True}
    assert ("GRU", U, 4, {**how, "input_dropout": 0.5}) in asked
    assert ("GRU", 8, 4, {**how, "input_dropout": 0.25}) in asked
    header, drop, rnn, *_ = str(report).splitlines()
    assert header.split() == ["layer", "was", "is", "expected", "gain"]
    assert rnn[header.index("expected gain") :].split()[0] == "1.50x"
    assert drop[header.index("expected gain") :].split()[0].startswith("p=0.5")


@needs_kernels
def test_all_layers_behind_a_dropout_count(rule):
    x = torch.randn(T, B, U)
    rule(recurrent=(3.0, 2.0), linear=(1.0, 1.5))  # 4 to 3.5 ms
    model = Shared()
    report = strop.convert(model, example_inputs=x)
    assert isinstance(model.drop, TakenOver)
    assert (entry_of(report, "rnn").gain, entry_of(report, "fc").gain) == (1.5, 1 / 1.5)
    rule(recurrent=(3.0, 2.0), linear=(1.0, 3.0))  # 4 to 5 ms
    model = Shared()
    report = strop.convert(model, example_inputs=x)
    assert type(model.fc) is nn.Linear
    assert entry_of(report, "drop").why == (
        "would not pay: 'rnn' and 'fc' would train 0.80 times as fast on 5 steps of 3 rows"
    )
    model = Shared()
    strop.convert(model, example_inputs=x, only_if_faster=False)
    assert isinstance(model.drop, TakenOver)


@needs_kernels
def test_layers_that_drop_states_take_over_for_nothing(rule):
    """The kernels run in any case."""
    rule((1.0, 1.25))
    model = Model()
    report = strop.convert(model, recurrent_dropout=0.5, example_inputs=torch.randn(T, B, U))
    assert isinstance(model.drop, TakenOver)
    assert entry_of(report, "rnn").gain == 0.8  # what dropping states costs here is said


@needs_kernels
@pytest.mark.parametrize("pattern", ["random", "variational"])
def test_masks_that_rows_do_not_share_are_taken_over_by_recurrent_layers_alone(pattern):
    """They leave no column out: nothing is gained, and nothing lost."""
    model = Shared()
    strop.convert(model, pattern=pattern, example_inputs=torch.randn(T, B, U))
    assert isinstance(model.drop, TakenOver)
    model = mlp()
    with pytest.warns(UserWarning, match="nothing"):
        strop.convert(model, pattern=pattern, example_inputs=torch.randn(B, U))
    assert type(model[2]) is nn.Dropout


def test_why_nothing_is_gained_in_double_precision():
    model = Model().double()
    report = strop.convert(model, example_inputs=torch.randn(T, B, U, dtype=torch.float64))
    assert entry_of(report, "drop").why.startswith("'rnn' would train no faster: ")
    assert all(entry.gain is None for entry in report)
    assert "expected gain" not in str(report)


@needs_kernels
def test_nothing_is_known_where_a_backend_was_asked_for_by_name():
    with strop.backends.use("reference"):
        model = Model()
        report = strop.convert(model, example_inputs=torch.randn(T, B, U))
    assert isinstance(model.drop, TakenOver)
    assert entry_of(report, "rnn").gain is None


@needs_kernels
def test_packed_sequences_and_single_rows_have_sizes(rule):
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, U) for n in (5, 3, 1)])
    asked = rule((2.0, 1.0))

    class Packed(Model):
        def forward(self, x):
            return self.rnn(nn.utils.rnn.PackedSequence(self.drop(x.data), x.batch_sizes))

    strop.convert(Packed(), example_inputs=packed)
    strop.convert(Model(), example_inputs=torch.randn(T, U))
    assert {(how["steps"], how["batch"]) for *_, how in asked} == {(5, 2), (5, 1)}


@needs_kernels
def test_a_model_without_recurrent_layers(rule):
    rule(linear=(1.0, 1.0))
    model, x = mlp(), torch.randn(B, U)
    with pytest.warns(UserWarning, match="has changed nothing") as caught:
        report = strop.convert(model, example_inputs=x)
    assert "would not pay: '3' would train 1.00 times as fast on 3 rows" in str(caught[0].message)
    assert not report.swapped
    asked = rule(linear=(2.0, 1.0))
    report = strop.convert(model, example_inputs=x)
    assert asked[0] == Sizes(U, U, 1, B, 0.5)
    assert entry_of(report, "3").gain == 2
    assert entry_of(report, "2").why == "p=0.5 now dropped by '3' (one mask for all rows of a call)"
    hidden = torch.rand(B, U, requires_grad=True)
    kept = torch.autograd.grad(model[3](hidden).sum(), hidden)[0] != 0
    assert (kept == kept[0]).all()
    assert kept[0].sum() == U // 2
    strop.revert(model)
    assert type(model[2]) is nn.Dropout


def test_axes_that_nothing_tells_are_a_reason(rule):
    rule(linear=(2.0, 1.0))
    with pytest.warns(UserWarning, match="has changed nothing"):
        report = strop.convert(mlp(), example_inputs=torch.randn(T, B, U))
    assert entry_of(report, "2").why == (
        "feeds '3': reads [5, 3, 8], of which no recurrent layer tells which axis is time"
    )


@needs_kernels
def test_real_sizes_by_the_real_rule():
    """PyTorch's word-level language model pays on every instruction set that was measured."""
    assert routes.expected_gain("LSTM", 650, 650, steps=35, batch=20, input_dropout=0.5) > 1.05
    torchs, strops = routes.expected_linear_times(Sizes(650, 10_000, 35, 20, 0.5))
    assert torchs > 1.05 * strops
    torchs, strops = routes.expected_linear_times(Sizes(8, 8, 1, 1, 0.9))
    assert torchs < 1.05 * strops


def test_bad_choices_are_refused():
    with pytest.raises(TypeError, match="only_if_faster must be True or False, got 1"):
        strop.convert(Model(), only_if_faster=1)
