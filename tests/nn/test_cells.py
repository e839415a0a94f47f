"""LSTMCell, GRUCell and RNNCell: one step against the oracle, and a loop over steps against the modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import oracle
import recurrent
import strop
from pairwise import pairwise
from strop.ops import dispatch
from strop.pattern import CASES

CELLS = recurrent.CELLS
OPTIONS = {
    "size": [(1, 1, 1), (3, 7, 17), (20, 16, 8), (33, 66, 16)],  # B, I, H
    "bias": (True, False),
    "unbatched": (False, True),
    "hx": (True, False),
}
DROPPING = {
    "pattern": tuple(CASES),
    "exact": (True, False),
    "block": (1, 2),
    "drops": tuple(recurrent.DROPS),
}


def allowed(row):
    # One row of sums of 82 products is too little to tell the error of float32 from chance.
    if row["unbatched"] and row["size"] == (33, 66, 16):
        return False
    return all(units % row.get("block", 1) == 0 for units in row["size"][1:])


def rows(options):
    found = []
    for mode in CELLS:
        for row in pairwise(allowed, options):
            words = [name if value is True else str(value) for name, value in row.items() if value]
            found.append(pytest.param(mode, row, id="-".join((mode, *words))))
    return found


def make(mode, *sizes, **options):
    kind, _, own = CELLS[mode]
    return kind(*sizes, **own, **options)


def make_torchs(mode, *sizes, **options):
    _, kind, own = CELLS[mode]
    return kind(*sizes, **own, **options)


def states_of(mode, *shape):
    return tuple(torch.randn(shape) for _ in range(2 if mode == "LSTM" else 1))


def as_hx(mode, states):
    return None if states is None else states if mode == "LSTM" else states[0]


def results(mode, cell, x, states, grads, **arguments):
    """The states and the gradients of x, the states before and all parameters, by name."""
    x = x.clone().requires_grad_()
    sources = {"x": x}
    if states is not None:
        states = [state.clone().requires_grad_() for state in states]
        sources |= dict(zip(("h0", "c0"), states, strict=False))
    sources |= dict(cell.named_parameters())
    after = cell(x, as_hx(mode, states), **arguments)
    after = (after,) if isinstance(after, Tensor) else after
    found = torch.autograd.grad(after, list(sources.values()), grads, allow_unused=True)
    # Without a state before the step torch's own cells multiply zeros; ours may leave that out.
    found = [torch.zeros_like(s) if g is None else g for s, g in zip(sources.values(), found, strict=True)]
    values = dict(zip(("h", "c"), after, strict=False))
    values |= {f"d{name}": grad for name, grad in zip(sources, found, strict=True)}
    return {name: value.detach() for name, value in values.items()}


class Oracle(nn.Module):
    """One step of the oracle on a copy of a cell's parameters."""

    def __init__(self, mode, cell) -> None:
        super().__init__()
        self.mode, self.hidden = mode, cell.hidden_size
        for name, parameter in cell.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def forward(self, x, hx, masks):
        states = hx if self.mode == "LSTM" or hx is None else (hx,)
        if states is None:
            states = [x.new_zeros(*x.shape[:-1], self.hidden)] * (2 if self.mode == "LSTM" else 1)
        unbatched = x.dim() == 1
        x, states = (x[None], [s[None] for s in states]) if unbatched else (x, states)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, name, None) for name in names]
        _, *after = oracle.layer(self.mode, x[None], states, weights, masks.input[0], masks.recurrent[0])
        return tuple(s[0] for s in after) if unbatched else after


def operands(mode, row):
    batch, features, hidden = row["size"]
    shape = () if row["unbatched"] else (batch,)
    states = states_of(mode, *shape, hidden) if row["hx"] else None
    return torch.randn(*shape, features), states, states_of(mode, *shape, hidden)


def to(operands, dtype):
    x, states, grads = operands
    return x.to(dtype), recurrent.cast(states, dtype), recurrent.cast(grads, dtype)


@pytest.mark.parametrize(("mode", "row"), rows(OPTIONS | DROPPING))
def test_equals_the_oracle(backend, mode, row):
    pattern = strop.Pattern.named(row["pattern"], 0.0, row["block"], row["exact"])
    drops = recurrent.drops(row["drops"], 1)
    cell = make(mode, *row["size"][1:], row["bias"], pattern=pattern, **drops)
    given = operands(mode, row)
    masks = cell.draw(1 if row["unbatched"] else row["size"][0])

    def by_cell(dtype):
        return results(mode, copy.deepcopy(cell).to(dtype), *to(given, dtype), masks=masks)

    def by_oracle(dtype):
        return results(mode, Oracle(mode, cell).to(dtype), *to(given, dtype), masks=masks)

    def on_the_reference(dtype):
        with dispatch.use("reference"):
            return by_cell(dtype)

    oracle.check(backend, by_cell(backend.dtype), by_oracle, on_the_reference)


@pytest.mark.parametrize(("mode", "row"), rows(OPTIONS | {"training": (True, False)}))
def test_is_torchs_bit_for_bit_when_nothing_is_dropped(mode, row):
    drops = {} if row["training"] else recurrent.drops("both", 1)
    ours = make(mode, *row["size"][1:], row["bias"], **drops).train(row["training"])
    theirs = make_torchs(mode, *row["size"][1:], row["bias"])
    theirs.load_state_dict(ours.state_dict())
    given = operands(mode, row)
    actual, expected = results(mode, ours, *given), results(mode, theirs, *given)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("hx", [True, False], ids=["hx", "no hx"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", CELLS)
def test_a_loop_over_a_cell_equals_the_module_with_the_same_masks(backend, mode, name, hx):
    """``fixed`` and ``variational`` masks are drawn once and given to every step; the others at each."""
    steps, batch, features, hidden = 4, 3, 6, 8
    drops = recurrent.drops("both", 1)
    cell = make(mode, features, hidden, pattern=name, **drops)
    module = recurrent.make(mode, features, hidden, pattern=name, **drops)
    module.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    once = name in ("fixed", "variational")
    torch.manual_seed(5)
    drawn = [cell.draw(batch)] * steps if once else [cell.draw(batch) for _ in range(steps)]
    x, states = torch.randn(steps, batch, features), states_of(mode, batch, hidden) if hx else None
    grads = [torch.randn(steps, batch, hidden), *states_of(mode, batch, hidden)]

    def loop(dtype):
        own, leaf = copy.deepcopy(cell).to(dtype), x.to(dtype).requires_grad_()
        state, ys = as_hx(mode, recurrent.cast(states, dtype)), []
        for step, masks in zip(leaf, drawn, strict=True):
            state = own(step, state, masks=masks)
            ys.append(state[0] if mode == "LSTM" else state)
        last = state if mode == "LSTM" else (state,)
        sources = {"x": leaf} | {f"{key}_l0": value for key, value in own.named_parameters()}
        found = torch.autograd.grad((torch.stack(ys), *last), sources.values(), recurrent.cast(grads, dtype))
        values = {"y": torch.stack(ys)} | dict(zip(("h", "c"), last, strict=False))
        return values | {f"d{key}": grad for key, grad in zip(sources, found, strict=True)}

    pairs = [(masks.input[0], masks.recurrent[0]) for masks in drawn]
    joined = strop.Masks(*((join(masks),) for masks in zip(*pairs, strict=True)))
    first = None if states is None else [state.unsqueeze(0) for state in states]
    upstream = [grads[0], *(grad.unsqueeze(0) for grad in grads[1:])]

    def whole(of):
        def compute(dtype):
            own, start, back = of.to(dtype), recurrent.cast(first, dtype), recurrent.cast(upstream, dtype)
            with dispatch.use("reference"):
                found = recurrent.results(own, x.to(dtype), start, back, masks=joined)
            found = {key: value[0] if key in ("h", "c") else value for key, value in found.items()}
            return {key: value for key, value in found.items() if key not in ("dh0", "dc0")}

        return compute

    actual = {key: value.detach() for key, value in loop(backend.dtype).items()}
    oracle.check(backend, actual, whole(module), whole(recurrent.Oracle(module, None)))


def join(masks):
    """One mask of a sequence from those of its steps."""
    first = masks[0]
    if first.keep is not None:
        return strop.Mask(
            len(masks), first.batch, first.units, first.scale, None, None, torch.cat([m.keep for m in masks])
        )
    index = torch.cat([mask.index for mask in masks])
    return strop.Mask(len(masks), first.batch, first.units, first.scale, index, None, None)


@pytest.mark.parametrize("mode", CELLS)
def test_each_call_draws_its_own_masks_in_training_and_none_in_evaluation(mode):
    cell, x = make(mode, 6, 16, input_dropout=0.5, recurrent_dropout=0.5), torch.randn(3, 6)
    hx = as_hx(mode, states_of(mode, 3, 16))
    first = lambda result: result[0] if mode == "LSTM" else result  # noqa: E731
    torch.manual_seed(3)
    masks = cell.draw(3)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    y = first(cell(x, hx))
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(y, first(cell(x, hx, masks=masks)))
    assert not torch.equal(y, first(cell(x, hx)))
    plain, state = first(cell.eval()(x, hx)), torch.get_rng_state()
    assert torch.equal(first(cell(x, hx)), plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(cell(x, hx, masks=masks)), y)


@pytest.mark.parametrize("mode", CELLS)
def test_the_contract_is_torchs(mode):
    torch.manual_seed(4)
    ours = make(mode, 5, 7, recurrent_dropout=0.5)
    torch.manual_seed(4)
    theirs = make_torchs(mode, 5, 7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert str(theirs.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    assert isinstance(ours, (CELLS[mode][1], nn.RNNCellBase))
    for options in ({}, {"bias": False}):
        assert repr(make(mode, 5, 7, **options)) == repr(make_torchs(mode, 5, 7, **options))
    assert make(mode, 5, 7, bias=False).bias_ih is None
    cell = make(
        mode, 5, 8, dtype=torch.float64, device="cpu", recurrent_dropout=0.5, block=2, pattern="fixed"
    )
    x, masks = torch.randn(3, 5, dtype=torch.float64), cell.draw(3)
    for clone in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert repr(clone) == repr(cell)
        for actual, expected in zip(clone(x, masks=masks), cell(x, masks=masks), strict=True):
            assert torch.equal(actual, expected)


def test_repr_says_what_is_dropped():
    cell = strop.RNNCell(
        6, 8, bias=False, nonlinearity="relu", input_dropout=0.5, recurrent_dropout=0.25, block=2
    )
    drops = "input_dropout=0.5, recurrent_dropout=0.25, pattern=structured, block=2"
    assert repr(cell) == f"RNNCell(6, 8, bias=False, nonlinearity=relu, {drops})"


def test_the_arguments_are_in_torchs_order():
    for mode, nonlinearity in (("LSTM", ()), ("GRU", ()), ("RNN_TANH", ("relu",))):
        given = (5, 7, False, *nonlinearity, "meta", torch.float64)
        ours, theirs = CELLS[mode][0](*given), CELLS[mode][1](*given)
        assert repr(ours) == repr(theirs)
        assert ours.weight_hh.is_meta
        assert ours.weight_hh.dtype == theirs.weight_hh.dtype == torch.float64


@pytest.mark.parametrize("mode", CELLS)
def test_an_empty_batch_is_torchs(mode):
    ours, theirs = make(mode, 5, 7, recurrent_dropout=0.5), make_torchs(mode, 5, 7)
    actual, expected = ours(torch.zeros(0, 5)), theirs(torch.zeros(0, 5))
    assert actual[0].shape == expected[0].shape if mode == "LSTM" else actual.shape == expected.shape


@pytest.mark.parametrize("mode", CELLS)
def test_frozen_parameters_get_no_gradient(backend, mode):
    cell = make(mode, 5, 8, recurrent_dropout=0.5).to(backend.dtype)
    x, hx = torch.randn(3, 5, dtype=backend.dtype), recurrent.cast(states_of(mode, 3, 8), backend.dtype)
    masks = cell.draw(3)
    y = cell(x, as_hx(mode, hx), masks=masks)
    expected = torch.autograd.grad((y[0] if mode == "LSTM" else y).sum(), cell.bias_ih)
    for name, parameter in cell.named_parameters():
        parameter.requires_grad_(name == "bias_ih")
    y = cell(x, as_hx(mode, hx), masks=masks)
    (y[0] if mode == "LSTM" else y).sum().backward()
    assert [name for name, parameter in cell.named_parameters() if parameter.grad is not None] == ["bias_ih"]
    assert torch.equal(cell.bias_ih.grad, expected[0])


X, H = torch.zeros(3, 4), torch.zeros(3, 5)
MISTAKES = {
    "3-D": (torch.zeros(2, 3, 4), None),
    "0-D": (torch.zeros(()), None),
    "width": (torch.zeros(3, 5), None),
    "unbatched width": (torch.zeros(5), None),
    "float64": (X.double(), None),
    "integer": (X.long(), None),
    "meta": (X.to("meta"), None),
    "hx width": (X, torch.zeros(3, 6)),
    "hx batch": (X, torch.zeros(2, 5)),
    "hx 3-D": (X, torch.zeros(1, 3, 5)),
    "hx 4-D": (X, torch.zeros(3, 1, 1, 5)),
    "hx 1-D": (X, torch.zeros(5)),
    "unbatched hx width": (X[0], torch.zeros(6)),
    "hx float64": (X, H.double()),
    "hx meta": (X, H.to("meta")),
    "empty hx width": (X[:0], torch.zeros(0, 6)),
}
LSTMS_MISTAKES = {
    "c width": (X, (H, torch.zeros(3, 6))),
    "c batch": (X, (H, torch.zeros(2, 5))),
    "three": (X, [H] * 3),
    "one": (X, (H,)),
    "none": (X, ()),
    "tensor": (X, H),
    "stacked": (X, torch.stack((H, H))),
    "None": (X, (H, None)),
}


def error_of(cell, *arguments):
    with pytest.raises((ValueError, RuntimeError, TypeError, AttributeError)) as error:
        cell(*arguments)
    return error.type, str(error.value)


@pytest.mark.parametrize(
    "drops", [{"input_dropout": 0.5, "recurrent_dropout": 0.5}, {}], ids=["dropping", "not"]
)
@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, name) for mode in CELLS for name in MISTAKES] + [("LSTM", n) for n in LSTMS_MISTAKES],
)
def test_mistakes_are_torchs_errors(mode, name, drops):
    x, hx = (MISTAKES | LSTMS_MISTAKES)[name]
    if name in MISTAKES and hx is not None and mode == "LSTM":
        hx = (hx, hx)
    theirs = error_of(make_torchs(mode, 4, 5), x, hx)
    assert error_of(make(mode, 4, 5, **drops), x, hx) == theirs


USES = {
    "dropping": ({"input_dropout": 0.5, "recurrent_dropout": 0.5}, True),
    "training": ({}, True),
    "evaluation": ({"recurrent_dropout": 0.5}, False),
}
uses = pytest.mark.parametrize("use", USES)


def used(mode, use, converted):
    options, training = USES[use]
    cell = make_torchs(mode, 4, 5) if converted else make(mode, 4, 5, **options)
    if converted:
        strop.convert(cell, **{name: p for name, p in options.items() if name == "recurrent_dropout"})
    return cell.train(training)


@uses
@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5, 5), (3, 5)], ids=str)
@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("mode", CELLS)
def test_states_with_a_batch_for_an_input_without_are_refused(mode, shape, use, converted):
    """torch takes them or crashes, by the number of hidden units."""
    state, got = torch.zeros(shape), f"{list(shape)} torch.float32 on cpu"
    message = (
        "input and hx must be [batch, 4] and [batch, 5], or [4] and [5], torch.float32 on cpu, "
        f"got [4] torch.float32 on cpu and {f'{got} and {got}' if mode == 'LSTM' else got}"
    )
    assert error_of(used(mode, use, converted), X[0], as_hx(mode, (state, state))) == (ValueError, message)


@uses
@pytest.mark.parametrize(
    "hx",
    [
        (torch.zeros(5), torch.zeros(3, 5)),
        (torch.zeros(3, 5), torch.zeros(5)),
        (torch.zeros(5), torch.zeros(1, 5).double()),
        torch.zeros(2, 5),
        torch.zeros(2, 3, 5),
    ],
    ids=["c batched", "h batched", "c of float64", "stacked", "stacked batches"],
)
def test_an_lstms_states_of_two_ranks_are_refused(hx, use):
    with pytest.raises(ValueError, match=r"got \[4\] torch.float32 on cpu and \["):
        used("LSTM", use, False)(X[0], hx)


@uses
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_a_c_of_another_dtype_is_refused(dtype, use):
    """torch takes it, and gives results of that dtype."""
    with pytest.raises(ValueError, match=rf"and \[3, 5\] {dtype} on cpu$"):
        used("LSTM", use, False)(X, (H, H.to(dtype)))


@uses
@pytest.mark.parametrize("hx", ["h", 3, [1.0], {}, {"h": H}, object()], ids=str)
@pytest.mark.parametrize("mode", CELLS)
def test_states_that_are_no_tensors_are_refused(mode, hx, use):
    for x in (X, X[0]):
        with pytest.raises((TypeError, AttributeError, RuntimeError)):
            used(mode, use, False)(x, hx)


@uses
@pytest.mark.parametrize("x", [None, 1.0, [[0.0] * 4], (X, X)], ids=str)
@pytest.mark.parametrize("mode", CELLS)
def test_inputs_that_are_no_tensors_are_refused(mode, x, use):
    with pytest.raises((TypeError, AttributeError)):
        used(mode, use, False)(x)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"recurrent_dropout must be in \[0, 1\), got 1"):
        strop.GRUCell(4, 5, recurrent_dropout=1)
    with pytest.raises(ValueError, match=r"block must divide hidden_size .* block=2, hidden_size=5"):
        strop.LSTMCell(4, 5, recurrent_dropout=0.5, block=2)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'selu'"):
        strop.RNNCell(4, 5, nonlinearity="selu")  # torch waits for the first step to say so
    cell = strop.LSTMCell(4, 5, recurrent_dropout=0.5)
    with pytest.raises(TypeError, match=r"masks must be what draw\(\) returns, got Mask"):
        cell(X, masks=cell.draw(3).recurrent[0])
    with pytest.raises(
        ValueError, match=r"masks.recurrent\[0\] must be drawn for \[steps, units\] = \[1, 5\]"
    ):
        cell(X, masks=strop.LSTMCell(4, 6, recurrent_dropout=0.5).draw(3))
