"""The path on a GPU never waits for it, seen on a device without memory: Triton's kernels do not run.

Tensors there have shapes but no values, so whatever asks for one (``.item()``, ``nonzero``, a bool index)
fails, and so does here what copies from or to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import strop
from strop.bench.presets import LAYER_PRESETS
from strop.bench.stack import build
from strop.ops import choice, dispatch
from strop.ops.cells import GRU, LSTM
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.ops.triton import columns, gathered, launch, recurrence, selection, ways
from strop.ops.triton.steps import ANY_SIZE
from strop.tasks.language.model import LanguageModel
from strop.training.gradients import clipped_step, gradient_norm
from triton_oracle import make_keep


class NoCopies(TorchDispatchMode):
    """Refuses to move values between devices.

    A number that the host knows may take part in arithmetic, and fill a tensor; but assigned to one element
    of a tensor it becomes a tensor on the host, which is copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_numbers: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        if name in ("scalar_tensor", "lift_fresh"):
            self.of_numbers += outputs
        copies = name in ("copy_", "_to_copy", "index_put_", "index_put")
        number = any(x is known for x in inputs for known in self.of_numbers)
        assert not (copies and number), f"{func} copies a number from the host"
        devices = {x.device.type for x in inputs if x.dim() or copies} | {x.device.type for x in outputs}
        assert not inputs or len(devices) < 2, f"{func} copies between devices"
        return out


@pytest.fixture
def pretended(monkeypatch) -> Iterator[list[str]]:
    """A GPU that does nothing; the kernels that were launched on it, by name."""
    launched: list[str] = []

    def run(kernel, grid, *arguments, **settings):
        assert all(x.is_meta for x in arguments if isinstance(x, Tensor))
        launched.append(kernel.fn.__name__)

    for module in (recurrence, columns, gathered, selection):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(launch, "interpreting", False)
    monkeypatch.setattr(launch, "programs_wait", True)
    monkeypatch.setattr(launch, "processors", lambda device: 132)
    monkeypatch.setattr(launch, "shared_memory", lambda device: 227 * 1024)
    monkeypatch.setattr(dispatch, "_why_not_triton", lambda x: None)
    monkeypatch.setattr(choice, "time_of", lambda once, device: choice.Times(*[float(once() is None)] * 2))
    monkeypatch.setattr(choice, "autotune", True)
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
    layer = kind(6, 40, 2, bidirectional=True, device="meta", **drops)
    x = torch.zeros(5, 20, 6, device="meta")
    states = torch.zeros(4, 20, 40, device="meta")
    for hx in (None, (states, states) if kind is strop.LSTM else states):
        pretended.clear()
        with NoCopies():
            y, _ = layer(x, hx)
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
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.to(torch.float16).add_(torch.tensor(1.0).to("meta")),
        lambda x: x.copy_(torch.tensor(1.0)),
    ],
    ids=["item", "cpu", "bool index", "nonzero", "upload", "truth", "element", "number", "upload of one"],
)
def test_what_waits_is_noticed(pretended, wait):
    x = torch.zeros(3, device="meta")
    with NoCopies(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        wait(x)


def test_a_kind_of_work_is_all_that_its_kernels_are_compiled_for(pretended, monkeypatch):
    """What is captured was compiled when it was measured: where keys are equal, so are all ways' variants."""
    variants: dict[tuple, dict[str, set]] = {}
    seen: set = set()

    def run(kernel, grid, *arguments, cooperative=False, **settings):
        sizes = [a for a in arguments if isinstance(a, int)]
        names = [n for n in kernel.arg_names if n not in settings]
        given = dict(zip(names, arguments, strict=True))
        small = {n: (a == 1, a % 16) for n, a in given.items() if isinstance(a, int) and n not in ANY_SIZE}
        assert sizes
        seen.add((kernel.fn.__name__, *sorted(settings.items()), *sorted(small.items())))

    def every(key, what, ways, device, unmeasured):
        for way, once in ways.items():
            seen.clear()
            once()
            expected = variants.setdefault(key, {}).setdefault(way, set(seen))
            assert seen == expected, f"{way} of {key}"
        return unmeasured

    monkeypatch.setattr(recurrence, "run", run)
    monkeypatch.setattr(choice, "fastest", every)

    def zeros(*shape):
        return torch.zeros(shape, device="meta")

    calls = 0
    for cell, reverse, batch, hidden in product((LSTM, GRU), (False, True), (3, 20), (33, 64)):
        x, h0 = zeros(5, batch, 6), zeros(batch, hidden)
        c0 = h0 if cell is LSTM else None
        weights = (zeros(cell.gates * hidden, 6), zeros(cell.gates * hidden, hidden))
        for biased, dropped, given in product((False, True), ("none", "half", "one row"), (1, 2, 4, 7)):
            bias = zeros(cell.gates * hidden) if biased else None
            keep = make_keep(dropped, 5, hidden, torch.Generator()) if dropped == "half" else None
            keep = keep and Keep(keep.index.to("meta"), None, keep.scale)
            mask = zeros(1, batch, hidden) if dropped == "one row" else None
            layer = Layer(cell, reverse)
            operands = (x, h0, c0, *weights, bias, bias, None, keep, mask)
            y, h, c, saved = recurrence.forward(layer, *operands)
            grads = [grad if given >> i & 1 else None for i, grad in enumerate((y, h, c))]
            if all(grad is None for grad in grads):
                continue
            saved = (x, y, h0, c0, *weights, saved, None, keep, mask, True)
            recurrence.backward(layer, *grads, *saved)
            calls += 1
    assert len(variants) > calls / 2


class Counted(TorchDispatchMode):
    """Counts the operators that run something on a device: not those that only look at memory anew."""

    FREE = frozenset(
        (
            *("view", "_unsafe_view", "t", "transpose", "select", "slice", "expand", "detach", "alias"),
            *("unsqueeze", "squeeze", "permute", "as_strided", "split", "unbind"),
            *("empty", "empty_like", "new_empty"),
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names += [] if name in self.FREE else [name]
        return func(*args, **(kwargs or {}))


def test_a_pass_takes_few_kernels(pretended):
    """Two layers of 650 units, with the drawing of their masks: a graph's time goes with its nodes."""
    preset = LAYER_PRESETS["zaremba-medium"]
    with torch.device("meta"):
        model = build(preset, "nr-rh-st").to(torch.bfloat16)
    x, grad = torch.zeros(2, 35, 20, 650, device="meta", dtype=torch.bfloat16)
    x.requires_grad_()
    with Counted() as counted:
        torch.autograd.grad(model(x), (x, *model.parameters()), grad)
    assert len(counted.names) + len(pretended) <= 40, (sorted(counted.names), sorted(pretended))
    assert pretended.count("_smallest") == 1
