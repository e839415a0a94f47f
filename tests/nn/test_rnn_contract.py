"""What LSTM, GRU and RNN share with torch's beside results: arguments, parameters, copies, gradients."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from itertools import chain, combinations
from typing import get_overloads

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import recurrent
import strop
from recurrent import make, make_torchs

pytestmark = pytest.mark.usefixtures("way")

modes = pytest.mark.parametrize("mode", recurrent.MODES)
DROPS = {"dropout": 0.5, "input_dropout": 0.5, "recurrent_dropout": 0.5}
OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 3},
    {"bidirectional": True, "num_layers": 2},
    {"dtype": torch.float64},
    {"batch_first": True},
]
PROJECTED = [{"proj_size": 3, "bidirectional": True, "num_layers": 2}, {"proj_size": 3, "bias": False}]
options = pytest.mark.parametrize(
    ("mode", "options"),
    [(mode, each) for mode in recurrent.MODES for each in OPTIONS + (PROJECTED if mode == "LSTM" else [])],
    ids=str,
)


def hx_of(mode, *shape):
    states = torch.randn(shape), torch.randn(shape)
    return states if mode == "LSTM" else states[0]


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_the_arguments_are_torchs_in_order_and_default(name):
    documented, *_ = get_overloads(getattr(nn, name).__init__)
    theirs = list(inspect.signature(documented).parameters.values())
    ours = list(inspect.signature(getattr(strop, name).__init__).parameters.values())
    positional = [each for each in ours if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert [(each.name, each.default) for each in positional] == [
        (each.name, each.default) for each in theirs
    ]
    assert all(each.kind is each.KEYWORD_ONLY for each in ours[len(positional) :])
    forward = inspect.signature(getattr(strop, name).forward).parameters
    assert list(forward)[:3] == list(inspect.signature(getattr(nn, name).forward).parameters)
    # By position too: torch's older ONNX exporter passes defaults so.
    assert list(forward)[3:] == ["masks"]
    assert forward["masks"].default is None


def test_positional_arguments():
    for ours, theirs in (
        (strop.LSTM(3, 4, 2, False, True, 0.0, True, 2), nn.LSTM(3, 4, 2, False, True, 0.0, True, 2)),
        (strop.GRU(3, 4, 2, False, True, 0.0, True), nn.GRU(3, 4, 2, False, True, 0.0, True)),
        (strop.RNN(3, 4, 2, "relu", False, True, 0.0, True), nn.RNN(3, 4, 2, "relu", False, True, 0.0, True)),
    ):
        assert repr(ours) == repr(theirs)
        assert ours.mode == theirs.mode
        assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@options
def test_parameters_are_torchs_bit_for_bit(mode, options):
    torch.manual_seed(4)
    ours = make(mode, 5, 7, **options)
    torch.manual_seed(4)
    theirs = make_torchs(mode, 5, 7, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert len(ours.all_weights) == len(theirs.all_weights)
    for own, other in zip(chain(*ours.all_weights), chain(*theirs.all_weights), strict=True):
        assert torch.equal(own, other)
    assert ours.flatten_parameters() is None
    ours.reset_parameters()
    for source, target in ((theirs, make(mode, 5, 7, **options)), (ours, make_torchs(mode, 5, 7, **options))):
        assert str(target.load_state_dict(source.state_dict())) == "<All keys matched successfully>"
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)
    assert isinstance(ours, nn.RNNBase)


@options
def test_repr_is_torchs_where_nothing_is_dropped(mode, options):
    assert repr(make(mode, 5, 7, **options)) == repr(make_torchs(mode, 5, 7, **options))


def test_repr_says_what_is_dropped():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.25, block=2)
    expected = "LSTM(6, 8, num_layers=2, dropout=0.5, recurrent_dropout=0.25, pattern=structured, block=2)"
    assert repr(lstm) == expected
    gru = strop.GRU(6, 8, 2, dropout=0.5, bidirectional=True, pattern="fixed")
    assert repr(gru) == "GRU(6, 8, num_layers=2, dropout=0.5, bidirectional=True, pattern=fixed)"


def by_saving(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), by_saving]
)
@modes
def test_copies(mode, clone):
    module = make(mode, 6, 8, 2, bidirectional=True, **DROPS, pattern="fixed", block=2)
    x, masks = torch.randn(4, 3, 6), module.draw(4, 3)
    module(x)
    other = clone(module)
    assert repr(other) == repr(module)
    assert torch.equal(other(x, masks=masks)[0], module(x, masks=masks)[0])
    assert torch.equal(other.eval()(x)[0], module.eval()(x)[0])
    if clone is not copy.copy:  # the copy has weights of its own, and uses them
        with torch.no_grad():
            other.weight_hh_l1_reverse.zero_()
        assert not torch.equal(other(x)[0], module(x)[0])


@modes
def test_weights_that_are_replaced_are_used(mode):
    module, theirs = make(mode, 5, 7, recurrent_dropout=0.5).eval(), make_torchs(mode, 5, 7)
    x = torch.randn(4, 3, 5)
    module(x)
    module.weight_hh_l0 = nn.Parameter(2 * module.weight_hh_l0.detach())
    theirs.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), theirs(x))


@modes
def test_dtypes_and_devices(mode):
    module = make(mode, 5, 7, 2, recurrent_dropout=0.5, bidirectional=True)
    values = copy.deepcopy(module.state_dict())
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        module.to(dtype)
        y, last = module(torch.randn(4, 3, 5, dtype=dtype))
        assert y.dtype == last[0].dtype == dtype
        y.float().sum().backward()
        assert all(parameter.grad.dtype == dtype for parameter in module.parameters())
        module.zero_grad()
    module.to("meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    module.eval()
    assert module(torch.zeros(4, 3, 5, dtype=torch.float16, device="meta"))[0].shape == (4, 3, 14)
    module.to_empty(device="cpu").to(torch.float32).load_state_dict(values)
    theirs, x = make_torchs(mode, 5, 7, 2, bidirectional=True), torch.randn(4, 3, 5)
    theirs.load_state_dict(values)
    torch.testing.assert_close(module(x), theirs(x))
    with torch.device("meta"):
        assert make(mode, 5, 7).weight_ih_l0.is_meta
    assert make(mode, 5, 7, device="meta", dtype=torch.float64).weight_ih_l0.dtype == torch.float64


@modes
def test_shared_memory(mode):
    module = make(mode, 5, 7, recurrent_dropout=0.5)
    assert module.share_memory() is module
    assert all(parameter.is_shared() for parameter in module.parameters())
    y, _ = module(torch.randn(4, 3, 5))
    y.sum().backward()
    module.eval()(torch.randn(4, 3, 5))


@pytest.mark.parametrize("dropping", [True, False])
@modes
def test_parameters_given_from_outside_are_used(mode, dropping):
    module = make(mode, 6, 8, 2, bidirectional=True, recurrent_dropout=0.5).train(dropping)
    x = torch.randn(4, 3, 6)
    arguments = {"masks": module.draw(4, 3)} if dropping else {}
    module(x, **arguments)
    given = {name: (2 * value.detach()).requires_grad_() for name, value in module.named_parameters()}
    actual, _ = torch.func.functional_call(module, given, (x,), arguments)
    grads = torch.autograd.grad(actual.sum(), list(given.values()))
    module.load_state_dict(given)
    expected, _ = module(x, **arguments)
    assert torch.equal(actual, expected)
    assert all(map(torch.equal, grads, torch.autograd.grad(expected.sum(), list(module.parameters()))))


@pytest.mark.parametrize("dropping", [True, False])
@modes
def test_reparametrised_weights(mode, dropping):
    """As weight normalisation and pruning make them: an attribute that is computed, not a parameter."""
    module = weight_norm(make(mode, 6, 8, recurrent_dropout=0.5).train(dropping), "weight_hh_l0")
    masks = module.draw(4, 3) if dropping else None
    x, plain = torch.randn(4, 3, 6), make(mode, 6, 8)
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
    plain.load_state_dict({name: getattr(module, name) for name in plain.state_dict()})
    y, _ = module(x, masks=masks)
    torch.testing.assert_close(y, plain(x, masks=masks)[0])
    y.sum().backward()
    assert module.parametrizations.weight_hh_l0.original0.grad.abs().sum() > 0


def subsets(names):
    return chain(combinations(names, 1), combinations(names, len(names) - 1), [()])


@pytest.mark.parametrize("use", ["dropping", "training", "packed"])
@modes
def test_any_subset_of_parameters_can_be_frozen(backend, mode, use):
    module = make(mode, 5, 8, 2, recurrent_dropout=0.0 if use == "training" else 0.5).to(backend.dtype)
    x, masks = torch.randn(4, 3, 5, dtype=backend.dtype), module.draw(4, 3)
    lengths = [2, 4, 1] if use == "packed" else None
    layout = "unsorted" if use == "packed" else "batched"

    def y():
        return recurrent.call(module, x, None, layout, lengths, masks=masks)[0]

    weights = dict(module.named_parameters())
    expected = dict(zip(weights, torch.autograd.grad(y().sum(), list(weights.values())), strict=True))
    for trained in subsets(weights):
        for name, parameter in weights.items():
            parameter.requires_grad_(name in trained)
            parameter.grad = None
        if not trained:
            assert not y().requires_grad
            continue
        y().sum().backward()
        for name, parameter in weights.items():
            assert (parameter.grad is not None) == (name in trained)
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("dropping", [True, False])
@modes
def test_gradients_flow_to_the_states_alone(backend, mode, dropping):
    module = make(mode, 5, 8, 2, recurrent_dropout=0.5 * dropping).to(backend.dtype).requires_grad_(False)
    states = [torch.randn(2, 3, 8, dtype=backend.dtype, requires_grad=True) for _ in range(2)]
    x, hx = torch.randn(4, 3, 5, dtype=backend.dtype), tuple(states) if mode == "LSTM" else states[0]
    y, last = module(x, hx)
    assert y.requires_grad
    (y.sum() + last[0].sum()).backward()
    assert states[0].grad.abs().sum() > 0
    assert x.grad is None


@pytest.mark.parametrize("dropping", [True, False])
@modes
def test_operands_that_are_not_contiguous(backend, mode, dropping):
    """Every second row, a broadcast state, a transposed weight: the same values give the same bits."""
    module = make(mode, 6, 8, recurrent_dropout=0.5 * dropping).to(backend.dtype)
    x = torch.randn(4, 6, 12, dtype=backend.dtype)[:, ::2, ::2]
    state = torch.randn(1, 1, 8, dtype=backend.dtype).expand(1, 3, 8)
    masks = module.draw(4, 3)

    def run(x, state):
        leaf = x.detach().requires_grad_()
        y, last = module(leaf, (state, state) if mode == "LSTM" else state, masks=masks)
        grads = torch.autograd.grad(y.sum() + last[0].sum(), [leaf, *module.parameters()])
        return y, last[0], *grads

    def assert_same(actual, expected):
        if dropping or backend.name == "native":
            assert all(map(torch.equal, actual, expected))
        else:  # torch's own operator, whose products may add in another order
            torch.testing.assert_close(actual, expected)

    expected = run(x.contiguous(), state.contiguous())
    assert not x.is_contiguous()
    assert_same(run(x, state), expected)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = parameter.data.t().contiguous().t()
    assert not module.weight_hh_l0.is_contiguous()
    assert_same(run(x, state), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 0, 6), (1, 0, 6)], ids=str)
@modes
def test_an_empty_batch_is_torchs(mode, shape, training):
    ours = make(mode, 6, 8, 2, **DROPS, bidirectional=True).train(training)
    theirs = make_torchs(mode, 6, 8, 2, bidirectional=True).train(training)
    for hx in (None, hx_of(mode, 4, 0, 8)):
        (y, last), (expected, expected_last) = ours(torch.zeros(shape), hx), theirs(torch.zeros(shape), hx)
        assert y.shape == expected.shape
        assert [state.shape for state in last] == [state.shape for state in expected_last]


@modes
def test_truncated_training_carries_the_state_on(mode):
    module = make(mode, 6, 8, 2, dropout=0.5, recurrent_dropout=0.5)
    hx = None
    for _ in range(3):
        y, hx = module(torch.randn(4, 3, 6), hx)
        y.sum().backward()
        hx = tuple(state.detach() for state in hx) if mode == "LSTM" else hx.detach()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("layout", ["batched", "unsorted"])
@modes
def test_runs_are_bit_identical_whatever_the_number_of_threads(backend, mode, layout):
    drops = recurrent.drops("both", 2)
    module = make(mode, 33, 65, 2, bidirectional=True, **drops).to(backend.dtype)
    lengths = recurrent.lengths_of(layout, 9, 21)
    x = torch.randn(9, 21, 33, dtype=backend.dtype)
    grads = recurrent.cast(recurrent.upstream(module, 9, 21), backend.dtype)
    masks = module.draw(9, 21)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            found.append(recurrent.results(module, x, None, grads, layout, lengths, masks=masks))
    finally:
        torch.set_num_threads(before)
    first, *others = found
    if backend.name == "reference":  # plain PyTorch promises this from run to run only
        others = others[-1:]
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False])
@modes
def test_a_trace_in_evaluation_is_torchs_operator(mode, grad):
    """As older exporters make it; what is traced runs on other sizes."""
    module = make(mode, 5, 7, 2, bidirectional=True, **DROPS).eval()
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(module, (torch.randn(4, 3, 5),))
    x = torch.randn(6, 2, 5)
    torch.testing.assert_close(traced(x), module(x))
    assert mode.lower() in str(traced.inlined_graph)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, within jvp
@modes
def test_function_transforms_of_what_drops_nothing(mode):
    """torch has no forward mode of an LSTM on the CPU."""
    module, theirs = make(mode, 5, 7, 2, **DROPS).eval(), make_torchs(mode, 5, 7, 2)
    theirs.load_state_dict(module.state_dict())
    x, parameters = torch.randn(4, 3, 5), dict(module.named_parameters())

    def loss(parameters, x, of=module):
        return torch.func.functional_call(of, parameters, (x,))[0].pow(2).sum()

    actual = torch.func.grad(loss)(parameters, x)
    expected = torch.func.grad(lambda parameters, x: loss(parameters, x, theirs))(parameters, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient)
    if mode != "LSTM":
        _, tangent = torch.func.jvp(lambda x: module(x)[0], (x,), (x,))
        torch.testing.assert_close(tangent, torch.func.jvp(lambda x: theirs(x)[0], (x,), (x,))[1])
