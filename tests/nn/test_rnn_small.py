"""Calls run by torch's operator where that is faster, with torch's results and the same checks."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

import recurrent
import strop
from strop.functional import operator
from strop.ops import choice, dispatch, native

pytestmark = pytest.mark.skipif(
    native.missing is not None, reason="without kernels torch's operator runs always"
)


@pytest.fixture
def operator_calls(monkeypatch):
    """The modes whose operator was called, in turn."""
    calls = []

    def counted(name, own):
        return lambda *args: (calls.append(name), own(*args))[1]

    for name, own in operator.STACKS.items():
        monkeypatch.setitem(operator.STACKS, name, counted(name, own))
    return calls


def pair(mode, training, **options):
    ours, theirs = recurrent.make(mode, 6, 8, **options), recurrent.make_torchs(mode, 6, 8, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(training), theirs.train(training)


@pytest.mark.parametrize("mode", recurrent.MODES)
@pytest.mark.parametrize("layout", recurrent.LAYOUTS)
@pytest.mark.parametrize("steps", [1, 5, 120])
@pytest.mark.parametrize("case", ["no gradients", "evaluation", "training"])
def test_results_are_torchs_whichever_way_is_taken(operator_calls, way, mode, layout, steps, case):
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
    assert len(operator_calls) == (2 if way == "operator" else 0)


def test_a_backend_that_is_asked_for_runs(operator_calls, way):
    ours, _ = pair("RNN_TANH", False)
    with dispatch.use("native"):
        ours(torch.randn(1, 4, 6))
    assert not operator_calls
    ours(torch.randn(1, 4, 6))
    assert operator_calls == ["RNN_TANH"] * (way == "operator")


def test_equal_lengths_make_a_plain_sequence(way):
    ours, theirs = pair("LSTM", False, bidirectional=True)
    packed = pack_padded_sequence(torch.randn(3, 4, 6), torch.full((4,), 3))
    with torch.no_grad():
        actual, expected = ours(packed), theirs(packed)
    torch.testing.assert_close(actual[0].data, expected[0].data)
    torch.testing.assert_close(actual[1], expected[1])


@pytest.mark.parametrize("steps", [1, 60])
def test_weights_that_were_exchanged_are_noticed(way, steps):
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
def test_one_dropping_step_is_that_of_the_kernels(monkeypatch, way, mode, pattern, bias, with_states):
    shares = dict.fromkeys(("dropout", "input_dropout", "recurrent_dropout"), 0.4)
    layer = recurrent.make(
        mode, 6, 8, num_layers=2, bidirectional=True, bias=bias, pattern=pattern, **shares
    ).train()
    x, masks, taken = torch.randn(1, 3, 6), layer.draw(1, 3), []
    grads = recurrent.upstream(layer, 1, 3)
    states = [torch.randn_like(each) for each in grads[1:]] if with_states else None
    cells = operator.STEPS[mode]
    monkeypatch.setitem(operator.STEPS, mode, lambda *args: (taken.append(mode), cells(*args))[1])

    small = recurrent.results(layer, x, states, grads, masks=masks)
    with dispatch.use("native"):
        usual = recurrent.results(layer, x, states, grads, masks=masks)
    torch.testing.assert_close(small, usual, rtol=1e-4, atol=1e-5)
    # A GRU keeps some of the whole state, where torch's cell would keep some of the masked one.
    keeps_the_whole = mode == "GRU" and with_states
    assert len(taken) == (4 if way == "operator" and not keeps_the_whole else 0)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shares", [{"input_dropout": 0.5}, {"input_dropout": 0.5, "recurrent_dropout": 0.5}])
def test_what_is_dropped_is_not_read(way, steps, shares):
    layer = recurrent.make("LSTM", 8, 8, **shares).train()
    x, masks = torch.randn(steps, 4, 8), layer.draw(steps, 4)
    x[(masks.input[0].dense() == 0).expand_as(x)] = torch.nan
    x.requires_grad_()
    y, (h, c) = layer(x, masks=masks)
    (y.sum() + h.sum() + c.sum()).backward()
    for value in (y, h, c, x.grad, *(parameter.grad for parameter in layer.parameters())):
        assert value.isfinite().all()


@pytest.fixture
def measurements(monkeypatch):
    """What was timed, as it was asked for."""
    monkeypatch.setattr(strop.backends, "autotune", True)
    return choice.choices


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shares", [{}, {"input_dropout": 0.5, "recurrent_dropout": 0.5}])
def test_a_measurement_is_made_once_and_leaves_no_trace(measurements, training, shares):
    layer = recurrent.make("GRU", 6, 8, num_layers=2, **shares).train(training)
    steps = 1 if shares else 3
    x, masks = torch.randn(steps, 3, 6, requires_grad=True), layer.draw(steps, 3) if shares else None
    hooked = []
    for parameter in layer.parameters():
        parameter.register_hook(hooked.append)
    before = torch.get_rng_state()
    y, _ = layer(x, masks=masks)
    assert len(measurements()) == (2 if shares else 1)  # the step of each layer, or the stack
    assert torch.equal(torch.get_rng_state(), before)
    assert not hooked
    assert x.grad is None
    assert all(each.grad is None for each in layer.parameters())
    made = measurements()
    y.sum().backward()
    assert len(hooked) == len(list(layer.parameters()))
    layer(x.detach().requires_grad_(), masks=masks)
    assert measurements() == made
    for each in made:
        assert all(ms.called > 0 for ms in each.times.values())
        assert len(each.times) == 2


def test_a_measurement_saves_nothing_that_checkpointing_would_miss(measurements):
    layer = recurrent.make("LSTM", 6, 8, num_layers=2)
    x = torch.randn(2, 3, 6, requires_grad=True)
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=False).sum().backward()
    assert len(measurements()) == 1
    assert x.grad is not None


def test_nothing_is_measured_where_somebody_watches_or_every_process_is_to_do_the_same(measurements):
    layer, x = recurrent.make("LSTM", 6, 8), torch.randn(2, 3, 6)
    with FlopCounterMode(display=False):
        layer(x)
    with torch.profiler.profile():
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it slows down, it says
        with torch.autograd.detect_anomaly():
            layer(x)
    layer(x.as_subclass(type("Own", (torch.Tensor,), {})))
    strop.backends.autotune = False
    layer(x)
    strop.backends.autotune = True
    torch.use_deterministic_algorithms(True)
    try:
        layer(x)
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.inference_mode():
        inference = torch.ones(2, 3, 6)
    assert not measurements()
    layer.requires_grad_(False)
    layer(inference)
    assert len(measurements()) == 1


@pytest.mark.parametrize("exact", [True, False])
def test_one_step_is_measured_once_whatever_is_drawn(measurements, exact):
    shares = {"input_dropout": 0.5, "recurrent_dropout": 0.5}
    layer = recurrent.make("LSTM", 40, 40, pattern=strop.Pattern(0.0, exact=exact), **shares)
    h = torch.zeros(1, 4, 40)
    for _ in range(30):
        layer(torch.randn(1, 4, 40), (h, h))
    assert len(measurements()) == 1


def test_selective_checkpointing_sees_the_same_operations_twice(way):
    layer = recurrent.make("LSTM", 6, 8)
    x = torch.randn(2, 3, 6, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), x)
    policy = partial(create_selective_checkpoint_contexts, lambda *_, **__: CheckpointPolicy.PREFER_RECOMPUTE)
    y = checkpoint(lambda x: layer(x)[0], x, use_reentrant=False, context_fn=policy)
    layer(x)  # decides
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), expected)


@pytest.mark.parametrize("drops", [True, False])
def test_nothing_is_timed_unless_somebody_asks(monkeypatch, drops):
    monkeypatch.setattr(choice, "_measure", None)
    shares = {"input_dropout": 0.5, "recurrent_dropout": 0.25} if drops else {}
    for mode in recurrent.MODES:
        for steps, hidden, batch in ((1, 8, 1), (1, 40, 64), (9, 64, 3)):
            recurrent.make(mode, 6, hidden, num_layers=2, **shares)(torch.randn(steps, batch, 6))[
                0
            ].sum().backward()
    assert not strop.backends.autotune
    assert not choice.choices()
