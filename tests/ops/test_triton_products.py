"""The three products in Triton against masked dense ones."""

from __future__ import annotations

import pytest
import torch

from strop.ops import selection as selection_in_torch
from strop.ops.products import Keep
from strop.ops.triton import gathered, products, selection
from strop.ops.triton.columns import kept_map, pack
from triton_oracle import assert_as_accurate, dense, make_keep

SHAPES = [(1, 1, 1, 1), (2, 3, 130, 7), (3, 17, 9, 68)]  # T, B, K, N


def results(shape, keep: Keep | None, dtype: torch.dtype, device: torch.device, ours: bool):
    """FP, BP and WG by Triton, or by a masked dense product."""
    steps, batch, columns, outputs = shape
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batch, steps, columns, generator=generator).half().to(device, dtype).transpose(0, 1)
    dy = torch.randn(steps, batch, outputs, generator=generator).half().to(device, dtype)
    weight = torch.randn(outputs, columns, generator=generator).half().to(device, dtype)
    bias = torch.randn(outputs, generator=generator).half().to(device, dtype)
    if ours:
        if keep is not None:
            count = None if keep.count is None else keep.count.to(device)
            keep = Keep(keep.index.to(device), count, keep.scale)
        found = (
            products.forward(x, weight, bias, keep),
            products.input_grad(dy, weight, keep),
            products.weight_grad(x, dy, keep),
        )
    else:
        mask = dense(keep, None, steps, batch, columns).to(device, dtype)
        found = (
            (x * mask) @ weight.mT + bias,
            dy @ weight * mask,
            torch.einsum("tbk,tbn->nk", x * mask, dy),
        )
    return dict(zip(("forward", "input_grad", "weight_grad"), (value.cpu() for value in found), strict=True))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("skipping", [False, True], ids=["dropped operands", "kept columns alone"])
@pytest.mark.parametrize(
    ("shape", "kind", "dtype"),
    [(shape, kind, torch.float32) for shape in SHAPES for kind in ("half", "ragged")]
    + [(SHAPES[1], kind, torch.float32) for kind in ("none", "all", "dense")]
    + [(SHAPES[1], "ragged", torch.float16)],
    ids=str,
)
def test_equal_masked_dense_products(monkeypatch, device, shape, kind, dtype, skipping):
    monkeypatch.setattr(gathered, "pays", lambda *_: skipping)
    keep = make_keep(kind, shape[0], shape[2], torch.Generator().manual_seed(1))
    assert_as_accurate(
        results(shape, keep, dtype, device, ours=True),
        results(shape, keep, dtype, device, ours=False),
        results(shape, keep, torch.float64, device, ours=False),
    )


def test_values_that_are_not_finite_do_not_pass_dropped_columns(device):
    x = torch.full((1, 2, 3), float("inf"), device=device)
    x[:, :, 1] = 2
    keep = Keep(torch.tensor([[1]], dtype=torch.int32, device=device), None, 1.0)
    weight = torch.ones(4, 3, device=device)
    assert products.forward(x, weight, None, keep).isfinite().all()
    assert products.weight_grad(x, torch.ones(1, 2, 4, device=device), keep).isfinite().all()


def test_skipping_pays_without_tensor_cores_only():
    keep = Keep(torch.zeros(3, 50, dtype=torch.int32), None, 2.0)
    x = torch.zeros(3 * 20, 100)
    assert gathered.pays(x, 20, 100, keep)
    assert not gathered.pays(x.half(), 20, 100, keep)
    assert not gathered.pays(x, 20, 60, keep)
    assert not gathered.pays(x, 20, 100, None)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert not gathered.pays(x, 20, 100, keep)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("hidden", [16, 21])
def test_packed_weights_have_the_gates_of_a_panel_side_by_side(device, hidden):
    gates, columns, lanes = 3, 5, 16
    weight = torch.randn(gates * hidden, columns, device=device)
    packed = pack(weight, gates, lanes)
    assert packed.shape == (columns, -(-hidden // lanes), gates, lanes)
    unpacked = packed.permute(2, 1, 3, 0).flatten(1, 2)
    assert torch.equal(unpacked[:, :hidden].flatten(0, 1), weight)
    assert not unpacked[:, hidden:].any()


@pytest.mark.parametrize(("rows", "columns", "kept"), [(3, 7, 4), (2, 1, 1), (2, 33, 33), (4, 100, 1)])
def test_the_same_units_are_chosen_as_elsewhere(device, rows, columns, kept):
    for keys in (
        torch.randint(2**31 - 1, (rows, columns), dtype=torch.int32),
        torch.randint(-3, 3, (rows, columns), dtype=torch.int32),  # of equal keys the first ones
        torch.full((rows, columns), 2**31 - 1, dtype=torch.int32),
    ):
        expected = selection_in_torch.smallest(keys, kept)
        assert torch.equal(selection.smallest(keys.to(device), kept).cpu(), expected)


@pytest.mark.parametrize("kind", ["half", "ragged", "none", "all"])
def test_a_map_says_what_is_kept(device, kind):
    keep = make_keep(kind, 5, 19, torch.Generator())
    assert keep is not None
    arrived = torch.full((1,), 7, dtype=torch.int32, device=device)
    on_device = Keep(keep.index.to(device), None, keep.scale)
    kept = kept_map(on_device, 19, arrived).cpu()
    assert arrived.item() == 0
    for row, listed in zip(kept.tolist(), keep.index.tolist(), strict=True):
        assert [unit for unit, there in enumerate(row) if there] == [unit for unit in listed if unit < 19]
