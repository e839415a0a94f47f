"""What isinstance, subclasses, pickle and compilers see of converted layers; a bad swap is undone."""

from __future__ import annotations

import abc
import copy
import io
import subprocess
import sys
from functools import partial

import pytest
import torch
from published import WeightDrop, WordModel
from torch import nn

import strop

convert = partial(strop.convert, only_if_faster=False)  # at sizes at which nothing pays

PAIRS = [(nn.LSTM, strop.LSTM), (nn.GRU, strop.GRU), (nn.RNN, strop.RNN)]
CELLS = [(nn.LSTMCell, strop.LSTMCell), (nn.GRUCell, strop.GRUCell), (nn.RNNCell, strop.RNNCell)]


class Asks(nn.Module):
    """As OpenNMT-py: what the layer returns is told by its class."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 8)

    def forward(self, x):
        y, state = self.rnn(x)
        return y, state if isinstance(self.rnn, nn.GRU | nn.RNN) else state[0]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS + CELLS)
def test_converted_layers_are_both(theirs, ours):
    layer = theirs(4, 8)
    convert(layer, recurrent_dropout=0.5)
    assert isinstance(layer, theirs)
    assert isinstance(layer, ours)
    assert not any(isinstance(layer, other) for other, _ in PAIRS + CELLS if other is not theirs)
    strop.revert(layer)
    assert type(layer) is theirs


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_models_that_ask_for_the_class_run_and_compile(theirs, ours):
    torch._dynamo.reset()
    model, x = Asks(theirs), torch.randn(5, 3, 4)
    convert(model, recurrent_dropout=0.5, example_inputs=x)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    for run in (model, fast):
        y, h = run(x)
        assert h.shape == (1, 3, 8)
        y.sum().backward()


def test_torchs_own_layers_are_compiled_as_before():
    torch._dynamo.reset()
    strop.LSTM(4, 8)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(Asks(nn.LSTM), fullgraph=True, backend="eager")(torch.randn(5, 3, 4))


@pytest.mark.parametrize("first", ["import torch._dynamo", "import strop"])
def test_the_compiler_may_be_imported_before_or_after(first):
    code = f"{first}\nimport sys, torch, strop, torch._dynamo; from torch import nn\n"
    code += "m = strop.GRU(4, 8, recurrent_dropout=0.5)\n"
    code += "torch.compile(m, fullgraph=True, backend='aot_eager')(torch.ones(3, 2, 4))[0].sum().backward()\n"
    code += "assert not any(type(f).__name__ == '_WhenImported' for f in sys.meta_path)\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


class Named(abc.ABC, nn.RNNBase):
    @abc.abstractmethod
    def initial(self, batch): ...

    def forward(self, x, hx=None):
        return super().forward(x, self.initial(x.shape[1]) if hx is None else hx)


class OwnLSTM(Named, nn.LSTM):
    """As of pytorch-forecasting: a base of its own, and methods."""

    def initial(self, batch):
        return tuple(torch.zeros(self.num_layers, batch, self.hidden_size) for _ in range(2))

    def extra_repr(self):
        return "mine, " + super().extra_repr()


class OwnCell(nn.GRUCell):
    note = "mine"


class OwnLinear(nn.Linear):
    pass


def test_subclasses_that_only_add_methods_are_converted():
    model = nn.ModuleDict({"rnn": OwnLSTM(4, 8, 2), "cell": OwnCell(4, 8)})
    theirs, x = copy.deepcopy(model["rnn"]), torch.randn(5, 3, 4)
    report = convert(model, recurrent_dropout=0.5)
    assert [entry.after for entry in report.swapped] == ["strop.OwnLSTM", "strop.OwnCell"]
    rnn = model["rnn"]
    assert isinstance(rnn, OwnLSTM)
    assert isinstance(rnn, strop.LSTM)
    assert rnn.recurrent_dropout == 0.5
    assert repr(rnn).startswith("OwnLSTM(mine, 4, 8, num_layers=2, recurrent_dropout=0.5")
    torch.testing.assert_close(rnn.eval()(x, rnn.initial(3)), theirs(x, theirs.initial(3)))
    assert not torch.equal(rnn.train()(x)[0], rnn(x)[0])
    assert model["cell"].note == "mine"
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert isinstance(other["rnn"], OwnLSTM)
        torch.testing.assert_close(other["rnn"].eval()(x), rnn.eval()(x))
        strop.revert(other)
        assert type(other["rnn"]) is OwnLSTM
        assert type(other["cell"]) is OwnCell
        assert vars(other["rnn"]).keys() == vars(theirs).keys()
    torch._dynamo.reset()
    torch.compile(rnn.train(), fullgraph=True, backend="aot_eager")(x)[0].sum().backward()


def test_a_subclass_of_a_linear_layer_takes_a_dropout_over():
    model = nn.Sequential(nn.LSTM(4, 4), Take(), nn.Dropout(0.5), OwnLinear(4, 2))
    convert(model, example_inputs=torch.randn(5, 3, 4))
    assert isinstance(model[3], OwnLinear)
    assert isinstance(model[3], strop.Linear)
    assert model[3].dropout == 0.5


class Take(nn.Module):
    def forward(self, given):
        return given[0]


class Fickle(nn.Module):
    """Does something else as soon as its layer is one of strop's."""

    def __init__(self, fails):
        super().__init__()
        self.drop, self.rnn, self.fails = nn.Dropout(0.5), nn.LSTM(4, 4), fails

    def forward(self, x):
        y, _ = self.rnn(self.drop(x))
        if type(self.rnn) is not nn.LSTM:
            if self.fails:
                raise RuntimeError("I know no such layer")
            return 2 * y
        return y


@pytest.mark.parametrize(("fails", "message"), [(True, "I know no such layer"), (False, "differ by up to")])
def test_a_swap_that_changes_results_is_undone(fails, message):
    model = Fickle(fails).eval()
    before = {name: (type(module), dict(vars(module))) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=message):
        convert(model, recurrent_dropout=0.5, example_inputs=torch.randn(5, 3, 4))
    assert {name: (type(module), dict(vars(module))) for name, module in model.named_modules()} == before
    model(torch.randn(5, 3, 4))


class SetUpOnce(nn.Module):
    """As AWD-LSTM: the weight is gone until the first pass sets it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.raw = layer._parameters.pop("weight_hh_l0")

    def forward(self, x):
        self.layer.weight_hh_l0 = nn.functional.dropout(self.raw, 0.5, self.training) + 0
        return self.layer(x)


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("make", [SetUpOnce, lambda layer: WeightDrop(layer, 0.5)])
def test_weight_drop_is_seen_before_and_after_the_first_pass(make, passes):
    model = make(nn.LSTM(4, 4))
    for _ in range(passes):
        model(torch.randn(5, 3, 4))
    with pytest.warns(UserWarning, match="weight_hh_l0 is not a parameter"):
        convert(model, recurrent_dropout=0.5)
    assert type(model.layer) is nn.LSTM
    model(torch.randn(5, 3, 4))[0].sum().backward()
    assert model.raw.grad is not None


def test_lists_and_mappings_of_example_inputs():
    from collections import UserDict

    ids = torch.randint(30, (5, 3))
    for given in ([ids], [ids, None], {"ids": ids}, UserDict(ids=ids)):
        model = WordModel()
        assert convert(model, example_inputs=given).taken_over


class Captioner(nn.Module):
    """Rows end one after another: the batch shrinks from step to step."""

    def __init__(self, lengths):
        super().__init__()
        self.cell, self.drop, self.fc, self.lengths = (
            nn.LSTMCell(4, 4),
            nn.Dropout(0.5),
            nn.Linear(4, 4),
            lengths,
        )

    def forward(self, x):
        state, ys = (x.new_zeros(len(self.lengths), 4), x.new_zeros(len(self.lengths), 4)), []
        for step in range(max(self.lengths)):
            rows = sum(length > step for length in self.lengths)
            state = self.cell(x[step, :rows], tuple(each[:rows] for each in state))
            ys.append(self.fc(self.drop(state[0])))
        return ys


@pytest.mark.parametrize("lengths", [[5, 3, 2], [2, 2, 1], [4, 1], [3], [1, 1]])
def test_one_step_is_told_from_all_steps(lengths):
    model = Captioner(lengths)
    report = convert(model, example_inputs=torch.randn(max(lengths), len(lengths), 4))
    assert [entry.name for entry in report.taken_over] == ["drop"]
