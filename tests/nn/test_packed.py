"""Packed sequences: whose mask is whose, and what padding must not change."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import recurrent
from recurrent import make, make_torchs
from strop.pattern import CASES

pytestmark = pytest.mark.usefixtures("way")

modes = pytest.mark.parametrize("mode", recurrent.MODES)
EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}
LENGTHS = [2, 5, 1, 5, 3]


def first(hx):
    return hx[0] if isinstance(hx, tuple) else hx


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", CASES)
@modes
def test_each_row_is_what_it_is_alone_with_its_own_masks(backend, mode, name, bidirectional):
    """Masks stay with the sequences in the order in which they were given, however packing sorts them."""
    module = make(mode, 6, 8, 2, bidirectional=bidirectional, **EVERYWHERE, pattern=name).to(backend.dtype)
    x, masks = torch.randn(5, 5, 6, dtype=backend.dtype), module.draw(5, 5)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    y, last = module(packed, masks=masks)
    y, _ = pad_packed_sequence(y)
    for row, length in enumerate(LENGTHS):
        alone = type(masks)(
            *(tuple(cut(mask, row, length) for mask in kind) for kind in (masks.input, masks.recurrent))
        )
        own, own_last = module(x[:length, row : row + 1], masks=alone)
        torch.testing.assert_close(y[:length, row], own[:, 0])
        torch.testing.assert_close(first(last)[:, row], first(own_last)[:, 0])
        assert (y[length:, row] == 0).all()


def cut(mask, row, steps):
    """Of one row of the batch, its first steps."""
    count = None if mask.count is None else mask.count[:steps]
    index = None if mask.index is None else mask.index[:steps].contiguous()
    keep = None if mask.keep is None else mask.keep[: min(steps, len(mask.keep)), row : row + 1]
    return type(mask)(steps, 1, mask.units, mask.scale, index, count, keep)


@modes
def test_sorting_beforehand_changes_nothing(backend, mode):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE).to(backend.dtype)
    x, masks = torch.randn(5, 5, 6, dtype=backend.dtype), module.draw(5, 5)  # shared by the batch
    order = torch.tensor(LENGTHS).argsort(descending=True, stable=True)
    lengths = torch.tensor(LENGTHS)
    y, last = module(pack_padded_sequence(x, lengths, enforce_sorted=False), masks=masks)
    y_sorted, last_sorted = module(pack_padded_sequence(x[:, order], lengths[order]), masks=masks)
    assert y_sorted.sorted_indices is None
    assert torch.equal(pad_packed_sequence(y)[0][:, order], pad_packed_sequence(y_sorted)[0])
    assert torch.equal(first(last)[:, order], first(last_sorted))


@modes
def test_what_comes_out_is_packed_as_what_went_in(mode):
    module, theirs = make(mode, 6, 8, recurrent_dropout=0.5), make_torchs(mode, 6, 8)
    for packed in (
        pack_sequence([torch.randn(n, 6) for n in (3, 2, 2)]),
        pack_sequence([torch.randn(n, 6) for n in (2, 3, 1)], enforce_sorted=False),
        pack_sequence([torch.randn(1, 6)]),
    ):
        y, _ = module(packed)
        expected, _ = theirs(packed)
        assert isinstance(y, PackedSequence)
        assert y.data.shape == expected.data.shape
        for actual, other in zip(y[1:], expected[1:], strict=True):
            assert (actual is other is None) or torch.equal(actual, other)


@modes
def test_full_rows_packed_are_the_batch(backend, mode):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE).to(backend.dtype)
    x, masks = torch.randn(4, 3, 6, dtype=backend.dtype), module.draw(4, 3)
    y, last = module(pack_padded_sequence(x, torch.tensor([4, 4, 4])), masks=masks)
    expected, expected_last = module(x, masks=masks)
    torch.testing.assert_close(pad_packed_sequence(y)[0], expected)
    torch.testing.assert_close(first(last), first(expected_last))


@modes
def test_training_draws_masks_of_the_longest_row(mode):
    module = make(mode, 6, 8, 2, **EVERYWHERE)
    packed = pack_sequence([torch.randn(n, 6) for n in (2, 4, 1)], enforce_sorted=False)
    torch.manual_seed(7)
    masks = module.draw(4, 3)
    torch.manual_seed(7)
    assert torch.equal(module(packed)[0].data, module(packed, masks=masks)[0].data)
    with pytest.raises(ValueError, match=r"masks.input\[0\] must be drawn for \[steps, units\] = \[4, 6\]"):
        module(packed, masks=module.draw(3, 3))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", CASES)
@modes
def test_rows_that_have_ended_are_never_read(backend, mode, name):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE, pattern=name).to(backend.dtype)
    x = torch.randn(5, 5, 6, dtype=backend.dtype)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = float("nan")
    x.requires_grad_()
    y, last = module(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False))
    (y.data.sum() + first(last).sum()).backward()
    assert y.data.isfinite().all()
    assert first(last).isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
