"""Autograd over the products: gradients, what is saved, what is refused."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

import oracle
from strop import functional
from strop.functional.checks import check_mask
from strop.ops import dispatch, native
from strop.pattern import CASES, Mask, Pattern

NAMES = ("x", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
PROJECTED = (*NAMES, "weight_hr")


def operands(steps=3, batch=2, features=4, hidden=3, dtype=torch.float64, projection=0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    units = projection or hidden
    shapes = {
        "x": (steps, batch, features),
        "h0": (batch, units),
        "c0": (batch, hidden),
        "weight_ih": (4 * hidden, features),
        "weight_hh": (4 * hidden, units),
        "bias_ih": (4 * hidden,),
        "bias_hh": (4 * hidden,),
    }
    if projection:
        shapes["weight_hr"] = (projection, hidden)
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    values["weight_ih"] /= features**0.5
    values["weight_hh"] /= hidden**0.5
    return {name: value.to(dtype) for name, value in values.items()}


def masks(name: str, values: dict[str, Tensor], exact: bool | None = None) -> dict[str, Mask | None]:
    steps, batch, features = values["x"].shape
    pattern = Pattern.named(name, 0.5, exact=exact)
    return {
        "input_mask": pattern.draw(steps, features, batch),
        "recurrent_mask": pattern.draw(steps, values["h0"].shape[1], batch),
    }


def run(values: dict[str, Tensor | None], **drawn: Mask | None) -> tuple[Tensor, Tensor, Tensor]:
    rest = [values[name] for name in NAMES[3:]]
    hx, weight_hr = (values["h0"], values["c0"]), values.get("weight_hr")
    y, (h, c) = functional.lstm(values["x"], hx, *rest, weight_hr=weight_hr, **drawn)
    return y, h, c


def run_oracle(values, input_mask=None, recurrent_mask=None) -> tuple[Tensor, Tensor, Tensor]:
    layer = tuple(values.get(name) for name in PROJECTED[3:])
    hx = (values["h0"].unsqueeze(0), values["c0"].unsqueeze(0))
    y, h, c = oracle.lstm(values["x"], hx, [layer], [input_mask], [recurrent_mask])
    return y, h[0], c[0]


def gradients(outputs, values, names) -> dict[str, Tensor]:
    """Gradients of a loss that weighs every element of y, h and c by its own weight."""
    generator = torch.Generator().manual_seed(9)
    upstream = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    grads = torch.autograd.grad(outputs, [values[name] for name in names], upstream)
    return dict(zip(names, grads, strict=True))


def on_the_reference(compute):
    """``compute(dtype)`` on plain PyTorch, whatever backend is under test."""

    def wrapper(dtype: torch.dtype) -> dict[str, Tensor]:
        with dispatch.use("reference"):
            return compute(dtype)

    return wrapper


def leaves(values: dict[str, Tensor], dtype: torch.dtype, names=NAMES) -> dict[str, Tensor]:
    return {n: v.to(dtype).detach().clone().requires_grad_(n in names) for n, v in values.items()}


@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name, exact, projection):
    values = operands(projection=projection)
    drawn = masks(name, values, exact)

    def layer(*tensors: Tensor):
        return run(dict(zip(values, tensors, strict=True)), **drawn)

    assert torch.autograd.gradcheck(layer, tuple(v.requires_grad_() for v in values.values()))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_gradcheck_linear(name, exact):
    x, weight = torch.randn(3, 2, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    mask = Pattern.named(name, 0.5, exact=exact).draw(3, 5, 2)
    operands = tuple(v.requires_grad_() for v in (x, weight, torch.randn(4, dtype=torch.float64)))
    assert torch.autograd.gradcheck(lambda x, w, b: functional.linear(x, w, b, mask), operands)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("name", CASES)
def test_lstm_equals_the_oracle_on_operands_that_are_not_contiguous(backend, name, projection):
    plain = operands(5, 3, 7, 17, projection=projection)
    drawn = masks(name, plain)

    def compute(dtype, of=run_oracle, spread=lambda v: v):
        values = {n: spread(v) for n, v in leaves(plain, dtype, ()).items()}
        for value in values.values():
            value.requires_grad_()
        outputs = of(values, **drawn)
        return dict(zip("yhc", map(Tensor.detach, outputs), strict=True)) | gradients(
            outputs, values, [*plain]
        )

    def spread(value: Tensor) -> Tensor:
        """The same values, every second element in memory, last axis first."""
        wide = value.new_zeros(*(2 * size for size in reversed(value.shape)))
        view = wide[tuple(slice(None, None, 2) for _ in value.shape)].permute(*reversed(range(value.dim())))
        view.copy_(value)
        assert not view.is_contiguous()
        return view

    with_gaps = compute(backend.dtype, run, spread)
    together = compute(backend.dtype, run)
    assert all(torch.equal(with_gaps[key], together[key]) for key in together)
    if backend.name == "reference":  # kernels in float32, see nn/test_rnn_oracle.py, too
        oracle.check(backend, with_gaps, compute)
    else:
        exact = compute(torch.float64)
        torch.testing.assert_close(with_gaps, {key: value.float() for key, value in exact.items()})


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 21, 17, 33), (2, 20, 65, 7)], ids=str)
def test_linear_equals_the_oracle(backend, name, shape):
    steps, batch, features, outputs = shape
    x, weight = torch.randn(steps, batch, features), torch.randn(outputs, features)
    bias, upstream = torch.randn(outputs), torch.randn(steps, batch, outputs)
    mask = Pattern.named(name, 0.5).draw(steps, features, batch)

    def compute(dtype, of=oracle.linear):
        leaves = [v.to(dtype).clone().requires_grad_() for v in (x, weight, bias)]
        y = of(*leaves, mask)
        grads = torch.autograd.grad(y, leaves, upstream.to(dtype))
        return dict(zip(("y", "dx", "dweight", "dbias"), (y.detach(), *grads), strict=True))

    reference = on_the_reference(lambda dtype: compute(dtype, functional.linear))
    oracle.check(backend, compute(backend.dtype, functional.linear), compute, reference)


@pytest.mark.parametrize(
    ("projection", "names"),
    [(0, names) for size in (1, 2, 6) for names in combinations(NAMES, size)]
    + [(2, names) for size in (1, 7) for names in combinations(PROJECTED, size)],
    ids=str,
)
def test_any_subset_of_gradients(projection, names):
    plain = operands(projection=projection)
    drawn = masks("structured", plain)
    everything = leaves(plain, torch.float64, PROJECTED)
    expected = gradients(run(everything, **drawn), everything, names)
    values = leaves(plain, torch.float64, names)
    actual = gradients(run(values, **drawn), values, names)
    assert all(torch.equal(actual[name], expected[name]) for name in names)


def spy(monkeypatch, owner, *names: str) -> list[str]:
    """The names of the functions of ``owner`` that get called."""
    called: list[str] = []
    for name in names:
        function = getattr(owner, name)

        def wrapper(*args, _name=name, _function=function):
            called.append(_name)
            return _function(*args)

        monkeypatch.setattr(owner, name, wrapper)
    return called


def test_work_that_no_gradient_needs_is_skipped(backend, monkeypatch):
    plain = operands()
    drawn = masks("structured", plain)
    called = spy(monkeypatch, backend.recurrence, "weight_grad")
    values = leaves(plain, backend.dtype, ("x", "h0"))
    gradients(run(values, **drawn), values, ("x", "h0"))
    assert not called
    called = spy(monkeypatch, backend.products, "input_grad", "weight_grad")
    weight = values["weight_ih"].detach().requires_grad_()
    functional.linear(plain["x"].to(backend.dtype), weight, None, drawn["input_mask"]).sum().backward()
    assert called == ["weight_grad"]


@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("output", range(3))
def test_one_output_alone(output, projection):
    plain = operands(projection=projection)
    drawn = masks("structured", plain)
    actual, expected = (leaves(plain, torch.float64, PROJECTED) for _ in range(2))
    run(actual, **drawn)[output].pow(2).sum().backward()
    run_oracle(expected, **drawn)[output].pow(2).sum().backward()
    for name in plain:
        assert actual[name].grad is not None
        reference = expected[name].grad
        torch.testing.assert_close(actual[name].grad, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("projection", [0, 6])
def test_only_what_backward_needs_is_saved(projection):
    steps, batch, features, hidden = 7, 5, 11, 13
    values = operands(steps, batch, features, hidden, projection=projection)
    values = leaves(values, torch.float64, PROJECTED)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    drawn = masks("structured", values)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(values, **drawn)
    rows, units = steps * batch, projection or hidden
    weights = 4 * hidden * (features + units + 2)
    # x, y, the gates and the cell states; weights and biases; h0 and c0. No mask, no dropped copy.
    expected = rows * (features + units + 5 * hidden) + weights + batch * (units + hidden)
    # What is projected, and by what.
    expected += (rows + units) * hidden if projection else 0
    assert sum(saved.values()) == expected


def test_no_grad():
    values = leaves(operands(), torch.float64)
    drawn = masks("structured", values)
    with torch.no_grad():
        outputs = run(values, **drawn)
    assert not any(output.requires_grad for output in outputs)
    assert all(map(torch.equal, outputs, run(values, **drawn)))


def test_writing_over_the_output_is_noticed():
    values = leaves(operands(), torch.float64)
    y, h, c = run(values, **masks("structured", values))
    h.zero_()  # a copy: y and its gradient stay whole
    assert y[-1].abs().sum() > 0
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y.sum() + c.sum()).backward()


@pytest.mark.parametrize("name", CASES)
def test_autocast_runs_in_the_weights_dtype(name, monkeypatch):
    monkeypatch.setattr(native, "has_bf16", False)  # operands are rounded there: see test_native_bf16.py
    plain = operands(4, 3, 6, 5, torch.float32)
    drawn = masks(name, plain)

    def everything(autocast: bool):
        values = leaves(plain, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            outputs = run(values, **drawn)
            linear = functional.linear(outputs[0], values["weight_hh"], None, drawn["recurrent_mask"])
            (sum(o.pow(2).sum() for o in outputs) + linear.float().sum()).backward()
        return outputs, linear, [values[name].grad for name in NAMES]

    (outputs, linear, grads), (outputs32, linear32, grads32) = everything(True), everything(False)
    assert all(map(torch.equal, outputs, outputs32))
    if name in ("structured", "fixed"):
        assert torch.equal(linear, linear32)
        assert all(map(torch.equal, grads, grads32))


def test_autocast_takes_half_precision_inputs():
    values = operands(4, 3, 6, 5, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values["x"] = values["x"].bfloat16()
        y, *_ = run(values, **masks("structured", values))
    assert y.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_runs_through_the_reference(dtype):
    plain = operands(4, 3, 6, 5)
    drawn = masks("structured", plain)
    exact = run(plain, **drawn)
    values = leaves(plain, dtype)
    outputs = run(values, **drawn)
    for actual, expected in zip(outputs, exact, strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=0.1, atol=0.1)
    sum(output.float().sum() for output in outputs).backward()
    assert all(value.grad is not None and value.grad.dtype == dtype for value in values.values())


BAD = {
    "x rank": ({"x": torch.zeros(3, 4)}, ValueError, "x must be a floating-point"),
    "x integer": ({"x": torch.zeros(3, 2, 4, dtype=torch.int64)}, ValueError, "x must be a floating-point"),
    "no steps": ({"x": torch.zeros(0, 2, 4)}, ValueError, r"x must not be empty, got \[0, 2, 4\]"),
    "no batch": ({"x": torch.zeros(3, 0, 4)}, ValueError, "x must not be empty"),
    "h0 shape": ({"h0": torch.zeros(1, 2, 3)}, ValueError, r"h0 must have shape \[2, 3\], got \[1, 2, 3\]"),
    "c0 shape": ({"c0": torch.zeros(2, 4)}, ValueError, "c0 must have shape"),
    "h0 dtype": ({"h0": torch.zeros(2, 3).double()}, ValueError, "h0 must be torch.float32 on cpu"),
    "c0 device": ({"c0": torch.zeros(2, 3, device="meta")}, ValueError, "c0 must be .* got .* on meta"),
    "weight_ih": ({"weight_ih": torch.zeros(12, 5)}, ValueError, r"weight_ih must have shape \[12, 4\]"),
    "weight_hh": (
        {"weight_hh": torch.zeros(12, 4)},
        ValueError,
        r"weight_hh must be \[4 \* hidden, hidden\]",
    ),
    "bias_ih": ({"bias_ih": torch.zeros(3)}, ValueError, r"bias_ih must have shape \[12\], got \[3\]"),
    "bias_hh": ({"bias_hh": torch.zeros(12).double()}, ValueError, "bias_hh must be torch.float32"),
    "weight_hr": ({"weight_hr": torch.zeros(2, 3)}, ValueError, r"weight_hr must have shape \[3, 3\], got"),
    "weight_hr rank": (
        {"weight_hr": torch.zeros(3)},
        ValueError,
        r"weight_hr must be \[projection, hidden\]",
    ),
    "weight_hr empty": (
        {"weight_hr": torch.zeros(0, 3)},
        ValueError,
        r"weight_hr must be \[projection, hidden\]",
    ),
    "weight_hr dtype": (
        {"weight_hr": torch.zeros(3, 3).double()},
        ValueError,
        "weight_hr must be torch.float32",
    ),
    "weight_hh of a projection": (
        {"weight_hr": torch.zeros(3, 4)},
        ValueError,
        r"weight_hh must be \[4 \* hidden, projection\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_operands_are_refused(name):
    changed, error, message = BAD[name]
    with pytest.raises(error, match=message):
        run(operands(dtype=torch.float32) | changed)


@pytest.mark.parametrize(
    ("size", "name", "message"),
    [
        (
            (2, 4, 2),
            "structured",
            r"input_mask must be drawn for \[steps, units\] = \[3, 4\], got .* \[2, 4\]",
        ),
        ((3, 5, 2), "structured", r"got one drawn for \[3, 5\]"),
        ((3, 4, 1), "random", r"\[steps, batch, units\] = \[3, 2, 4\], got one drawn for \[3, 1, 4\]"),
    ],
    ids=str,
)
def test_masks_of_another_shape_are_refused(size, name, message):
    mask = Pattern.named(name, 0.5).draw(*size)
    values = operands()
    with pytest.raises(ValueError, match=message):
        run(values, input_mask=mask)
    with pytest.raises(ValueError, match="must be drawn for"):
        functional.linear(values["x"], values["weight_ih"], None, mask)


def test_a_shared_mask_fits_any_batch():
    values = operands()
    run(values, input_mask=Pattern(0.5).draw(3, 4, 77))


def test_masks_that_are_no_masks_are_refused():
    with pytest.raises(TypeError, match=r"input_mask must be a strop\.Mask or None, got Tensor"):
        run(operands(), input_mask=torch.ones(3, 1, 4))  # type: ignore[arg-type]
    elsewhere = Pattern(0.5).draw(3, 4, 2, device="cpu")
    with pytest.raises(ValueError, match="mask must be on meta"):
        check_mask("mask", elsewhere, 3, 2, 4, torch.device("meta"))


def test_index_lists_out_of_range_are_refused(backend):
    values = {name: value.to(backend.dtype) for name, value in operands().items()}
    index = torch.tensor([[0, 4]] * 3, dtype=torch.int32)
    with pytest.raises((ValueError, RuntimeError), match="index"):
        run(values, input_mask=Mask(3, 2, 4, 2.0, index, None, None))
    with pytest.raises((ValueError, RuntimeError), match="index"):
        run(values, recurrent_mask=Mask(3, 2, 3, 2.0, index, None, None))
    with pytest.raises((ValueError, RuntimeError), match="index"):
        functional.linear(values["x"], values["weight_ih"], None, Mask(3, 2, 4, 2.0, index, None, None))


def test_linear_refuses_bad_operands():
    mask, x = Pattern(0.5).draw(3, 4, 2), torch.zeros(3, 2, 4)
    for weight, bias, message in (
        (torch.zeros(5, 3), None, r"weight must have shape \[5, 4\], got \[5, 3\]"),
        (torch.zeros(5), None, r"weight must be \[out, in\]"),
        (torch.zeros(5, 4).double(), None, "weight must be torch.float32"),
        (torch.zeros(5, 4), torch.zeros(4), r"bias must have shape \[5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            functional.linear(x, weight, bias, mask)
