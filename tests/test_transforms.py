"""torch.func: the gradients of torch.autograd, sample by sample under vmap, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import recurrent
import strop
from recurrent import make
from strop.pattern import CASES

DROPS = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}


class Model(nn.Module):
    """A layer, and a projection with its cross entropy; the masks are given."""

    def __init__(self, mode: str, name: str, dtype: torch.dtype, **options: int) -> None:
        super().__init__()
        self.layer = make(mode, 6, 8, 2, bidirectional=True, pattern=name, dtype=dtype, **DROPS, **options)
        self.head = strop.Linear(2 * options.get("proj_size", 8), 5, dropout=0.5, pattern=name, dtype=dtype)
        self.masks, self.mask = self.layer.draw(4, 3), self.head.draw(4, 3)

    def forward(self, x, target):
        y, last = self.layer(x, masks=self.masks)
        loss = self.head.cross_entropy(y, target, self.mask) + self.head(y, self.mask).pow(2).sum()
        return loss + (last[1] if isinstance(last, tuple) else last).pow(2).sum()


@pytest.mark.parametrize("name", ["structured", "random"])
@pytest.mark.parametrize(
    ("mode", "options"), [*((mode, {}) for mode in recurrent.MODES), ("LSTM", {"proj_size": 3})], ids=str
)
def test_grad_and_vmap_are_autograds(backend, mode, options, name):
    model = Model(mode, name, backend.dtype, **options)
    parameters = dict(model.named_parameters())
    x, target = torch.randn(2, 4, 3, 6, dtype=backend.dtype), torch.randint(5, (2, 4, 3))

    def loss(parameters, x, target):
        return functional_call(model, parameters, (x, target))

    samples = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, target)
    for number in range(2):
        expected = torch.autograd.grad(model(x[number], target[number]), [*parameters.values()])
        for key, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(samples[key][number], gradient)
    alone = grad(loss, argnums=1)(parameters, x[0], target[0])
    (expected,) = torch.autograd.grad(model(each := x[0].clone().requires_grad_(), target[0]), [each])
    torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("kind", [strop.LSTMCell, strop.GRUCell, strop.RNNCell])
def test_cells_and_masks_drawn_within(kind):
    cell, x = kind(6, 8, input_dropout=0.5, recurrent_dropout=0.5), torch.randn(3, 6)

    def loss(parameters, x):
        state = functional_call(cell, parameters, (x,))
        return (state[0] if isinstance(state, tuple) else state).pow(2).sum()

    parameters = dict(cell.named_parameters())
    torch.manual_seed(1)
    actual = grad(loss)(parameters, x)
    torch.manual_seed(1)
    expected = torch.autograd.grad(loss(parameters, x), [*parameters.values()])
    torch.testing.assert_close([*actual.values()], [*expected])


PATTERNS = [strop.Pattern.named(name, 0.0, 2, exact) for name in CASES for exact in (True, False)]
LAYERS = [strop.LSTM, strop.GRU, strop.RNN, strop.LSTMCell, strop.GRUCell, strop.RNNCell, strop.Linear]


def drawing(kind, pattern):
    """A layer that draws in each call, and its input of two steps and three rows."""
    if kind is strop.Linear:
        return strop.Linear(64, 8, dropout=0.5, pattern=pattern), torch.randn(2, 3, 64)
    drops = {name: p for name, p in DROPS.items() if name != "dropout"}
    if issubclass(kind, nn.RNNCellBase):
        return kind(64, 8, **drops, pattern=pattern), torch.randn(3, 64)
    return kind(64, 8, 2, bidirectional=True, **drops | {"dropout": 0.5}, pattern=pattern), torch.randn(
        2, 3, 64
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p.name}-{'exact' if p.exact else 'tossed'}")
@pytest.mark.parametrize("kind", LAYERS)
def test_draws_under_vmap_are_the_same_or_different(kind, pattern):
    """As of nn.Dropout: models with one set of weights all drop the same, or each something else."""
    layer, x = drawing(kind, pattern)
    parameters = dict(layer.named_parameters())
    stacked = {name: weight.detach().expand(3, *weight.shape) for name, weight in parameters.items()}

    def loss(parameters, x):
        y = functional_call(layer, parameters, (x,))
        return (y if isinstance(y, torch.Tensor) else y[0]).pow(2).sum()

    for randomness in ("same", "different"):
        losses = vmap(loss, in_dims=(0, None), randomness=randomness)(stacked, x)
        assert (losses == losses[0]).all() == (randomness == "same")
        slopes = vmap(grad(loss, argnums=1), in_dims=(None, 0), randomness=randomness)(
            parameters, x.expand(3, *x.shape)
        )
        assert torch.allclose(slopes[0], slopes[1]) == (randomness == "same")
        kept = (slopes != 0).double().mean()
        assert 0.3 < kept < 0.9
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(loss, in_dims=(0, None))(stacked, x)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p.name}-{'exact' if p.exact else 'tossed'}")
def test_dropout_layers_under_vmap(pattern):
    layer, x = strop.Dropout(0.5, pattern=pattern), torch.ones(2, 3, 64)
    for randomness in ("same", "different"):
        y = vmap(layer, randomness=randomness)(torch.stack([x, x]))
        assert torch.equal(y[0], y[1]) == (randomness == "same")


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p.name}-{'exact' if p.exact else 'tossed'}")
def test_draws_within_a_transform_are_those_without(pattern):
    layer, x = drawing(strop.LSTM, pattern)
    torch.manual_seed(1)
    expected = torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)[0]
    torch.manual_seed(1)
    found = grad(lambda w: functional_call(layer, {"weight_hh_l0": w}, (x,))[0].sum())(
        layer.weight_hh_l0.detach()
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, within jvp
def test_what_is_refused():
    lstm, fc = strop.LSTM(6, 8, **DROPS | {"dropout": 0.0}), strop.Linear(6, 8, dropout=0.5)
    x, masks, mask = torch.randn(4, 3, 6), lstm.draw(4, 3), fc.draw(4, 3)
    for name, run in (
        ("lstm", lambda x: lstm(x, masks=masks)[0].pow(2).sum()),
        ("linear", lambda x: fc(x, mask).pow(2).sum()),
    ):
        with pytest.raises(RuntimeError, match=f"strop.functional.{name} cannot be differentiated twice"):
            grad(lambda x, run=run: grad(run)(x).sum())(x)
        with pytest.raises(RuntimeError, match="jvp"):
            jvp(run, (x,), (x,))
    with pytest.raises(RuntimeError, match="randomness"):  # as of nn.Dropout
        vmap(lstm)(torch.stack([x, x]))
