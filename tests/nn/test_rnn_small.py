"""Small calls with nothing dropped take torch's operator, with torch's results and the same checks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence

import recurrent
from strop.functional import stack
from strop.ops import dispatch, native

pytestmark = pytest.mark.skipif(
    native.missing is not None, reason="without kernels torch's operator runs always"
)


@pytest.fixture
def operator_calls(monkeypatch):
    """The modes whose operator was called, in turn."""
    calls = []

    def counted(name, operator):
        return lambda *args: (calls.append(name), operator(*args))[1]

    for name, operator in stack.OPERATORS.items():
        monkeypatch.setitem(stack.OPERATORS, name, counted(name, operator))
    return calls


def pair(mode, training, **options):
    ours, theirs = recurrent.make(mode, 6, 8, **options), recurrent.make_torchs(mode, 6, 8, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(training), theirs.train(training)


@pytest.mark.parametrize("mode", recurrent.MODES)
@pytest.mark.parametrize("layout", recurrent.LAYOUTS)
@pytest.mark.parametrize("steps", [1, 5, 120])
@pytest.mark.parametrize("case", ["no gradients", "evaluation", "training"])
def test_results_are_torchs_whichever_way_is_taken(operator_calls, mode, layout, steps, case):
    batch = 1 if layout == "unbatched" else 4
    ours, theirs = pair(mode, case == "training", num_layers=2, bidirectional=True, batch_first=True)
    x, lengths = torch.randn(steps, batch, 6), recurrent.lengths_of(layout, steps, batch)
    grads = recurrent.upstream(ours, steps, batch)
    for states in (None, [torch.randn_like(each) for each in grads[1:]]):
        if case == "no gradients":
            with torch.no_grad():
                actual, expected = (
                    recurrent.call(each, x, states, layout, lengths) for each in (ours, theirs)
                )
        else:
            actual, expected = (
                recurrent.results(each, x, states, grads, layout, lengths) for each in (ours, theirs)
            )
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    # Which way is asserted where the choice is clear by far.
    if mode != "LSTM" and steps == 120:
        assert not operator_calls
    elif mode != "LSTM" and case != "no gradients" and steps == 1:
        assert len(operator_calls) == 2


def test_a_backend_that_is_asked_for_runs(operator_calls):
    ours, _ = pair("RNN_TANH", False)
    with dispatch.use("native"):
        ours(torch.randn(1, 4, 6))
    assert not operator_calls
    ours(torch.randn(1, 4, 6))
    assert operator_calls == ["RNN_TANH"]


def test_equal_lengths_make_a_plain_sequence(operator_calls):
    ours, theirs = pair("LSTM", False, bidirectional=True)
    packed = pack_padded_sequence(torch.randn(3, 4, 6), torch.full((4,), 3))
    with torch.no_grad():
        actual, expected = ours(packed), theirs(packed)
    assert not operator_calls  # the kernel for plain sequences has no start-up cost
    torch.testing.assert_close(actual[0].data, expected[0].data)
    torch.testing.assert_close(actual[1], expected[1])


@pytest.mark.parametrize("steps", [1, 60])
def test_weights_that_were_exchanged_are_noticed(steps):
    ours, theirs = pair("GRU", False)
    x = torch.randn(steps, 4, 6)
    ours(x)
    doubled = {name: 2 * value.detach() for name, value in ours.named_parameters()}
    expected = torch.func.functional_call(theirs, doubled, (x,))
    torch.testing.assert_close(torch.func.functional_call(ours, doubled, (x,)), expected)
    torch.testing.assert_close(ours(x), theirs(x))
    for module in (ours, theirs):
        for name, value in doubled.items():
            setattr(module, name, nn.Parameter(value.clone()))
    torch.testing.assert_close(ours(x), expected)
    with torch.no_grad():
        pruned = [copy.deepcopy(module) for module in (ours, theirs)]
        for module in pruned:
            prune.l1_unstructured(module, "weight_ih_l0", amount=0.5)
        torch.testing.assert_close(*(module(x) for module in pruned))
    assert not torch.equal(pruned[0](x)[0], ours(x)[0])


@pytest.mark.parametrize("mode", recurrent.MODES)
@pytest.mark.parametrize("pattern", ["structured", "random"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_states", [True, False])
def test_one_dropping_step_is_that_of_the_kernels(monkeypatch, mode, pattern, bias, with_states):
    shares = dict.fromkeys(("dropout", "input_dropout", "recurrent_dropout"), 0.4)
    layer = recurrent.make(
        mode, 6, 8, num_layers=2, bidirectional=True, bias=bias, pattern=pattern, **shares
    ).train()
    x, masks, taken = torch.randn(1, 3, 6), layer.draw(1, 3), []
    grads = recurrent.upstream(layer, 1, 3)
    states = [torch.randn_like(each) for each in grads[1:]] if with_states else None
    cells = stack._STEPPERS[mode]
    monkeypatch.setitem(stack._STEPPERS, mode, lambda *args: (taken.append(mode), cells(*args))[1])

    small = recurrent.results(layer, x, states, grads, masks=masks)
    with dispatch.use("native"):
        usual = recurrent.results(layer, x, states, grads, masks=masks)
    torch.testing.assert_close(small, usual, rtol=1e-4, atol=1e-5)
    # A GRU keeps some of the whole state, where torch's cell would keep some of the masked one.
    assert len(taken) == (0 if mode == "GRU" and with_states else 4)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shares", [{"input_dropout": 0.5}, {"input_dropout": 0.5, "recurrent_dropout": 0.5}])
def test_what_is_dropped_is_not_read(steps, shares):
    layer = recurrent.make("LSTM", 8, 8, **shares).train()
    x, masks = torch.randn(steps, 4, 8), layer.draw(steps, 4)
    x[(masks.input[0].dense() == 0).expand_as(x)] = torch.nan
    x.requires_grad_()
    y, (h, c) = layer(x, masks=masks)
    (y.sum() + h.sum() + c.sum()).backward()
    for value in (y, h, c, x.grad, *(parameter.grad for parameter in layer.parameters())):
        assert value.isfinite().all()
