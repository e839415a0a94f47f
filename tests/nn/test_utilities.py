"""torch's own utilities for modules that train: clipping, averages, parametrizations, optimisers, copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import recurrent
import strop
from recurrent import make
from strop.pattern import CASES, Pattern

LAYERS = (strop.LSTM, strop.GRU, strop.RNN)
CELLS = (strop.LSTMCell, strop.GRUCell, strop.RNNCell)
modes = pytest.mark.parametrize("mode", recurrent.MODES)
DROPS = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}


def step(module, x, masks) -> list[torch.Tensor]:
    """The gradients after a backward pass."""
    module.zero_grad()
    module(x, masks=masks)[0].pow(2).sum().backward()
    return [parameter.grad for parameter in module.parameters()]


@modes
@pytest.mark.parametrize("how", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_and_clipping_are_the_same_for_all(backend, mode, optimizer, how):
    """Against the gradients' own clones: ours may lie in memory that is taken again."""
    module = make(mode, 6, 8, 2, bidirectional=True, dtype=backend.dtype, **DROPS)
    twin, x, masks = copy.deepcopy(module), torch.randn(4, 3, 6, dtype=backend.dtype), module.draw(4, 3)
    ours, theirs = (optimizer(each.parameters(), 0.1, **how) for each in (module, twin))
    for _ in range(3):
        gradients = step(module, x, masks)
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        norms = [clip_grad_norm_(each.parameters(), 0.5) for each in (module, twin)]
        assert torch.equal(*norms)
        assert norms[0] > 0.5
        ours.step()
        theirs.step()
    assert all(map(torch.equal, module.parameters(), twin.parameters()))


@modes
def test_averages(backend, mode):
    module = make(mode, 6, 8, 2, dtype=backend.dtype, **DROPS)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    x, masks = torch.randn(4, 3, 6, dtype=backend.dtype), module.draw(4, 3)
    optimizer, expected = torch.optim.SGD(module.parameters(), 0.1), None
    for _ in range(3):
        step(module, x, masks)
        optimizer.step()
        average.update_parameters(module)
        now = [parameter.detach().clone() for parameter in module.parameters()]
        expected = now if expected is None else [e.lerp(n, 0.1) for e, n in zip(expected, now, strict=True)]
    assert expected is not None
    for parameter, value in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    plain = recurrent.make_torchs(mode, 6, 8, 2, dtype=backend.dtype)
    plain.load_state_dict(average.module.state_dict())
    torch.testing.assert_close(average.eval()(x)[0], plain(x)[0])


@modes
def test_a_copy_in_the_middle_of_training_goes_on_alike(backend, mode):
    module = make(mode, 6, 8, 2, dtype=backend.dtype, **DROPS)
    optimizer, x = torch.optim.Adam(module.parameters()), torch.randn(4, 3, 6, dtype=backend.dtype)
    masks = [module.draw(4, 3) for _ in range(2)]
    step(module, x, masks[0])
    optimizer.step()
    twin, second = copy.deepcopy((module, optimizer))
    for each, of in ((module, optimizer), (twin, second)):
        step(each, x, masks[1])
        of.step()
    assert all(map(torch.equal, module.parameters(), twin.parameters()))
    assert all(a is not b for a, b in zip(module.parameters(), twin.parameters(), strict=True))


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


@modes
@pytest.mark.parametrize("training", [True, False])
def test_parametrized_weights(backend, mode, training):
    module = make(mode, 6, 8, 2, dtype=backend.dtype, **DROPS).train(training)
    plain, x = copy.deepcopy(module), torch.randn(4, 3, 6, dtype=backend.dtype)
    masks = module.draw(4, 3) if training else None
    with torch.no_grad():
        plain.weight_hh_l0.mul_(2)
    parametrize.register_parametrization(module, "weight_hh_l0", Double())
    weight_norm(module, "weight_ih_l1")
    expected, actual = plain(x, masks=masks)[0], module(x, masks=masks)[0]
    torch.testing.assert_close(actual, expected)
    actual.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    original = module.parametrizations.weight_hh_l0.original
    torch.testing.assert_close(original.grad, 2 * plain.weight_hh_l0.grad)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    optimizer.step()
    after = module(x, masks=masks)[0]  # sees what the step has changed
    assert not torch.allclose(after, actual)


def test_a_parametrized_linear_layer():
    fc, x = strop.Linear(6, 8, dropout=0.5), torch.randn(4, 3, 6)
    mask = fc.draw(4, 3)
    expected = fc(x, mask)
    weight_norm(fc)
    torch.testing.assert_close(fc(x, mask), expected)
    fc(x, mask).sum().backward()
    assert fc.parametrizations.weight.original0.grad.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_shapes_on_the_meta_device(name, exact, training):
    """For summaries of models and plans of memory: results and gradients have shapes, and no values."""
    pattern, drops = Pattern.named(name, 0.0, exact=exact), {"input_dropout": 0.5, "recurrent_dropout": 0.5}
    with torch.device("meta"):
        x = torch.randn(5, 3, 4)
        layers = [kind(4, 8, 2, dropout=0.5, bidirectional=True, pattern=pattern, **drops) for kind in LAYERS]
        cells = [kind(4, 8, pattern=pattern, **drops) for kind in CELLS]
        others = [strop.Linear(4, 8, dropout=0.5, pattern=pattern), strop.Dropout(0.5, pattern=pattern)]
    for module in (*layers, *cells, *others):
        y = module.train(training)(x[0] if module in cells else x)
        y = y if isinstance(y, torch.Tensor) else y[0]
        units = 16 if module in layers else 4 if module is others[1] else 8
        assert y.is_meta
        assert y.shape == (*x.shape[:-1][module in cells :], units)
        if y.requires_grad:
            y.sum().backward()
            assert all(weight.grad.shape == weight.shape for weight in module.parameters())
