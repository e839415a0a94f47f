"""The three products, on every backend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oracle import check
from strop.ops import products
from strop.ops.products import Keep

# T, B, K, N
SHAPES = [
    (1, 1, 1, 1),
    (1, 1, 7, 16),
    (3, 1, 17, 1),
    (1, 20, 1, 7),
    (4, 21, 16, 65),
    (5, 33, 65, 17),
    (2, 3, 130, 68),
]
KEEPS = ["dense", "all", "none", "one", "half", "ragged", "ragged with empty steps", "empty counts"]


def make_keep(kind: str, steps: int, columns: int, generator: torch.Generator) -> Keep | None:
    """Index lists by hand, written without the drawing code."""
    if kind == "dense":
        return None
    sizes = {
        "all": [columns] * steps,
        "none": [0] * steps,
        "one": [1] * steps,
        "half": [(columns + 1) // 2] * steps,
        "ragged": [1 + t % columns for t in range(steps)],
        "ragged with empty steps": [columns * (t % 2) for t in range(steps)],
        "empty counts": [0] * steps,
    }[kind]
    width = columns if kind == "empty counts" else max(sizes)
    rows = [torch.randperm(columns, generator=generator)[:size].sort().values.tolist() for size in sizes]
    index = torch.tensor([row + [columns] * (width - len(row)) for row in rows], dtype=torch.int32)
    ragged = kind in ("ragged", "ragged with empty steps", "empty counts")
    count = torch.tensor(sizes, dtype=torch.int32) if ragged else None
    return Keep(index.view(steps, width), count, 1.75)


def dense_mask(keep: Keep | None, steps: int, columns: int) -> Tensor:
    """The multiplier ``[T, 1, K]`` that a keep stands for."""
    if keep is None:
        return torch.ones(steps, 1, columns, dtype=torch.float64)
    mask = torch.zeros(steps, 1, columns, dtype=torch.float64)
    for t, row in enumerate(keep.index.tolist()):
        for column in row[: None if keep.count is None else int(keep.count[t])]:
            mask[t, 0, column] = keep.scale
    return mask


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("kind", KEEPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_equal_masked_dense_products(backend, shape, kind):
    steps, batch, columns, outputs = shape
    generator = torch.Generator().manual_seed(7)
    keep = make_keep(kind, steps, columns, generator)
    mask = dense_mask(keep, steps, columns)
    x = torch.randn(steps, batch, columns, generator=generator)
    dy = torch.randn(steps, batch, outputs, generator=generator)
    weight = torch.randn(outputs, columns, generator=generator)
    bias = torch.randn(outputs, generator=generator)

    def compute(dtype):
        a, b, w, c, m = (v.to(dtype) for v in (x, dy, weight, bias, mask))
        return {
            "forward": torch.einsum("tbk,nk->tbn", a * m, w) + c,
            "forward without bias": torch.einsum("tbk,nk->tbn", a * m, w),
            "input_grad": torch.einsum("tbn,nk->tbk", b, w) * m,
            "weight_grad": torch.einsum("tbk,tbn->nk", a * m, b),
        }

    ops, (a, b, w, c) = backend.products, (v.to(backend.dtype) for v in (x, dy, weight, bias))
    actual = {
        "forward": ops.forward(a, w, c, keep),
        "forward without bias": ops.forward(a, w, None, keep),
        "input_grad": ops.input_grad(b, w, keep),
        "weight_grad": ops.weight_grad(a, b, keep),
    }
    check(backend, actual, compute)
    dropped = (mask == 0).expand(-1, batch, -1)
    assert (actual["input_grad"][dropped] == 0).all()


def test_dropped_columns_of_x_are_not_read(backend):
    generator = torch.Generator().manual_seed(3)
    keep = make_keep("half", 4, 17, generator)
    assert keep is not None
    x = torch.randn(4, 5, 17, dtype=backend.dtype, generator=generator)
    weight = torch.randn(8, 17, dtype=backend.dtype, generator=generator)
    dy = torch.randn(4, 5, 8, dtype=backend.dtype, generator=generator)
    spoiled = torch.where(dense_mask(keep, 4, 17) == 0, float("nan"), x).to(backend.dtype)
    ops = backend.products
    assert torch.equal(ops.forward(x, weight, None, keep), ops.forward(spoiled, weight, None, keep))
    assert torch.equal(ops.weight_grad(x, dy, keep), ops.weight_grad(spoiled, dy, keep))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_reference_keeps_the_dtype(dtype):
    keep = make_keep("half", 2, 6, torch.Generator().manual_seed(0))
    x, weight, dy = torch.randn(2, 3, 6, dtype=dtype), torch.randn(4, 6, dtype=dtype), torch.randn(2, 3, 4)
    assert products.forward(x, weight, weight[:, 0].contiguous(), keep).dtype == dtype
    assert products.input_grad(dy.to(dtype), weight, keep).dtype == dtype
    assert products.weight_grad(x, dy.to(dtype), keep).dtype == dtype


def test_reference_takes_operands_that_are_not_contiguous():
    keep = make_keep("half", 2, 6, torch.Generator().manual_seed(0))
    x = torch.randn(6, 3, 2, dtype=torch.float64).transpose(0, 2)
    weight = torch.randn(6, 4, dtype=torch.float64).t()
    expected = products.forward(x.contiguous(), weight.contiguous(), None, keep)
    torch.testing.assert_close(products.forward(x, weight, None, keep), expected, rtol=1e-12, atol=1e-12)


BAD_KEEPS = {
    "int64": (torch.tensor([[0, 1], [0, 1]]), None, TypeError, "index must be int32"),
    "flat": (torch.tensor([0, 1], dtype=torch.int32), None, ValueError, "index must be"),
    "steps": (torch.tensor([[0, 1]], dtype=torch.int32), None, ValueError, "index must be"),
    "width": (torch.arange(6, dtype=torch.int32).repeat(2, 1), None, ValueError, "index must be"),
    "above": (torch.tensor([[0, 1], [0, 5]], dtype=torch.int32), None, ValueError, "got 0 to 5"),
    "below": (torch.tensor([[0, 1], [-1, 2]], dtype=torch.int32), None, ValueError, "got -1 to 2"),
    "unsorted": (torch.tensor([[0, 1], [3, 2]], dtype=torch.int32), None, ValueError, "ascending"),
    "repeated": (torch.tensor([[0, 1], [2, 2]], dtype=torch.int32), None, ValueError, "ascending"),
    "count dtype": (
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([2, 2]),
        TypeError,
        "count must be int32",
    ),
    "count shape": (
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([2], dtype=torch.int32),
        ValueError,
        "count must be",
    ),
    "count above": (
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([2, 3], dtype=torch.int32),
        ValueError,
        "got 2 to 3",
    ),
    "count below": (
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([-1, 2], dtype=torch.int32),
        ValueError,
        "got -1 to 2",
    ),
    "padding": (
        torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        torch.tensor([2, 1], dtype=torch.int32),
        ValueError,
        "beyond keep.count",
    ),
    "padding inside": (
        torch.tensor([[0, 1], [2, 5]], dtype=torch.int32),
        torch.tensor([2, 2], dtype=torch.int32),
        ValueError,
        r"in \[0, 5\)",
    ),
}


@pytest.mark.parametrize("name", BAD_KEEPS)
def test_index_lists_that_do_not_fit_are_refused(name):
    index, count, error, message = BAD_KEEPS[name]
    keep = Keep(index, count, 2.0)
    x, weight, dy = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(2, 3, 4)
    with pytest.raises(error, match=message):
        products.forward(x, weight, None, keep)
    with pytest.raises(error, match=message):
        products.input_grad(dy, weight, keep)
    with pytest.raises(error, match=message):
        products.weight_grad(x, dy, keep)


@given(
    rows=st.lists(st.lists(st.integers(-3, 12), max_size=9), min_size=1, max_size=4),
    columns=st.integers(1, 10),
    counts=st.booleans(),
)
def test_only_sound_index_lists_pass(rows, columns, counts):
    width = max(map(len, rows))
    index = torch.tensor([row + [columns] * (width - len(row)) for row in rows], dtype=torch.int32)
    index = index.view(len(rows), width)
    count = torch.tensor([len(row) for row in rows], dtype=torch.int32) if counts else None
    used = rows if counts else index.tolist()
    sound = width <= columns and all(
        row == sorted(set(row)) and all(0 <= i < columns for i in row) for row in used
    )
    try:
        products.check_keep(Keep(index, count, 1.0), len(rows), columns)
    except ValueError:
        assert not sound
    else:
        assert sound
