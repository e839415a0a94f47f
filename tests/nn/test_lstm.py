"""strop.LSTM: torch's contract, the masks, the stack against the oracle."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import oracle
import strop
from strop.ops import dispatch
from strop.pattern import CASES

DROPOUTS = {
    "NR": {"dropout": 0.5, "input_dropout": 0.4},
    "RH": {"recurrent_dropout": 0.5},
    "NR+RH": {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6},
}
# T, B, I, H, layers, arguments
STACKS = [
    (1, 1, 1, 1, 2, {}),
    (5, 3, 7, 17, 3, {}),
    (4, 20, 16, 7, 2, {"bias": False}),
    (3, 33, 65, 16, 2, {"batch_first": True}),
]


def by_module(lstm, x: Tensor, hx, upstream, **arguments) -> dict[str, Tensor]:
    """Outputs and gradients of x, hx and all parameters, for given upstream gradients of y, h and c."""
    x = x.clone().requires_grad_()
    hx = None if hx is None else tuple(state.clone().requires_grad_() for state in hx)
    y, (h, c) = lstm(x, hx, **arguments)
    sources = {"x": x} | ({} if hx is None else {"h0": hx[0], "c0": hx[1]}) | dict(lstm.named_parameters())
    grads = torch.autograd.grad((y, h, c), list(sources.values()), upstream)
    results = {"y": y, "h": h, "c": c}
    results |= {f"d{name}": grad for name, grad in zip(sources, grads, strict=True)}
    return {name: value.detach() for name, value in results.items()}


class Oracle(nn.Module):
    """The oracle on a module's parameters."""

    def __init__(self, lstm: strop.LSTM) -> None:
        super().__init__()
        for name, parameter in lstm.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))
        self.layers, self.bias, self.batch_first = lstm.num_layers, lstm.bias, lstm.batch_first
        self.hidden = lstm.hidden_size

    def forward(self, x, hx, masks):
        x = x.transpose(0, 1) if self.batch_first else x
        if hx is None:
            hx = (x.new_zeros(self.layers, x.shape[1], self.hidden),) * 2
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers = [[getattr(self, f"{n}_l{k}", None) for n in names] for k in range(self.layers)]
        y, h, c = oracle.lstm(x, hx, layers, masks.input, masks.recurrent)
        return (y.transpose(0, 1) if self.batch_first else y), (h, c)


def given(stack, dtype=torch.float32, hx=True):
    steps, batch, features, hidden, layers, arguments = stack
    x = (
        torch.randn(batch, steps, features)
        if arguments.get("batch_first")
        else torch.randn(steps, batch, features)
    )
    states = (torch.randn(layers, batch, hidden), torch.randn(layers, batch, hidden))
    y = torch.randn(*x.shape[:2], hidden)
    upstream = (y, torch.randn(layers, batch, hidden), torch.randn(layers, batch, hidden))
    return x, states if hx else None, upstream


def cast(values, dtype):
    return None if values is None else tuple(value.to(dtype) for value in values)


@pytest.mark.parametrize("hx", [True, False], ids=["hx", "no hx"])
@pytest.mark.parametrize("direction", DROPOUTS)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bernoulli"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_a_stack_equals_the_oracle(backend, stack, name, exact, direction, hx):
    steps, batch, features, hidden, layers, arguments = stack
    pattern = strop.Pattern.named(name, 0.0, exact=exact)
    lstm = strop.LSTM(features, hidden, layers, **arguments, **DROPOUTS[direction], pattern=pattern)
    x, states, upstream = given(stack, hx=hx)
    masks = lstm.draw(steps, batch)

    def compute(dtype, kind=Oracle):
        module = kind(lstm).to(dtype)
        return by_module(module, x.to(dtype), cast(states, dtype), cast(upstream, dtype), masks=masks)

    def on_the_reference(dtype):
        with dispatch.use("reference"):
            return compute(dtype, copy.deepcopy)

    oracle.check(backend, compute(backend.dtype, copy.deepcopy), compute, on_the_reference)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_equals_torch_when_nothing_is_dropped(stack, train):
    *_, features, hidden, layers, arguments = stack
    dropout = {} if train else DROPOUTS["NR+RH"]
    lstm = strop.LSTM(features, hidden, layers, **arguments, **dropout).train(train)
    theirs = nn.LSTM(features, hidden, layers, **arguments).train(train)
    theirs.load_state_dict(lstm.state_dict())
    x, hx, upstream = given(stack)
    actual = by_module(lstm, x, hx, upstream)
    float32 = by_module(theirs, x, hx, upstream)
    double = (x.double(), cast(hx, torch.float64), cast(upstream, torch.float64))
    oracle.assert_as_accurate(actual, [float32], by_module(theirs.double(), *double))
    oracle.assert_exact(by_module(lstm.double(), *double), by_module(theirs, *double))


@pytest.mark.parametrize(
    "arguments", [{}, {"bias": False}, {"num_layers": 3}, {"dtype": torch.float64}], ids=str
)
def test_parameters_are_torchs_bit_for_bit(arguments):
    torch.manual_seed(4)
    ours = strop.LSTM(5, 7, **arguments)
    torch.manual_seed(4)
    theirs = nn.LSTM(5, 7, **arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    for source, target in ((theirs, strop.LSTM(5, 7, **arguments)), (ours, nn.LSTM(5, 7, **arguments))):
        assert str(target.load_state_dict(source.state_dict())) == "<All keys matched successfully>"
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)
    assert isinstance(ours, nn.RNNBase)
    assert not isinstance(ours, nn.LSTM)


@pytest.mark.parametrize("name", CASES)
def test_training_draws_all_masks_before_the_sequence(name):
    lstm = strop.LSTM(6, 8, 2, **DROPOUTS["NR+RH"], pattern=name)
    x = torch.randn(4, 3, 6)
    torch.manual_seed(8)
    masks = lstm.draw(4, 3)
    after = torch.get_rng_state()
    torch.manual_seed(8)
    y, _ = lstm(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(y, lstm(x, masks=masks)[0])
    assert not torch.equal(y, lstm(x)[0])


def test_evaluation_draws_nothing_but_uses_given_masks():
    lstm = strop.LSTM(6, 8, 2, **DROPOUTS["NR+RH"]).eval()
    x, state = torch.randn(4, 3, 6), torch.get_rng_state()
    plain, again = lstm(x)[0], lstm(x)[0]
    assert torch.equal(plain, again)
    assert torch.equal(torch.get_rng_state(), state)
    masks = lstm.draw(4, 3)
    dropped = lstm(x, masks=masks)[0]
    assert not torch.equal(dropped, plain)
    assert torch.equal(dropped, lstm.train()(x, masks=masks)[0])


def test_draw_gives_a_mask_for_each_place_that_drops():
    lstm = strop.LSTM(6, 8, 3, dropout=0.5, recurrent_dropout=0.25)
    masks = lstm.draw(4, 2)
    assert [mask is None for mask in masks.input] == [True, False, False]
    assert [mask.units for mask in masks.recurrent] == [8, 8, 8]
    assert masks.input[1].index.shape == (4, 4)
    assert masks.recurrent[0].index.shape == (4, 6)
    assert not torch.equal(masks.recurrent[0].index, masks.recurrent[1].index)
    generator = torch.Generator().manual_seed(3)
    state = torch.get_rng_state()
    first = lstm.draw(4, 2, generator=generator)
    second = lstm.draw(4, 2, generator=generator.manual_seed(3))
    assert torch.equal(first.input[2].dense(), second.input[2].dense())
    assert torch.equal(torch.get_rng_state(), state)
    wide = strop.LSTM(6, 8, input_dropout=0.5).draw(4, 2)
    assert wide.input[0].units == 6
    assert wide.recurrent == (None,)


def test_dropout_can_be_changed_after_construction():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5)
    lstm.dropout = 0.0
    lstm.recurrent_dropout = 0.75
    masks = lstm.draw(4, 2)
    assert masks.input == (None, None)
    assert masks.recurrent[0].index.shape == (4, 2)


def test_blocks_and_patterns():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, pattern="structured", block=4)
    assert lstm.draw(3, 2).input[1].index.tolist()[0] in ([0, 1, 2, 3], [4, 5, 6, 7])
    pattern = strop.Pattern(0.9, block=4, exact=False)
    drawn = strop.LSTM(6, 8, 2, dropout=0.5, pattern=pattern).draw(3, 2).input[1]
    assert drawn.count is not None
    assert drawn.scale == 2.0
    with pytest.raises(ValueError, match="block must be given in the pattern or beside its name, got 2"):
        strop.LSTM(6, 8, 2, dropout=0.5, pattern=pattern, block=2)


def test_the_returned_h_and_c_are_never_dropped():
    """With recurrent dropout alone, the first step from zeros is the dense one."""
    lstm = strop.LSTM(6, 8, recurrent_dropout=0.9)
    x = torch.randn(1, 3, 6)
    y, (h, c) = lstm(x)
    y_dense, (h_dense, c_dense) = lstm.eval()(x)
    torch.testing.assert_close((y, h, c), (y_dense, h_dense, c_dense))
    assert torch.equal(y[-1], h[0])


def test_h0_is_dropped_on_its_way_into_the_product():
    lstm = strop.LSTM(2, 8, recurrent_dropout=0.5)
    h0 = torch.randn(1, 3, 8, requires_grad=True)
    masks = lstm.draw(1, 3)
    y, _ = lstm(torch.randn(1, 3, 2), (h0, torch.zeros(1, 3, 8)), masks=masks)
    y.sum().backward()
    dropped = masks.recurrent[0].dense()[0, 0] == 0
    assert (h0.grad[..., dropped] == 0).all()
    assert (h0.grad[..., ~dropped] != 0).all()


def test_truncated_training_carries_the_state_on():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.5)
    hx = None
    for _ in range(3):
        y, hx = lstm(torch.randn(4, 3, 6), hx)
        y.sum().backward()
        hx = tuple(state.detach() for state in hx)
    assert all(parameter.grad.isfinite().all() for parameter in lstm.parameters())


def test_runs_are_bit_identical_whatever_the_number_of_threads(backend):
    lstm = strop.LSTM(33, 65, 2, **DROPOUTS["NR+RH"]).to(backend.dtype)
    stack = (9, 21, 33, 65, 2, {})
    x, hx, upstream = given(stack)
    values = (x.to(backend.dtype), cast(hx, backend.dtype), cast(upstream, backend.dtype))
    masks = lstm.draw(9, 21)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(by_module(lstm, *values, masks=masks))
    finally:
        torch.set_num_threads(before)
    first, *others = results
    if backend.name == "reference":  # plain PyTorch promises this from run to run only
        others = others[-1:]
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first)


def test_copies_and_pickles():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.25, pattern="fixed", block=2)
    x, masks = torch.randn(4, 3, 6), lstm.draw(4, 3)
    expected = lstm(x, masks=masks)[0]
    for clone in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(clone(x, masks=masks)[0], expected)
        assert repr(clone) == repr(lstm)


def test_parameters_given_from_outside_are_used():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5)
    x, masks = torch.randn(4, 3, 6), lstm.draw(4, 3)
    doubled = {name: 2 * value.detach() for name, value in lstm.named_parameters()}
    actual, _ = torch.func.functional_call(lstm, doubled, (x,), {"masks": masks})
    lstm.load_state_dict(doubled)
    assert torch.equal(actual, lstm(x, masks=masks)[0])


def test_repr_says_what_is_dropped():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.25, block=2)
    expected = "LSTM(6, 8, num_layers=2, dropout=0.5, recurrent_dropout=0.25, pattern=structured, block=2)"
    assert repr(lstm) == expected
    assert repr(strop.LSTM(6, 8)) == "LSTM(6, 8)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.5, dtype=dtype)
    y, (h, c) = lstm(torch.randn(4, 3, 6, dtype=dtype))
    assert y.dtype == h.dtype == c.dtype == dtype
    y.sum().backward()


def test_autocast_trains():
    lstm = strop.LSTM(6, 8, 2, dropout=0.5, recurrent_dropout=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = lstm(torch.randn(4, 3, 6).bfloat16())
        y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in lstm.parameters())


def test_an_empty_batch_is_torchs():
    ours, theirs = strop.LSTM(6, 8, 2, dropout=0.5), nn.LSTM(6, 8, 2)
    for actual, expected in zip(ours(torch.zeros(4, 0, 6))[1], theirs(torch.zeros(4, 0, 6))[1], strict=True):
        assert actual.shape == expected.shape == (2, 0, 8)
