"""torch.func: the gradients of torch.autograd, sample by sample under vmap, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import recurrent
import strop
from recurrent import make

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
