"""Gradients that are differentiated in turn, as for a gradient penalty, and many at once: autograd's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import oracle
import recurrent
import strop
from strop.pattern import CASES

modes = pytest.mark.parametrize("mode", recurrent.MODES)
EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}


def penalty(outputs, leaves: list[Tensor]) -> list[Tensor]:
    """The first gradients, and those of the sum of their squares."""
    loss = sum(each.pow(2).sum() for each in outputs)
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    second = torch.autograd.grad(sum(each.pow(2).sum() for each in first), leaves)
    return [each.detach() for each in (*first, *second)]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """In float64 to 1e-10; in float32 as far as two derivatives carry its rounding."""
    exact = actual[0].dtype == torch.float64
    for ours, theirs in zip(actual, expected, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        tolerance = (1e-10 if exact else 2e-5) * scale
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", ["batched", "unsorted"])
@pytest.mark.parametrize("name", [*CASES, None], ids=str)
@modes
def test_layers(backend, mode, name, layout):
    options = {"bidirectional": True} | ({"proj_size": 3} if mode == "LSTM" and name == "fixed" else {})
    drops = {} if name is None else EVERYWHERE | {"pattern": name}
    module = recurrent.make(mode, 6, 5, 2, **options, **drops).to(backend.dtype)
    lengths = recurrent.lengths_of(layout, 4, 3)
    masks, x = module.draw(4, 3), torch.randn(4, 3, 6)
    states = tuple(torch.randn_like(state) for state in recurrent.zeros(module, 3))

    def compute(of, dtype):
        leaf, hx = x.to(dtype).requires_grad_(), [state.to(dtype).requires_grad_() for state in states]
        how = {"masks": masks} if name or isinstance(of, recurrent.Oracle) else {}
        if isinstance(of, recurrent.Oracle):
            y, last = of(leaf, hx if mode == "LSTM" else hx[0], **how)
            last = last if mode == "LSTM" else (last,)
        else:
            y, last = recurrent.call(of, leaf, hx, layout, lengths, **how)
        return penalty((y, *last), [leaf, *hx, *of.parameters()])

    expected = compute(recurrent.Oracle(module, lengths).double(), torch.float64)
    assert_close(compute(module, backend.dtype), expected)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("training", [True, False])
@modes
def test_layers_that_drop_nothing_are_torchs(mode, training):
    """Whichever way was found to be fastest: what can be differentiated is no matter of chance."""
    for sizes in ((3, 4), (6, 16, 2)):
        ours, theirs = recurrent.make(mode, *sizes), recurrent.make_torchs(mode, *sizes)
        theirs.load_state_dict(ours.state_dict())
        x, found = torch.randn(7, 3, sizes[0]), []
        for module in (ours.train(training), theirs.train(training)):
            leaf = x.clone().requires_grad_()
            found.append(penalty([module(leaf)[0]], [leaf, *module.parameters()]))
        assert_close(*found)


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("name", [*CASES, None], ids=str)
@pytest.mark.parametrize("mode", recurrent.CELLS)
def test_cells(backend, mode, name, unbatched):
    kind, _, own = recurrent.CELLS[mode]
    drops = {} if name is None else {"input_dropout": 0.4, "recurrent_dropout": 0.6, "pattern": name}
    cell = kind(6, 5, **own, **drops).to(backend.dtype)
    rows = () if unbatched else (3,)
    masks, x = cell.draw(1 if unbatched else 3), torch.randn(*rows, 6)
    states = [torch.randn(*rows, 5) for _ in range(2 if mode == "LSTM" else 1)]

    def by_cell(dtype):
        leaf, hx = x.to(dtype).requires_grad_(), [state.to(dtype).requires_grad_() for state in states]
        after = cell(leaf, tuple(hx) if mode == "LSTM" else hx[0], masks=masks)
        return penalty((after,) if isinstance(after, Tensor) else after, [leaf, *hx, *cell.parameters()])

    def by_oracle():
        plain = copy.deepcopy(cell).double()
        leaf, hx = x.double().requires_grad_(), [state.double().requires_grad_() for state in states]
        batched = [state[None] if unbatched else state for state in hx]
        weights = [plain.weight_ih, plain.weight_hh, plain.bias_ih, plain.bias_hh]
        steps = leaf[None, None] if unbatched else leaf[None]
        _, *after = oracle.layer(mode, steps, batched, weights, masks.input[0], masks.recurrent[0])
        return penalty(after, [leaf, *hx, *plain.parameters()])

    assert_close(by_cell(backend.dtype), by_oracle())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["structured", "random"])
def test_linear_layers(backend, name, fused):
    fc = strop.Linear(6, 5, dropout=0.5, pattern=name).to(backend.dtype)
    mask, x, target = fc.draw(4, 3), torch.randn(4, 3, 6), torch.randint(5, (4, 3))
    target[0, 0] = -100

    def compute(module, dtype, plain):
        leaf = x.to(dtype).requires_grad_()
        logits = oracle.linear(leaf, module.weight, module.bias, mask) if plain else module(leaf, mask)
        loss = [logits]
        if fused:
            own = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
            loss = [own if plain else module.cross_entropy(leaf, target, mask)]
        return penalty(loss, [leaf, *module.parameters()])

    expected = compute(copy.deepcopy(fc).double(), torch.float64, plain=True)
    assert_close(compute(fc, backend.dtype, plain=False), expected)


@modes
def test_weights_that_are_tied_and_states_that_are_one_tensor(backend, mode):
    """Each place has a gradient of its own, and the tensor their sum, once."""
    module = recurrent.make(mode, 5, 5, recurrent_dropout=0.5).to(backend.dtype)
    module.bias_hh_l0 = module.bias_ih_l0
    x, masks = torch.randn(4, 3, 5, dtype=backend.dtype, requires_grad=True), module.draw(4, 3)
    state = torch.randn(1, 3, 5, dtype=backend.dtype, requires_grad=True)
    y, _ = module(x, (state, state) if mode == "LSTM" else state, masks=masks)
    leaves = [x, state, *module.parameters()]
    once = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    twice = torch.autograd.grad(y.sum(), leaves, create_graph=True)
    assert_close([each.detach() for each in twice], [*once])


@pytest.mark.parametrize("dropping", [True, False])
@modes
def test_many_gradients_at_once(backend, mode, dropping):
    module = recurrent.make(mode, 6, 5, 2, **EVERYWHERE if dropping else {}).to(backend.dtype)
    masks = module.draw(4, 3) if dropping else None
    x = torch.randn(4, 3, 6, dtype=backend.dtype, requires_grad=True)
    y, _ = module(x, masks=masks)
    leaves, upstream = [x, *module.parameters()], torch.randn(2, *y.shape, dtype=backend.dtype)
    many = torch.autograd.grad(y, leaves, upstream, is_grads_batched=True, retain_graph=True)
    for number in range(2):
        one = torch.autograd.grad(y, leaves, upstream[number], retain_graph=True)
        assert_close([each[number] for each in many], [*one])


@modes
def test_operands_that_are_not_contiguous(backend, mode):
    """What is copied on its way to a kernel is still what is differentiated."""
    module = recurrent.make(mode, 6, 5, recurrent_dropout=0.5).to(backend.dtype)
    wide, masks = torch.randn(3, 4, 12, dtype=backend.dtype, requires_grad=True), module.draw(4, 3)
    found = [
        penalty([module(x, masks=masks)[0]], [wide, *module.parameters()])
        for x in (wide.transpose(0, 1)[..., ::2], wide.transpose(0, 1)[..., ::2].contiguous())
    ]
    assert any(each.abs().sum() > 0 for each in found[0])
    assert_close(*found)
