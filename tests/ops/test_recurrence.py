"""The recurrence against a masked dense LSTM in plain autograd, on every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import oracle
from strop.ops import cells, recurrence
from strop.ops.products import Keep
from strop.pattern import CASES, Mask, Pattern

# T, B, I, H
SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 7, 1),
    (2, 20, 1, 7),
    (5, 3, 16, 16),
    (4, 21, 17, 17),
    (3, 33, 7, 65),
    (1, 20, 65, 7),
    (6, 2, 65, 16),
]
DIRECTIONS = {"NR": (True, False), "RH": (False, True), "NR+RH": (True, True)}


def hand_made(kind: str, steps: int, batch: int, units: int) -> Mask:
    """Masks that drawing never or rarely makes: nothing kept, everything kept."""
    width = {"none": 0, "all": units}[kind]
    index = torch.arange(width, dtype=torch.int32).repeat(steps, 1)
    return Mask(steps, batch, units, 1.5, index, None, None)


def masks_for(
    spec: str, directions: str, shape: tuple[int, int, int, int]
) -> tuple[Mask | None, Mask | None]:
    """Masks of the input and of the hidden state."""
    steps, batch, features, hidden = shape
    generator = torch.Generator().manual_seed(11)

    def one(units: int) -> Mask | None:
        if spec in ("none", "all"):
            return hand_made(spec, steps, batch, units)
        name, kind = spec.split()
        return Pattern.named(name, 0.5, exact=kind == "exact").draw(steps, units, batch, generator=generator)

    on_input, on_hidden = DIRECTIONS[directions]
    return one(features) if on_input else None, one(hidden) if on_hidden else None


def operands(shape: tuple[int, int, int, int], bias: bool = True) -> dict[str, Tensor | None]:
    """Random operands and upstream gradients, all nonzero at once."""
    steps, batch, features, hidden = shape
    generator = torch.Generator().manual_seed(5)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    return {
        "x": normal(steps, batch, features),
        "h0": normal(batch, hidden),
        "c0": normal(batch, hidden),
        "w_ih": normal(4 * hidden, features) / features**0.5,
        "w_hh": normal(4 * hidden, hidden) / hidden**0.5,
        "b_ih": normal(4 * hidden) if bias else None,
        "b_hh": normal(4 * hidden) if bias else None,
        "dy": normal(steps, batch, hidden),
        "dh": normal(batch, hidden),
        "dc": normal(batch, hidden),
    }


def to(values: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.to(dtype) for name, value in values.items()}


def by_autograd(values, dtype, input_mask, recurrent_mask) -> dict[str, Tensor]:
    """Outputs, final states and all gradients of the oracle."""
    v = to(values, dtype)
    names = [name for name in ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh") if v[name] is not None]
    for name in names:
        v[name].requires_grad_()
    layer = (v["w_ih"], v["w_hh"], v["b_ih"], v["b_hh"])
    hx = (v["h0"].unsqueeze(0), v["c0"].unsqueeze(0))
    y, h, c = oracle.lstm(v["x"], hx, [layer], [input_mask], [recurrent_mask])
    loss = [(y, v["dy"]), (h[0], v["dh"]), (c[0], v["dc"])]
    used = [(output, grad) for output, grad in loss if grad is not None]
    grads = torch.autograd.grad([o for o, _ in used], [v[n] for n in names], [g for _, g in used])
    results = {"y": y, "h": h[0], "c": c[0]} | {f"d{n}": g for n, g in zip(names, grads, strict=True)}
    return {name: value.detach() for name, value in results.items()}


def by_ops(ops, dtype, values, input_mask, recurrent_mask) -> dict[str, Tensor]:
    """The same by a backend's three functions, called as autograd does."""
    v = to(values, dtype)
    x, x_mask = v["x"], None
    if input_mask is not None and input_mask.keep is not None:
        x_mask = input_mask.dense(dtype)
        x = x * x_mask

    def keep(mask: Mask | None) -> Keep | None:
        return None if mask is None or mask.index is None else Keep(mask.index, mask.count, mask.scale)

    multiplier = None
    if recurrent_mask is not None and recurrent_mask.keep is not None:
        multiplier = recurrent_mask.multiplier(dtype)
    masks = (keep(input_mask), keep(recurrent_mask), multiplier)
    weights = (v["w_ih"], v["w_hh"])
    y, c, saved = ops.lstm_forward(x, v["h0"], v["c0"], *weights, v["b_ih"], v["b_hh"], *masks)
    dgates, dx, dh0, dc0 = ops.lstm_backward(
        v["dy"], v["dh"], v["dc"], x, y, v["h0"], v["c0"], *weights, saved, *masks, True
    )
    dw_ih, dw_hh, db = ops.lstm_weight_grad(x, y, v["h0"], dgates, *masks)
    results = {"y": y, "h": y[-1], "c": c, "dx": dx if x_mask is None else dx * x_mask}
    results |= {"dh0": dh0, "dc0": dc0, "dw_ih": dw_ih, "dw_hh": dw_hh}
    return results | ({} if v["b_ih"] is None else {"db_ih": db, "db_hh": db})


def check(backend, values, input_mask, recurrent_mask) -> None:
    oracle.check(
        backend,
        by_ops(backend.recurrence, backend.dtype, values, input_mask, recurrent_mask),
        lambda dtype: by_autograd(values, dtype, input_mask, recurrent_mask),
        lambda dtype: by_ops(recurrence, dtype, values, input_mask, recurrent_mask),
    )


SPECS = [f"{name} {kind}" for name in CASES for kind in ("exact", "bernoulli")] + ["none", "all"]


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_masked_dense_lstm(backend, shape, spec, directions):
    masks = masks_for(spec, directions, shape)
    values = operands(shape)
    check(backend, values, *masks)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_dense_lstm_when_nothing_is_dropped(backend, shape):
    values = operands(shape)
    check(backend, values, None, None)


@pytest.mark.usefixtures("poison")
def test_without_bias(backend):
    shape = (4, 3, 7, 17)
    masks = masks_for("structured exact", "NR+RH", shape)
    values = operands(shape, bias=False)
    check(backend, values, *masks)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("given", [("dy",), ("dh",), ("dc",), ("dy", "dh"), ("dh", "dc")], ids=str)
def test_missing_upstream_gradients_are_zero(backend, given):
    shape = (4, 3, 7, 17)
    masks = masks_for("structured bernoulli", "NR+RH", shape)
    values = operands(shape) | {name: None for name in ("dy", "dh", "dc") if name not in given}
    check(backend, values, *masks)


def test_dx_is_skipped_when_it_is_not_needed(backend):
    shape = (2, 3, 5, 6)
    v = to(operands(shape), backend.dtype)
    head = (v["x"], v["h0"], v["c0"], v["w_ih"], v["w_hh"])
    y, _, saved = backend.recurrence.lstm_forward(*head, v["b_ih"], v["b_hh"], None, None, None)
    _, dx, *_ = backend.recurrence.lstm_backward(
        v["dy"], None, None, v["x"], y, *head[1:], saved, None, None, None, False
    )
    assert dx is None


def test_a_sequence_in_two_pieces_is_the_sequence(backend):
    """Truncated training feeds h and c on; masks at t drop h[t-1], so the piece's own masks start at h0."""
    shape = (7, 3, 5, 9)
    input_mask, recurrent_mask = masks_for("structured exact", "NR+RH", shape)
    assert input_mask is not None
    assert recurrent_mask is not None
    assert input_mask.index is not None
    assert recurrent_mask.index is not None
    v = to(operands(shape), backend.dtype)
    tail = (v["w_ih"], v["w_hh"], v["b_ih"], v["b_hh"])

    def run(x, h, c, steps):
        assert input_mask.index is not None
        assert recurrent_mask.index is not None
        keeps = [Keep(m.index[steps].contiguous(), None, m.scale) for m in (input_mask, recurrent_mask)]
        return backend.recurrence.lstm_forward(x[steps].contiguous(), h, c, *tail, *keeps, None)

    whole, c_whole, _ = run(v["x"], v["h0"], v["c0"], slice(0, 7))
    first, c, _ = run(v["x"], v["h0"], v["c0"], slice(0, 3))
    second, c, _ = run(v["x"], first[-1].contiguous(), c, slice(3, 7))
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(c, c_whole)


def test_cell_backward_is_the_derivative_of_the_cell():
    gates = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    c_before = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    dh, dc = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    active, h, c = cells.lstm(gates, c_before)
    expected = torch.autograd.grad((h, c), (gates, c_before), (dh, dc))
    actual = cells.lstm_backward(dh, dc, active.detach(), c.detach(), c_before.detach())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_both_kinds_of_recurrent_masks_at_once_are_refused():
    shape = (2, 3, 5, 6)
    v = to(operands(shape), torch.float64)
    keep = Keep(torch.zeros(2, 1, dtype=torch.int32), None, 1.0)
    head = (v["x"], v["h0"], v["c0"], v["w_ih"], v["w_hh"], None, None, None)
    with pytest.raises(ValueError, match="only one of recurrent_keep and recurrent_mask"):
        recurrence.lstm_forward(*head, keep, torch.ones(1, 3, 6, dtype=torch.float64))
