"""The path on a GPU never waits for it, seen on a device without memory: Triton's kernels do not run.

Tensors there have shapes but no values, so whatever asks for one (``.item()``, ``nonzero``, a bool index)
fails, and so does here what copies from or to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import strop
from strop.ops import choice, dispatch
from strop.ops.triton import columns, gathered, launch, recurrence, ways
from strop.tasks.language.model import LanguageModel
from strop.training.gradients import clipped_step, gradient_norm


class NoCopies(TorchDispatchMode):
    """Refuses to move values between devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
        devices = {x.device.type for x in inputs if x.dim()} | {x.device.type for x in outputs}
        assert not inputs or len(devices) < 2, f"{func} copies between devices"
        return out


@pytest.fixture
def pretended(monkeypatch) -> Iterator[list[str]]:
    """A GPU that does nothing; the kernels that were launched on it, by name."""
    launched: list[str] = []

    def run(kernel, grid, *arguments, **settings):
        assert all(x.is_meta for x in arguments if isinstance(x, Tensor))
        launched.append(kernel.fn.__name__)

    for module in (recurrence, columns, gathered):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(launch, "interpreting", False)
    monkeypatch.setattr(launch, "processors", lambda device: 132)
    monkeypatch.setattr(launch, "shared_memory", lambda device: 227 * 1024)
    monkeypatch.setattr(dispatch, "_why_not_triton", lambda x: None)
    monkeypatch.setattr(choice, "time_of", lambda once, device: choice.Times(*[float(once() is None)] * 2))
    monkeypatch.setattr(choice, "_fixed", 0)
    with dispatch.use("triton"):
        yield launched


@pytest.mark.parametrize("way", [None, *ways.WAYS])
@pytest.mark.parametrize("dropout", ["nr-random", "nr-st", "nr-rh-st"])
def test_a_step_of_training_a_language_model(pretended, monkeypatch, dropout, way):
    monkeypatch.setattr(ways, "forced", way)
    with torch.device("meta"):
        model = LanguageModel(words=50, units=40, layers=2, p=0.5, dropout=dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x, y = torch.zeros(2, 5, 20, dtype=torch.int64, device="meta")
    state = model.first_state(20)
    parameters = list(model.parameters())
    for number in range(3):
        with NoCopies() if number else nullcontext():  # what is fastest is measured in the first step
            loss, state = model(x, state, y)
            (loss * 5).backward()
            clipped_step(optimizer, parameters, gradient_norm(parameters), 5.0)
            state = (state[0].detach(), state[1].detach())
    assert loss.is_meta
    # nr-st: measured against cuDNN.
    assert ("backward" in pretended) == (dropout != "nr-random")


@pytest.mark.parametrize("pattern", ["structured", "fixed", "random", "variational"])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bernoulli"])
@pytest.mark.parametrize("kind", [strop.LSTM, strop.GRU, strop.RNN])
def test_layers(pretended, kind, exact, pattern):
    pattern = strop.Pattern.named(pattern, 0.5, exact=exact)
    drops = {"input_dropout": 0.5, "recurrent_dropout": 0.5, "pattern": pattern}
    layer = kind(6, 40, bidirectional=True, device="meta", **drops)
    with NoCopies():
        y, _ = layer(torch.zeros(5, 20, 6, device="meta"))
        y.sum().backward()
    assert "backward" in pretended


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: nn.functional.dropout(x).nonzero(),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: bool(x.any()),
    ],
    ids=["item", "cpu", "bool index", "nonzero", "upload", "truth"],
)
def test_what_waits_is_noticed(pretended, wait):
    x = torch.zeros(3, device="meta")
    with NoCopies(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        wait(x)
