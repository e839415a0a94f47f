"""The recurrence of every cell against its formulas in plain autograd, on every backend."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import oracle
from strop.ops import recurrence
from strop.ops.cells import CELLS, LSTM
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
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
SPECS = [f"{name} {kind}" for name in CASES for kind in ("exact", "bernoulli")] + ["none", "all"]
UPSTREAM = ("dy", "dh", "dc")
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


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


@dataclass(frozen=True)
class Case:
    """A layer on random operands, and which of the upstream gradients are given."""

    shape: tuple[int, int, int, int]
    cell: str = "LSTM"
    reverse: bool = False
    packed: bool = False
    bias: bool = True
    given: tuple[str, ...] = UPSTREAM
    projection: int = 0

    @property
    def units(self) -> int:
        """Of h."""
        return self.projection or self.shape[3]

    @property
    def lengths(self) -> list[int] | None:
        """Steps of each row, longest first."""
        steps, batch, *_ = self.shape
        if not self.packed:
            return None
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(1, steps + 1, (batch,), generator=generator).sort(descending=True).values
        return [steps, *lengths.tolist()[1:]]

    @property
    def layer(self) -> Layer:
        lengths, steps = self.lengths, range(self.shape[0])
        sizes = None if lengths is None else torch.tensor([sum(n > t for n in lengths) for t in steps])
        return Layer(CELLS[self.cell], self.reverse, sizes)

    def pack(self, sequence: Tensor) -> Tensor:
        """``[T, B, K]`` as the ops take it: the rows that exist, ``[N, K]``, if packed."""
        if self.lengths is None:
            return sequence
        return torch.cat([sequence[t, : sum(n > t for n in self.lengths)] for t in range(len(sequence))])

    def operands(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random operands and upstream gradients, all nonzero at once."""
        steps, batch, features, hidden = self.shape
        generator = torch.Generator().manual_seed(5)
        gates = CELLS[self.cell].gates * hidden
        sizes = {
            "x": (steps, batch, features),
            "h0": (batch, self.units),
            "c0": (batch, hidden),
            "w_ih": (gates, features),
            "w_hh": (gates, self.units),
            "b_ih": (gates,),
            "b_hh": (gates,),
            "w_hr": (self.units, hidden),
            "dy": (steps, batch, self.units),
            "dh": (batch, self.units),
            "dc": (batch, hidden),
        }
        values = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
        values["w_ih"] /= features**0.5
        values["w_hh"] /= self.units**0.5
        values["w_hr"] /= hidden**0.5
        absent = {name for name in UPSTREAM if name not in self.given}
        absent |= set() if CELLS[self.cell].has_c else {"c0", "dc"}
        absent |= set() if self.bias else {"b_ih", "b_hh"}
        absent |= set() if self.projection else {"w_hr"}
        return {name: value.to(dtype) for name, value in values.items() if name not in absent}


def by_autograd(case: Case, dtype, input_mask, recurrent_mask, **how) -> dict[str, Tensor]:
    """Outputs, final states and all gradients of the oracle."""
    v = case.operands(dtype)
    names = [name for name in ("x", "h0", "c0", *WEIGHTS) if name in v]
    for name in names:
        v[name].requires_grad_()
    hx = [v[name] for name in ("h0", "c0") if name in v]
    weights = [v.get(name) for name in WEIGHTS]
    how |= {"reverse": case.reverse, "lengths": case.lengths}
    found = oracle.layer(case.cell, v["x"], hx, weights, input_mask, recurrent_mask, **how)
    outputs = dict(zip(("y", "h", "c"), found, strict=False))
    used = [name for name in outputs if f"d{name}" in v]
    grads = torch.autograd.grad(
        [outputs[name] for name in used], [v[name] for name in names], [v[f"d{name}"] for name in used]
    )
    results = outputs | {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}
    return {n: (case.pack(r) if n in ("y", "dx") else r).detach() for n, r in results.items()}


def keep_of(mask: Mask | None) -> Keep | None:
    return None if mask is None or mask.index is None else Keep(mask.index, mask.count, mask.scale)


def by_ops(ops, case: Case, dtype, input_mask, recurrent_mask) -> dict[str, Tensor]:
    """The same by a backend's three functions, called as autograd does."""
    v, layer = case.operands(dtype), case.layer
    x, factors = case.pack(v["x"]), None
    if input_mask is not None and input_mask.keep is not None:
        factors = case.pack(input_mask.dense(dtype).expand_as(v["x"]))
        x = x * factors
    multiplier = None
    if recurrent_mask is not None and recurrent_mask.keep is not None:
        multiplier = recurrent_mask.multiplier(dtype)
    masks = (keep_of(input_mask), keep_of(recurrent_mask), multiplier)
    h0, c0, w_ih, w_hh = v["h0"], v.get("c0"), v["w_ih"], v["w_hh"]
    projection = (v["w_hr"],) if case.projection else ()
    biases = v.get("b_ih"), v.get("b_hh")
    y, h, c, saved = ops.forward(layer, x, h0, c0, w_ih, w_hh, *biases, *masks, *projection)
    dy = None if "dy" not in v else case.pack(v["dy"])
    dgates, dx, dh0, dc0 = ops.backward(
        layer, dy, v.get("dh"), v.get("dc"), x, y, h0, c0, w_ih, w_hh, saved, *masks, True, *projection
    )
    dw_ih, dw_hh, db_ih, db_hh, *dw_hr = ops.weight_grad(layer, x, y, h0, dgates, *masks)
    results = {"y": y, "h": h, "c": c, "dx": dx if factors is None else dx * factors}
    results |= {"dh0": dh0, "dc0": dc0, "dw_ih": dw_ih, "dw_hh": dw_hh}
    results |= {"db_ih": db_ih, "db_hh": db_hh} if case.bias else {}
    results |= {"dw_hr": dw_hr[0]} if case.projection else {}
    return {name: value for name, value in results.items() if value is not None}


def check(backend, case: Case, input_mask: Mask | None = None, recurrent_mask: Mask | None = None) -> None:
    masks = (input_mask, recurrent_mask)
    oracle.check(
        backend,
        by_ops(backend.recurrence, case, backend.dtype, *masks),
        lambda dtype: by_autograd(case, dtype, *masks),
        lambda dtype: by_ops(recurrence, case, dtype, *masks),
        lambda dtype: by_autograd(case, dtype, *masks, product=oracle.one_by_one),
    )


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_masked_dense_lstm(backend, shape, spec, directions):
    check(backend, Case(shape), *masks_for(spec, directions, shape))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("spec", ["structured exact", "fixed bernoulli", "random bernoulli", "none"])
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 7, 5, 17), (3, 5, 9, 70)], ids=str)
def test_equals_every_masked_dense_cell(backend, shape, cell, reverse, packed, spec):
    check(backend, Case(shape, cell, reverse, packed), *masks_for(spec, "NR+RH", shape))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_a_dense_cell_when_nothing_is_dropped(backend, shape, cell):
    check(backend, Case(shape, cell))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("cell", CELLS)
def test_without_bias(backend, cell):
    shape = (4, 3, 7, 17)
    check(backend, Case(shape, cell, bias=False), *masks_for("structured exact", "NR+RH", shape))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("given", [("dy",), ("dh",), ("dc",), ("dy", "dh"), ("dh", "dc")], ids=str)
def test_missing_upstream_gradients_are_zero(backend, given):
    shape = (4, 3, 7, 17)
    check(backend, Case(shape, given=given), *masks_for("structured bernoulli", "NR+RH", shape))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("given", [("dy",), ("dh",)], ids=str)
@pytest.mark.parametrize("cell", ["GRU", "RNN_TANH", "RNN_RELU"])
def test_missing_upstream_gradients_are_zero_for_cells_of_h_alone(backend, cell, given):
    shape = (4, 3, 7, 17)
    case = Case(shape, cell, packed=True, given=given)
    check(backend, case, *masks_for("structured bernoulli", "NR+RH", shape))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    "spec", ["structured exact", "fixed bernoulli", "random bernoulli", "none", "all", None]
)
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(
    ("shape", "projection"),
    [((1, 1, 1, 1), 1), ((3, 5, 7, 17), 1), ((4, 7, 5, 17), 13), ((3, 21, 9, 70), 65), ((3, 2, 4, 5), 20)],
    ids=str,
)
def test_equals_a_masked_dense_lstm_with_projections(backend, shape, projection, reverse, packed, spec):
    masks = (None, None) if spec is None else masks_for(spec, "NR+RH", (*shape[:3], projection))
    check(backend, Case(shape, reverse=reverse, packed=packed, projection=projection), *masks)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("given", [("dy",), ("dh",), ("dc",), ("dh", "dc")], ids=str)
def test_missing_upstream_gradients_are_zero_behind_a_projection(backend, given):
    case = Case((4, 3, 7, 17), bias=False, given=given, projection=5)
    check(backend, case, *masks_for("structured bernoulli", "NR+RH", (4, 3, 7, 5)))


def test_dx_is_skipped_when_it_is_not_needed(backend):
    case = Case((2, 3, 5, 6))
    v, layer = case.operands(backend.dtype), case.layer
    head = (v["x"], v["h0"], v["c0"], v["w_ih"], v["w_hh"])
    y, *_, saved = backend.recurrence.forward(layer, *head, v["b_ih"], v["b_hh"], None, None, None)
    _, dx, *_ = backend.recurrence.backward(
        layer, v["dy"], None, None, v["x"], y, *head[1:], saved, None, None, None, False
    )
    assert dx is None


def test_a_sequence_in_two_pieces_is_the_sequence(backend):
    """Truncated training feeds h and c on; masks at t drop h[t-1], so the piece's own masks start at h0."""
    shape = (7, 3, 5, 9)
    drawn = masks_for("structured exact", "NR+RH", shape)
    v = Case(shape).operands(backend.dtype)
    tail = (v["w_ih"], v["w_hh"], v["b_ih"], v["b_hh"])

    def run(h, c, steps):
        keeps = [Keep(m.index[steps].contiguous(), None, m.scale) for m in drawn]
        x = v["x"][steps].contiguous()
        return backend.recurrence.forward(Layer(LSTM), x, h, c, *tail, *keeps, None)

    whole, _, c_whole, _ = run(v["h0"], v["c0"], slice(0, 7))
    first, h, c, _ = run(v["h0"], v["c0"], slice(0, 3))
    second, _, c, _ = run(h, c, slice(3, 7))
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(c, c_whole)


@pytest.mark.parametrize("name", CELLS)
def test_the_backward_of_a_cell_is_its_derivative(name):
    cell = CELLS[name]
    of_input, of_hidden = torch.randn(2, 3, cell.gates * 5, dtype=torch.float64).requires_grad_().unbind()
    h, c, dh, dc = torch.randn(4, 3, 5, dtype=torch.float64).requires_grad_().unbind()
    states = (h, c) if cell.has_c else (h,)
    saved, h_after, c_after = cell.forward(of_input, of_hidden, h, c if cell.has_c else None)
    outputs, upstream = ((h_after, c_after), (dh, dc)) if cell.has_c else ((h_after,), (dh,))
    expected = torch.autograd.grad(outputs, (of_input, of_hidden, *states), upstream, allow_unused=True)
    actual = cell.backward(
        dh, dc if cell.has_c else None, tuple(each.detach() for each in saved), h, c if cell.has_c else None
    )
    for ours, theirs in zip(actual, expected, strict=False):
        theirs = None if theirs is None else theirs.detach()
        if ours is None or theirs is None:
            assert ours is theirs
        else:
            torch.testing.assert_close(ours.detach(), theirs, rtol=1e-12, atol=1e-12)


def test_both_kinds_of_recurrent_masks_at_once_are_refused():
    case = Case((2, 3, 5, 6))
    v = case.operands(torch.float64)
    keep = Keep(torch.zeros(2, 1, dtype=torch.int32), None, 1.0)
    head = (v["x"], v["h0"], v["c0"], v["w_ih"], v["w_hh"], None, None, None)
    with pytest.raises(ValueError, match="only one of recurrent_keep and recurrent_mask"):
        recurrence.forward(case.layer, *head, keep, torch.ones(1, 3, 6, dtype=torch.float64))
