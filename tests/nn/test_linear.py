"""strop.Linear: torch's contract and the mask on its input."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import oracle
import strop
from strop.functional import routes
from strop.pattern import CASES


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(backend, name, bias):
    fc = strop.Linear(17, 33, bias, dropout=0.5, pattern=name)
    x, upstream = torch.randn(4, 21, 17), torch.randn(4, 21, 33)
    mask = fc.draw(4, 21)

    def compute(dtype, independent=True):
        module, leaf = copy.deepcopy(fc).to(dtype), x.to(dtype).requires_grad_()
        y = oracle.linear(leaf, module.weight, module.bias, mask) if independent else module(leaf, mask)
        sources = {"x": leaf} | dict(module.named_parameters())
        grads = torch.autograd.grad(y, list(sources.values()), upstream.to(dtype))
        return {"y": y.detach()} | dict(zip(sources, grads, strict=True))

    oracle.check(backend, compute(backend.dtype, False), compute)


def test_parameters_are_torchs_bit_for_bit():
    torch.manual_seed(4)
    ours = strop.Linear(5, 7, dropout=0.5)
    torch.manual_seed(4)
    theirs = nn.Linear(5, 7)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, nn.Linear)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 2, 3, 5), (0, 5), (2, 0, 5)], ids=str)
def test_equals_torch_when_nothing_is_dropped(shape):
    fc, x = strop.Linear(5, 7, dropout=0.5).eval(), torch.randn(shape)
    expected = nn.functional.linear(x, fc.weight, fc.bias)
    torch.testing.assert_close(fc(x), expected)
    torch.testing.assert_close(strop.Linear(5, 7)(x).shape, expected.shape)


def test_training_draws_and_evaluation_uses_given_masks():
    fc, x = strop.Linear(16, 7, dropout=0.5), torch.randn(4, 3, 16)
    torch.manual_seed(3)
    mask = fc.draw(4, 3)
    torch.manual_seed(3)
    y = fc(x)
    assert torch.equal(y, fc(x, mask))
    assert not torch.equal(y, fc(x))
    state = torch.get_rng_state()
    assert torch.equal(fc.eval()(x, mask), y)
    assert not torch.equal(fc(x), y)
    assert torch.equal(torch.get_rng_state(), state)
    assert strop.Linear(16, 7).draw(4, 3) is None


@pytest.mark.parametrize("name", CASES)
def test_batch_first_is_the_same_transposed(backend, name):
    plain = strop.Linear(16, 7, dropout=0.5, pattern=name).to(backend.dtype)
    fc = strop.Linear(16, 7, dropout=0.5, pattern=name, batch_first=True).to(backend.dtype)
    fc.load_state_dict(plain.state_dict())
    x, target, mask = torch.randn(4, 3, 16, dtype=backend.dtype), torch.randint(7, (4, 3)), plain.draw(4, 3)
    y = fc(x.transpose(0, 1), mask)
    assert y.is_contiguous()
    assert torch.equal(y, plain(x, mask).transpose(0, 1))
    for reduction in ("mean", "none"):
        expected = plain.cross_entropy(x, target, mask, reduction=reduction)
        actual = fc.cross_entropy(x.transpose(0, 1), target.t(), mask, reduction=reduction)
        assert torch.equal(actual, expected if reduction == "mean" else expected.t())
    assert fc(x[0], fc.draw(1, 3)).shape == (3, 7)
    assert fc(x[:, :0].transpose(0, 1)).shape == (0, 4, 7)
    assert torch.equal(fc.eval()(x), plain.eval()(x))
    torch.testing.assert_close(
        fc.cross_entropy(x.transpose(0, 1), target.t()), plain.cross_entropy(x, target)
    )


def test_two_dimensions_are_one_step():
    fc, x = strop.Linear(16, 7, dropout=0.5), torch.randn(3, 16)
    mask = fc.draw(1, 3)
    y = fc(x, mask)
    assert y.shape == (3, 7)
    assert torch.equal(y, fc(x.unsqueeze(0), mask)[0])


def test_blocks():
    mask = strop.Linear(8, 7, dropout=0.5, block=4).draw(3, 2)
    assert mask.index.tolist()[0] in ([0, 1, 2, 3], [4, 5, 6, 7])
    strop.Linear(7, 3, block=4)  # nothing is dropped


def test_an_empty_input_stays_empty():
    fc = strop.Linear(5, 7, dropout=0.5)
    assert fc(torch.zeros(2, 0, 5)).shape == (2, 0, 7)


def test_copies_pickles_and_parameters_from_outside():
    fc, x = strop.Linear(16, 7, dropout=0.5, pattern="fixed", block=2), torch.randn(4, 3, 16)
    mask = fc.draw(4, 3)
    for clone in (copy.deepcopy(fc), pickle.loads(pickle.dumps(fc))):
        assert repr(clone) == repr(fc)
        assert torch.equal(clone(x, mask), fc(x, mask))
    doubled = {name: 2 * value.detach() for name, value in fc.named_parameters()}
    actual = torch.func.functional_call(fc, doubled, (x, mask))
    fc.load_state_dict(doubled)
    assert torch.equal(actual, fc(x, mask))


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_frozen_parameters_get_no_gradient(backend, trained):
    fc = strop.Linear(16, 7, dropout=0.5).to(backend.dtype)
    x, mask = torch.randn(4, 3, 16, dtype=backend.dtype), fc.draw(4, 3)
    expected = torch.autograd.grad(fc(x, mask).pow(2).sum(), getattr(fc, trained))[0]
    for name, parameter in fc.named_parameters():
        parameter.requires_grad_(name == trained)
    fc(x, mask).pow(2).sum().backward()
    assert [name for name, parameter in fc.named_parameters() if parameter.grad is not None] == [trained]
    assert torch.equal(getattr(fc, trained).grad, expected)


def test_repr_says_what_is_dropped():
    expected = "Linear(in_features=4, out_features=2, bias=True, dropout=0.5, pattern=structured, block=2)"
    assert repr(strop.Linear(4, 2, dropout=0.5, block=2)) == expected
    assert repr(strop.Linear(4, 2)) == repr(nn.Linear(4, 2))
    batch_first = strop.Linear(4, 2, dropout=0.5, batch_first=True)
    assert "pattern=structured, batch_first=True)" in repr(batch_first)
    with pytest.raises(ValueError, match=r"input must be \[batch, time, 4\] or \[batch, 4\]"):
        batch_first(torch.zeros(4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 1}, ValueError, r"dropout must be in \[0, 1\), got 1"),
        ({"dropout": float("nan")}, ValueError, r"dropout must be in \[0, 1\), got nan"),
        ({"dropout": 0.5, "block": 3}, ValueError, "block must divide in_features .* block=3, in_features=4"),
        ({"pattern": "none"}, ValueError, "pattern must be one of"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        strop.Linear(4, 2, **arguments)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2, 4)], ids=str)
def test_inputs_of_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=r"input must be \[time, batch, 4\] or \[batch, 4\]"):
        strop.Linear(4, 2, dropout=0.5)(torch.zeros(shape))


def test_inputs_and_masks_of_other_sizes_are_refused():
    fc = strop.Linear(4, 2, dropout=0.5)
    with pytest.raises(ValueError, match=r"input must have 4 units \(in_features\), got \[3, 2, 5\]"):
        fc(torch.zeros(3, 2, 5))
    with pytest.raises(ValueError, match=r"mask must be drawn for \[steps, units\] = \[3, 4\]"):
        fc(torch.zeros(3, 2, 4), fc.draw(2, 2))


@pytest.mark.parametrize("name", ["structured", "fixed"])
def test_the_rules_ways_are_the_same(name, monkeypatch):
    """torch's product on a masked input in place of the kernels; what is dropped counts in neither."""
    layer = strop.Linear(8, 5, dropout=0.5, pattern=name)
    x = torch.randn(6, 3, 8)
    mask = layer.draw(6, 3)
    x[~mask.kept().expand(x.shape)] = torch.nan
    x, grad, found = x.requires_grad_(), torch.randn(6, 3, 5), []
    for way in ("operator", "kernels"):
        monkeypatch.setattr(routes, "linear", lambda _, way=way: way)
        y = layer(x, mask)
        found.append((y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), grad)[:2]))
    torch.testing.assert_close(*(each[:2] for each in found))
    assert not any(each.isnan().any() for each in found[1])
