"""Dropouts that were taken over: their p, train() and eval() are obeyed by the layers that do their work."""

from __future__ import annotations

import copy
import io
from functools import partial

import pytest
import torch
from published import LockedDropout
from torch import nn

import strop
from strop.nn.taken_over import TakenOver

convert = partial(strop.convert, only_if_faster=False)  # at sizes at which nothing pays

T, B, U = 6, 4, 16
X = torch.ones(T, B, U)


class Model(nn.Module):
    def __init__(self, layer: nn.Module, drop: nn.Module | None = None):
        super().__init__()
        self.rnn = nn.LSTM(U, U)
        self.drop, self.layer = nn.Dropout(0.5) if drop is None else drop, layer

    def forward(self, x):
        if isinstance(self.layer, nn.RNNCellBase):
            state = None
            for step in x:
                state = self.layer(self.drop(step), state)
            return state
        if isinstance(self.layer, nn.Linear):
            x = self.rnn(x)[0]
        return self.layer(self.drop(x))


LAYERS = {
    kind.__name__: lambda kind=kind: kind(U, U)
    for kind in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear)
}
layers = pytest.mark.parametrize("name", LAYERS)


def converted(name, drop=None, **options):
    model = Model(LAYERS[name](), drop)
    report = convert(model, example_inputs=X, **options)
    assert [entry.name for entry in report.taken_over] == ["drop"]
    return model


def share(model, x=X):
    """The share of units that the layer behind the dropout does not read."""
    torch.manual_seed(1)
    inputs = []
    handle = model.drop.register_forward_hook(lambda _, args, y: inputs.append(y) or y.retain_grad())
    y = model(x.clone().requires_grad_())
    while not isinstance(y, torch.Tensor):
        y = y[0]
    handle.remove()
    grads = torch.autograd.grad(y.sum(), inputs, allow_unused=True)
    return torch.stack([(grad == 0).double().mean() for grad in grads]).mean().item()


@layers
def test_schedules_modes_and_sampling(name):
    model = converted(name)
    assert isinstance(model.drop, nn.Dropout)
    assert share(model) == pytest.approx(0.5)
    model.drop.p = 0.25  # a schedule, as OpenNMT's update_dropout
    assert share(model) == pytest.approx(0.25)
    model.drop.eval()  # a frozen part in front of a layer that trains
    assert share(model) == 0
    model.eval()
    assert share(model) == 0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()  # Monte Carlo sampling
    assert share(model) == pytest.approx(0.25)
    model.train()
    assert share(model) == pytest.approx(0.25)
    model.drop.p = 0.0
    assert share(model) == 0


@layers
def test_the_share_is_the_layers_and_goes_back(name):
    model = converted(name)
    own = "dropout" if name == "Linear" else "input_dropout"
    assert getattr(model.layer, own) == 0.5
    model.drop.p = 0.25
    assert getattr(model.layer, own) == 0.25
    setattr(model.layer, own, 0.125)
    assert model.drop.p == 0.125
    report = strop.revert(model)
    assert [(entry.name, entry.why) for entry in report.put_back] == [
        ("drop", "p=0.125, no longer dropped by 'layer'")
    ]
    assert type(model.drop) is nn.Dropout
    assert model.drop.p == 0.125
    assert vars(model.drop).keys() == vars(nn.Dropout()).keys()
    assert vars(model.layer).keys() == vars(LAYERS[name]()).keys()


def test_a_dropout_in_evaluation_before_converting_drops_nothing_afterwards():
    model = Model(nn.LSTM(U, U))
    model.drop.eval()
    convert(model, example_inputs=X)
    assert share(model) == 0
    model.drop.train()
    assert share(model) == pytest.approx(0.5)


@layers
def test_copies_listen_to_their_own_dropout(name):
    model = converted(name)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other.drop.p = 0.25
        assert share(other) == pytest.approx(0.25)
        assert share(model) == pytest.approx(0.5)
        strop.revert(other)
        assert other.drop.p == 0.25
    assert isinstance(model.drop, TakenOver)


def test_two_layers_drop_the_same_of_one_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.rnn, self.fc = nn.Dropout(0.5), nn.LSTM(U, U), nn.Linear(U, U)

        def forward(self, x):
            y = self.drop(x)
            return self.rnn(y)[0], self.fc(y)

    model = Two()
    report = convert(model, example_inputs=X)
    assert report.taken_over[0].why == "p=0.5 now dropped by 'rnn' and 'fc'"
    kept = []
    for _ in range(2):
        x = [X.clone().requires_grad_() for _ in range(2)]
        model.drop(X)
        of_rnn = torch.autograd.grad(model.rnn(x[0])[0].sum(), x[0])[0] != 0
        of_fc = torch.autograd.grad(model.fc(x[1]).sum(), x[1])[0] != 0
        assert torch.equal(of_rnn, of_fc)
        kept.append(of_fc)
    assert not torch.equal(*kept)
    copy.deepcopy(model)


class Given(nn.Module):
    """Its share is an argument, as of AWD-LSTM's LockedDropout."""

    def forward(self, x, dropout=0.5):
        if not self.training or not dropout:
            return x
        mask = x.new_empty(1, x.size(1), x.size(2)).bernoulli_(1 - dropout) / (1 - dropout)
        return mask.expand_as(x) * x


class GivenDropout(Given):
    pass


class Rate(nn.Module):
    """Of no telling name."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return nn.functional.dropout(x, self.rate, self.training)


def test_dropouts_of_other_projects_are_known_by_what_they_do():
    model = converted("LSTM", LockedDropout(0.25))
    assert isinstance(model.drop, LockedDropout)
    assert share(model) == pytest.approx(0.25)
    model.drop.p = 0.5
    assert share(model) == pytest.approx(0.5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert share(torch.load(file, weights_only=False)) == pytest.approx(0.5)
    report = strop.revert(model)
    assert report.put_back[0].after == "LockedDropout"
    assert type(model.drop) is LockedDropout
    assert vars(model.drop).keys() == vars(LockedDropout(0.5)).keys()


def test_what_changes_is_said():
    model = Model(nn.LSTM(U, U), LockedDropout(0.25))
    (entry,) = convert(model, example_inputs=X).taken_over
    assert entry.why.endswith(
        "(it dropped the same units at all steps, or in all rows; now as its pattern says)"
    )
    model = Model(nn.LSTM(U, U), LockedDropout(0.25))
    convert(model, example_inputs=X, pattern="fixed")
    x = X.clone().requires_grad_()
    model(x)[0].sum().backward()
    assert ((x.grad != 0) == (x.grad[:1, :1] != 0)).all()


def test_a_share_that_is_an_argument():
    model = converted("LSTM", GivenDropout())
    assert share(model) == pytest.approx(0.5)
    model.forward = lambda x: model.layer(model.drop(x, 0.25))
    assert share(model) == pytest.approx(0.25)


def test_classes_that_are_named():
    left = Model(nn.LSTM(U, U), Rate(0.25))
    report = convert(left, example_inputs=X)
    assert not report.taken_over
    model = converted("LSTM", Rate(0.25), dropouts={Rate: "rate"})
    assert share(model) == pytest.approx(0.25)
    model.drop.rate = 0.5
    assert share(model) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="Rate has no number in 'share'"):
        convert(Model(nn.LSTM(U, U), Rate(0.25)), example_inputs=X, dropouts={Rate: "share"})
    with pytest.raises(TypeError, match="dropouts must map classes"):
        convert(Model(nn.LSTM(U, U)), dropouts={"Rate": "p"})


class WordDropout(nn.Module):
    def forward(self, x):
        return x * x.new_empty(*x.shape[:2], 1).bernoulli_(0.5)


class ScaledWordDropout(nn.Module):
    def forward(self, x):
        return x * x.new_empty(*x.shape[:2], 1).bernoulli_(0.5) / 0.5


class DropAndShift(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5) + 1


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        (WordDropout(), "keeps what it does not drop as it is"),
        (ScaledWordDropout(), "drops whole rows, not units"),
        (DropAndShift(), "does more than drop and scale"),
        (nn.AlphaDropout(0.5), "drops in a way of its own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_dropouts_that_do_something_else_stay(drop, reason):
    model = Model(nn.LSTM(U, U), drop)
    report = convert(model, example_inputs=X + torch.rand(U))
    entry = next(entry for entry in report if entry.name == "drop")
    assert entry.action == "left"
    assert entry.why.startswith(reason)
    assert type(model.drop) is type(drop)


def test_torch_compile_sees_the_dropout_that_was_taken_over():
    torch._dynamo.reset()
    model = converted("GRU")
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    for p in (0.5, 0.25):
        model.drop.p = p
        torch.manual_seed(1)
        expected = model(X)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(fast(X)[0], expected)
