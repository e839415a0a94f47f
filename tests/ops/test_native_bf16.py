"""Products whose operands are rounded to bfloat16: right to the last bits of a float32 sum of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import oracle
import strop
from native_calls import Call, expected, keep_lists, run, well_formed
from strop import functional
from strop.ops import native, native_recurrence
from strop.ops.products import Keep
from strop.pattern import Pattern

pytestmark = pytest.mark.skipif(
    not native.has_bf16, reason="bf16 needs a CPU with AVX512-BF16, and its kernels built"
)

LISTS = ("none", "all", "half", "one", "nothing", "ragged")
# steps, batch, columns, outputs
SIZES = [(1, 1, 1, 1), (3, 7, 33, 70), (2, 20, 130, 257), (2, 67, 31, 64), (1, 3, 5200, 5), (2, 5, 2561, 66)]


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize(("steps", "batch", "columns", "outputs"), SIZES)
@pytest.mark.parametrize("op", ["linear_forward", "linear_input_grad", "linear_weight_grad"])
def test_products_are_those_of_rounded_operands(op, steps, batch, columns, outputs, lists):
    call = Call(op, steps, batch, columns, outputs, lists, bf16=True)
    arguments = well_formed(call)
    scale = arguments["scale"]
    run(op, arguments)
    # What the reference sees is rounded already, x after it was scaled.
    given = {**arguments, "scale": 1.0}
    if "x" in given:
        given["x"] = rounded(given["x"] * scale)
    for name in ("weight", "dy"):
        if name in given:
            given[name] = rounded(given[name])
    if op == "linear_input_grad":
        given["scale"] = scale
    for name, value in expected(op, given).items():
        largest = max(1.0, value.abs().max().item()) if value.numel() else 1.0
        torch.testing.assert_close(arguments[name].double(), value, rtol=0, atol=3e-6 * largest)


CELLS = {"LSTM": functional.lstm, "GRU": functional.gru, "RNN_TANH": functional.rnn_tanh}


@pytest.mark.parametrize("recurrent", ["structured", "random"])
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"), [(5, 20, 33, 70), (3, 1, 1, 1), (4, 7, 200, 130)]
)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_as_accurate_as_rounding_its_products(cell, steps, batch, inputs, hidden, recurrent):
    gates = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}[cell]
    generator = torch.Generator().manual_seed(hidden)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    x, states = normal(steps, batch, inputs), [normal(batch, hidden) for _ in range(2 if gates == 4 else 1)]
    weights = [normal(gates * hidden, n) / n**0.5 for n in (inputs, hidden)]
    weights += [normal(gates * hidden) for _ in range(2)]
    mask = Pattern.named("structured", 0.4).draw(steps, inputs, batch, generator=generator)
    recurrent_mask = Pattern.named(recurrent, 0.4).draw(steps, hidden, batch, generator=generator)
    dy = normal(steps, batch, hidden)
    names = ("y", "dx", *(f"d{state}" for state in "hc"[: len(states)]), "dw_ih", "dw_hh", "db_ih", "db_hh")

    def gradients(run, dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = [each.to(dtype).requires_grad_() for each in (x, *states, *weights)]
        own_x, own_states, own_weights = leaves[0], leaves[1 : 1 + len(states)], leaves[1 + len(states) :]
        y = run(own_x, own_states, own_weights)
        found = torch.autograd.grad(y, leaves, dy.to(dtype))
        return dict(zip(names, (y.detach(), *found), strict=True))

    def ours(x: Tensor, states: list[Tensor], weights: list[Tensor]) -> Tensor:
        hx = (states[0], states[1]) if len(states) == 2 else states[0]
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = CELLS[cell](x, hx, *weights, input_mask=mask, recurrent_mask=recurrent_mask)
        return y

    def torchs(product):
        def run(x: Tensor, states: list[Tensor], weights: list[Tensor]) -> Tensor:
            y, *_ = oracle.layer(cell, x, states, weights, mask, recurrent_mask, product=product)
            return y

        return run

    def rounding(a: Tensor, b: Tensor) -> Tensor:
        return a.bfloat16().double() @ b.bfloat16().double()

    truth = gradients(torchs(torch.matmul), torch.float64)
    allowed = gradients(torchs(rounding), torch.float64)
    found = gradients(ours, torch.float32)
    assert any(not torch.equal(found[name].double(), truth[name].float().double()) for name in names)
    for name, value in truth.items():
        for order in (2, float("inf")):
            error, theirs = (
                torch.linalg.vector_norm(each[name].double() - value, order).item()
                for each in (found, allowed)
            )
            floor = 2**-9 * max(1.0, value.abs().max().item()) if value.numel() < 50 else 0.0
            assert error <= 2 * theirs + floor, f"{name}: error {error:.3g}, of rounded products {theirs:.3g}"


def test_a_dropped_weight_is_not_read():
    """Kept units come in pairs; an odd one has no partner, and must not take one from what is dropped."""
    columns, outputs = 5, 70
    weight = torch.full((outputs, columns), float("nan"))
    weight[:, 2] = 1.0
    x = torch.ones(1, 3, columns)
    keep = Keep(torch.tensor([[2]], dtype=torch.int32), None, 2.0)
    assert torch.equal(native.forward(x, weight, None, keep, True), torch.full((1, 3, outputs), 2.0))


def test_sizes_at_which_units_are_cut_into_blocks_of_any_parity():
    generator = torch.Generator().manual_seed(0)
    for columns in (2561, 5200, 7001):
        index, _, _ = keep_lists("half", 3, columns, generator)
        x = rounded(torch.randn(3, 7, columns, generator=generator))
        weight = rounded(torch.randn(65, columns, generator=generator) / columns**0.5)
        keep = Keep(index, None, 2.0)
        exact = native.forward(x, weight, None, keep)
        torch.testing.assert_close(native.forward(x, weight, None, keep, True), exact, rtol=0, atol=1e-5)


def train(model: strop.LSTM, head: strop.Linear, dtype: torch.dtype | None) -> list[Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    head.zero_grad()
    x, target = torch.randn(6, 20, 50), torch.randint(90, (6, 20))
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        y, _ = model(x)
        loss = head.cross_entropy(y, target)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in (*model.parameters(), *head.parameters()))]


def test_only_autocast_to_bfloat16_rounds(monkeypatch):
    model = strop.LSTM(50, 60, 2, dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5)
    head = strop.Linear(60, 90, dropout=0.5)
    plain, half, rounds = (train(model, head, dtype) for dtype in (None, torch.float16, torch.bfloat16))
    assert all(map(torch.equal, plain, half))
    assert all(not torch.equal(a, b) for a, b in zip(plain, rounds, strict=True))
    for a, b in zip(plain, rounds, strict=True):
        assert torch.linalg.vector_norm(a - b) < 0.02 * torch.linalg.vector_norm(a)
        assert b.dtype == torch.float32
    monkeypatch.setattr(native, "has_bf16", False)  # as on other CPUs
    assert all(map(torch.equal, plain, train(model, head, torch.bfloat16)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_with_nothing_dropped_training_rounds_too_and_gives_bfloat16(mode, packed, monkeypatch):
    torch.manual_seed(0)
    layer = getattr(strop, mode)(50, 120, 2, bidirectional=True)
    plain = getattr(torch.nn, mode)(50, 120, 2, bidirectional=True)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(9, 40, 50)
    given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.arange(40) % 9 + 1, enforce_sorted=False)
    rounded = []
    real = native_recurrence.forward_each

    def forward_each(calls):
        rounded.extend(layer.bf16 for layer, *_ in calls)
        return real(calls)

    monkeypatch.setattr(native_recurrence, "forward_each", forward_each)
    found = []
    for module, autocast in ((layer, True), (plain, False)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, states = module(given if packed else x)
        rows = y.data if packed else y
        assert rows.dtype == (torch.bfloat16 if autocast else torch.float32)
        rows.float().cos().sum().backward()
        last = states if mode == "LSTM" else (states,)
        found.append([rows, *last, *(p.grad for p in module.parameters())])
    assert rounded == [True] * 4
    for ours, exact in zip(*found, strict=True):
        assert torch.linalg.vector_norm(ours.float() - exact) < 0.02 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("kind", ["lstm", "linear"])
def test_compiled_it_is_the_same(kind):
    torch._dynamo.reset()
    module = (
        strop.LSTM(20, 30, dropout=0.0, recurrent_dropout=0.5)
        if kind == "lstm"
        else strop.Linear(20, 30, dropout=0.5)
    )

    def loss(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        return (y[0] if kind == "lstm" else y).float().square().sum()

    found = []
    for way in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        module.zero_grad()
        torch.manual_seed(3)
        value = way(torch.ones(4, 5, 20))
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in module.parameters())])
    assert all(map(torch.equal, *found))
