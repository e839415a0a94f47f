"""Infinities and NaN: a native recurrence has them where PyTorch has them, in every cell."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import strop
from native_calls import CELLS, Call, actual, expected, run, well_formed
from strop.ops import dispatch, native

pytestmark = pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")

MODULES = ("LSTM", "GRU", "RNN")
# Where exp over- and underflows in float32, and beside it.
SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1.0, -1.0, 3e38, -3e38, 1e-42, -1e-42]
SPECIAL += [
    sign * value for sign in (1, -1) for value in (0.625, 9.1, 86.9, 87.5, 88.3, 88.7, 88.73, 89.5, 104.0)
]


def assert_same(ours: Tensor, torchs: Tensor, what: str) -> None:
    """Equal NaN and infinities; numbers within rounding."""
    for name, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        found, wanted = (set(test(each).flatten().nonzero().flatten().tolist()) for each in (ours, torchs))
        assert found == wanted, f"{what}: {name} at {sorted(found ^ wanted)[:5]}"
    torch.testing.assert_close(ours, torchs, equal_nan=True, rtol=1e-5, atol=1e-6)


def pair(kind: str, units: int, **settings: object) -> tuple[torch.nn.RNNBase, torch.nn.RNNBase]:
    """torch's layer and strop's, with the same weights."""
    theirs = getattr(torch.nn, kind)(3, units, **settings)
    ours = getattr(strop, kind)(3, units, **settings)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"), [("LSTM", {}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
)
def test_native_special_gates(kind, settings, training):
    """Each gate at each special value, beside states that are special too."""
    # Where the result is denormal, torch's own disagree: oneDNN's LSTM makes zeros, its operators numbers.
    values = [value for value in SPECIAL if kind != "LSTM" or not -88.8 < value < -87.3]
    for gate in range(4 if kind == "LSTM" else 3 if kind == "GRU" else 1):
        # A unit for each value of the gate and of the state before.
        pairs = torch.tensor(list(itertools.product(values, [1.5, math.inf, -math.inf, math.nan])))
        theirs, ours = pair(kind, len(pairs), **settings)
        with torch.no_grad():
            for layer in (theirs, ours):
                for parameter in layer.parameters():
                    parameter.zero_()
                layer.bias_ih_l0.view(-1, len(pairs))[gate] = pairs[:, 0]
        x = torch.zeros(1, 1, 3)
        zeros, state = torch.zeros(1, 1, len(pairs)), pairs[:, 1].view(1, 1, -1)
        # Weights of 0 make NaN of an infinite h, so h is finite here, and c is special.
        hx = (zeros, state) if kind == "LSTM" else zeros + 1.5
        with torch.no_grad() if not training else torch.enable_grad(), dispatch.use("native"):
            y, last = ours.train(training)(x, hx)
        wanted, torchs = theirs(x, hx)
        assert_same(y.detach(), wanted.detach(), f"gate {gate}")
        if kind == "LSTM":
            assert_same(last[1].detach(), torchs[1].detach(), f"gate {gate}, c")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"), [("LSTM", {}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
)
def test_native_special_states(kind, settings, training):
    """Infinite states and inputs saturate gates over several steps."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(60):
        theirs, ours = pair(kind, 1 + trial % 18, **settings)
        x = torch.randn(4, 3, 3, generator=generator)
        h, c = (torch.randn(1, 3, 1 + trial % 18, generator=generator) for _ in range(2))
        for spoilt in ((h,), (c,), (x,), (h, c))[trial % 4 if kind == "LSTM" else 2 * (trial % 2)]:
            at = torch.randint(spoilt.numel(), (1 + trial % 2,), generator=generator)
            spoilt.view(-1)[at] = SPECIAL[trial % 3]
        hx = (h, c) if kind == "LSTM" else h
        with torch.no_grad() if not training else torch.enable_grad(), dispatch.use("native"):
            y, _ = ours.train(training)(x, hx)
        assert_same(y.detach(), theirs(x, hx)[0].detach(), f"trial {trial}")


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("op", ["recurrence_forward", "recurrence_eval"])
@pytest.mark.parametrize("cell", range(4), ids=[cell.name for cell in CELLS])
def test_native_special_operands(op, cell, bf16):
    """The same for products in bfloat16, against the reference in float64."""
    if bf16 and not native.has_bf16:
        pytest.skip("this CPU has no bfloat16")
    for seed in range(12):
        call = Call(op, 3, 4, 17, 19, lists="half" if seed % 2 else "none", cell=cell, seed=seed, bf16=bf16)
        arguments = well_formed(call)
        for number, name in enumerate(("x", "h0", "c0")):
            if seed % 3 == number and arguments[name] is not None:
                arguments[name].view(-1)[seed] = math.inf if seed % 4 < 2 else -math.inf
        run(op, arguments)
        wanted = expected(op, arguments)
        for name, value in actual(op, arguments).items():
            if name in wanted:
                assert torch.equal(value.isnan(), wanted[name].isnan()), f"{name}, seed {seed}"
                assert torch.equal(value.isinf(), wanted[name].isinf()), f"{name}, seed {seed}"
