"""strop.Dropout: a mask as a layer of its own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import strop
from strop.pattern import CASES


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_mask(name, exact, inplace):
    layer = strop.Dropout(0.5, inplace, pattern=strop.Pattern.named(name, 0.0, 2, exact))
    mask = layer.draw(4, 3, 16)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(4, 3, 16, dtype=dtype, requires_grad=True)
        given = x.clone()
        y = layer(given, mask)
        assert torch.equal(y, x * mask.dense(dtype))
        assert (y.data_ptr() == given.data_ptr()) == inplace
        upstream = torch.randn_like(y)
        assert torch.equal(torch.autograd.grad(y, x, upstream)[0], upstream * mask.dense(dtype))


def test_training_draws_and_evaluation_uses_given_masks():
    layer, x = strop.Dropout(0.5), torch.randn(4, 3, 16)
    torch.manual_seed(3)
    mask = layer.draw(4, 3, 16)
    torch.manual_seed(3)
    y = layer(x)
    assert torch.equal(y, layer(x, mask))
    assert not torch.equal(y, layer(x))
    layer.eval()
    state = torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(layer(x, mask), y)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generator_is_used():
    layer, state = strop.Dropout(0.5), torch.get_rng_state()
    masks = [layer.draw(4, 3, 16, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*(mask.index for mask in masks))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_dimensions_are_one_step():
    layer, x = strop.Dropout(0.5), torch.randn(3, 16)
    mask = layer.draw(1, 3, 16)
    assert torch.equal(layer(x, mask), layer(x.unsqueeze(0), mask)[0])
    assert layer(x).shape == (3, 16)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_batch_first_is_the_same_transposed(name, inplace):
    layer = strop.Dropout(0.5, inplace, pattern=name, batch_first=True)
    x, mask = torch.randn(4, 3, 16), layer.draw(4, 3, 16)
    expected = x * mask.dense()
    given = x.transpose(0, 1)
    y = layer(given, mask)
    assert torch.equal(y, expected.transpose(0, 1))
    assert (y.data_ptr() == given.data_ptr()) == inplace
    assert layer(x[0]).shape == (3, 16)
    assert "batch_first=True" in repr(layer)
    with pytest.raises(ValueError, match=r"input must be \[batch, time, units\] or \[batch, units\]"):
        layer(torch.zeros(4))


def test_nothing_to_drop():
    x = torch.randn(4, 3, 16)
    assert strop.Dropout(0.0)(x) is x
    assert strop.Dropout(0.0).draw(4, 3, 16) is None
    empty = torch.zeros(4, 0, 16)
    assert strop.Dropout(0.5)(empty) is empty
    any_rank = torch.randn(2, 2, 3, 4)
    assert strop.Dropout(0.5).eval()(any_rank) is any_rank


def test_a_plain_layer_on_what_it_drops_is_the_linear_layer_that_drops():
    torch.manual_seed(1)
    x, fc = torch.randn(4, 3, 16, dtype=torch.float64), strop.Linear(16, 5, dropout=0.5, dtype=torch.float64)
    mask = fc.draw(4, 3)
    torch.testing.assert_close(fc(x, mask), fc.eval()(strop.Dropout(0.5)(x, mask)))


def test_repr_copies_and_pickles():
    assert repr(strop.Dropout()) == "Dropout(p=0.5, inplace=False, pattern=structured)"
    layer = strop.Dropout(0.25, True, pattern="fixed", block=4)
    assert repr(layer) == "Dropout(p=0.25, inplace=True, pattern=fixed, block=4)"
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(clone) == repr(layer)
    assert not layer.state_dict()
    assert repr(nn.Dropout(0.25, True)) in repr(layer).replace(", pattern=fixed, block=4", "")


def test_p_can_be_changed_after_construction():
    layer = strop.Dropout(0.5)
    layer.p = 0.75
    assert layer.draw(4, 3, 16).index.shape == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": 1.0}, ValueError, r"p must be in \[0, 1\), got 1.0"),
        ({"p": "0.5"}, TypeError, "p must be a number"),
        ({"pattern": "none"}, ValueError, "pattern must be one of"),
        ({"block": 0}, ValueError, "block must be at least 1, got 0"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        strop.Dropout(**arguments)


def test_inputs_and_masks_that_do_not_fit_are_refused():
    layer = strop.Dropout(0.5)
    for training in (True, False):
        with pytest.raises(TypeError, match="input must be a Tensor, got list"):
            layer.train(training)([1.0])
    layer.train()
    with pytest.raises(TypeError, match=r"floating dtype when something is dropped, got torch\.int64"):
        layer(torch.ones(4, 3, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"input must be \[time, batch, units\] or \[batch, units\]"):
        layer(torch.zeros(4))
    with pytest.raises(ValueError, match="block must divide units .* block=3, units=16"):  # noqa: RUF043
        strop.Dropout(0.5, block=3)(torch.zeros(4, 3, 16))
    with pytest.raises(ValueError, match=r"mask must be drawn for \[steps, units\] = \[4, 16\]"):
        layer(torch.zeros(4, 3, 16), layer.draw(3, 3, 16))
    with pytest.raises(TypeError, match=r"mask must be a strop\.Mask or None, got Tensor"):
        layer(torch.zeros(4, 3, 16), torch.ones(4, 3, 16))
