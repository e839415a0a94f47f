"""Drawing: what is kept, how often, and independent of what."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from strop.ops import dispatch, native, selection
from strop.pattern import CASES, Mask, Pattern, draw_all

SHARED = ["structured", "fixed"]
OWN = ["random", "variational"]


def z_bound(comparisons: int) -> float:
    """The |z| that the largest of so many normal deviates exceeds by chance once in a million (Bonferroni).

    Seeds are fixed, so this is not how often a test fails, but how sure it is that a failure is real.
    """
    return -NormalDist().inv_cdf(0.5e-6 / comparisons)


def drawn(pattern: Pattern, *args, **kwargs) -> Mask:
    mask = pattern.draw(*args, **kwargs)
    assert mask is not None
    return mask


def kept_matrix(mask: Mask) -> Tensor:
    """bool ``[steps, batch or 1, units]``, through the public dense multiplier."""
    return mask.dense() != 0


@given(
    name=st.sampled_from(sorted(CASES)),
    exact=st.booleans(),
    p=st.floats(0.001, 0.999),
    steps=st.integers(1, 5),
    batch=st.integers(1, 4),
    blocks=st.integers(1, 9),
    block=st.integers(1, 3),
)
def test_every_mask_is_sound(name, exact, p, steps, batch, blocks, block):
    pattern = Pattern.named(name, p, block, exact)
    units = blocks * block
    mask = drawn(pattern, steps, units, batch)
    assert (mask.steps, mask.batch, mask.units) == (steps, batch, units)
    assert mask.scale == pattern.scale(units)
    dense = mask.dense(torch.float64)
    assert dense.shape == (steps, 1 if name in SHARED else batch, units)
    assert ((dense == 0) | (dense == mask.scale)).all()
    kept = dense != 0
    # Blocks stand and fall together.
    assert torch.equal(kept, kept[..., ::block].repeat_interleave(block, -1))
    if pattern.time_extent is None:
        assert torch.equal(kept, kept[:1].expand_as(kept))
    if exact:
        assert (kept.sum(-1) == pattern.kept(units)).all()
        assert mask.count is None
    if name in OWN:
        assert mask.index is None
        assert mask.keep is not None
        assert mask.keep.dtype == torch.bool
        assert mask.keep.shape == (steps if pattern.time_extent == 1 else 1, batch, units)
        return
    assert mask.keep is None
    assert mask.index is not None
    assert mask.index.dtype == torch.int32
    assert mask.index.is_contiguous()
    for t, row in enumerate(mask.index.tolist()):
        count = len(row) if mask.count is None else int(mask.count[t])
        assert row[:count] == kept[t, 0].nonzero().flatten().tolist()
        assert row[count:] == [units] * (len(row) - count)
    if mask.count is not None:
        assert mask.count.dtype == torch.int32
        assert mask.count.shape == (steps,)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_nothing_is_drawn_for_p_zero(name, exact):
    state = torch.get_rng_state()
    assert Pattern.named(name, 0.0, exact=exact).draw(3, 4, 2) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("p", "units", "block", "kept"),
    [
        (0.5, 650, 1, 325),
        (0.65, 1500, 1, 525),
        (0.5, 7, 1, 4),
        (0.999999, 50, 1, 1),
        (0.999999, 48, 8, 8),
        (0.5, 1, 1, 1),
        (0.001, 50, 1, 50),
        (0.25, 16, 4, 12),
    ],
)
def test_exact_counts(p, units, block, kept):
    pattern = Pattern(p, block=block)
    assert pattern.kept(units) == kept
    assert pattern.scale(units) == units / kept
    assert drawn(pattern, 5, units, 2).index.shape == (5, kept)


def test_bernoulli_keeps_none_and_all():
    assert drawn(Pattern(0.999999, exact=False), 4, 3, 2).index.shape == (4, 0)
    nearly_all = drawn(Pattern(1e-9, exact=False), 4, 3, 2)
    assert nearly_all.index.tolist() == [[0, 1, 2]] * 4
    assert nearly_all.scale == pytest.approx(1)
    one_unit = drawn(Pattern(0.5, exact=False), 64, 1, 1)
    assert set(one_unit.count.tolist()) == {0, 1}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.65, 0.95])
def test_every_unit_is_kept_equally_often(name, exact, p):
    units, rows = 60, 4000
    pattern = Pattern.named(name, p, exact=exact)
    own, per_step = name in OWN, pattern.time_extent == 1
    if own and per_step:
        kept = kept_matrix(drawn(pattern, rows // 8, units, 8)).view(-1, units)
    elif own:
        kept = kept_matrix(drawn(pattern, 2, units, rows))[0]
    elif per_step:
        kept = kept_matrix(drawn(pattern, rows, units, 3))[:, 0]
    else:
        rows = 1000
        kept = torch.stack([kept_matrix(drawn(pattern, 2, units, 3))[0, 0] for _ in range(rows)])
    probability = pattern.kept(units) / units if exact else 1 - p
    z = (kept.sum(0) - rows * probability) / math.sqrt(rows * probability * (1 - probability))
    assert z.abs().max() < z_bound(units)


@pytest.mark.parametrize("block", [1, 2])
def test_every_choice_is_equally_likely(block):
    """All 6 ways to keep 2 blocks of 4: chi-square with 5 degrees of freedom, 35.9 is its 1e-6 tail."""
    rows = 6000
    mask = drawn(Pattern(0.5, block=block), rows, 4 * block, 1)
    code = (kept_matrix(mask)[:, 0, ::block].long() * torch.tensor([1, 2, 4, 8])).sum(1)
    counts = torch.bincount(code, minlength=16)
    counts = counts[counts > 0].double()
    assert len(counts) == 6
    assert ((counts - rows / 6) ** 2 / (rows / 6)).sum() < 35.9


@pytest.mark.parametrize("exact", [True, False])
def test_structured_masks_are_independent_across_time(exact):
    """The overlap of two steps is what chance gives, at several lags: mean, and variance of that mean."""
    units, steps, p = 200, 2000, 0.6
    pattern = Pattern(p, exact=exact)
    kept = kept_matrix(drawn(pattern, steps, units, 1))[:, 0].double()
    if exact:  # hypergeometric
        share = pattern.kept(units) / units
        mean = units * share * share
        variance = mean * (1 - share) * (units - share * units) / (units - 1)
    else:
        share = (1 - p) ** 2
        mean, variance = units * share, units * share * (1 - share)
    lags = [1, 2, 3, 7, 100]
    for lag in lags:
        overlap = (kept[lag:] * kept[:-lag]).sum(1)
        # Pairs of one lag share a step, which leaves their overlaps uncorrelated if exact; twice covers both.
        z = (overlap.mean() - mean) / math.sqrt((1 if exact else 3) * variance / len(overlap))
        assert abs(z) < z_bound(len(lags))
    assert not torch.equal(kept[0], kept[1])


def test_rows_of_random_masks_are_independent():
    kept = kept_matrix(drawn(Pattern.named("random", 0.5), 500, 100, 4)).double()
    agree = (kept[:, 0] * kept[:, 1]).sum()
    n = 500 * 100
    assert abs(agree - n / 4) / math.sqrt(n * 3 / 16) < z_bound(1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("p", [0.3, 0.65, 0.97])
def test_the_scaled_product_is_unbiased(name, exact, p):
    """The mean over draws of (x * mask) @ w is x @ w, within what its own spread allows."""
    units, outputs, draws = 40, 5, 3000
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(units, generator=generator, dtype=torch.float64)
    w = torch.randn(units, outputs, generator=generator, dtype=torch.float64)
    pattern = Pattern.named(name, p, exact=exact)
    if pattern.time_extent == 1:
        masks = drawn(pattern, draws, units, 1, generator=generator).dense(torch.float64)[:, 0]
    elif name == "variational":
        masks = drawn(pattern, 1, units, draws, generator=generator).dense(torch.float64)[0]
    else:
        rows = [drawn(pattern, 1, units, 1, generator=generator).dense(torch.float64) for _ in range(draws)]
        masks = torch.cat(rows)[:, 0]
    products = (x * masks) @ w
    z = (products.mean(0) - x @ w) / (products.std(0) / math.sqrt(draws))
    assert z.abs().max() < z_bound(outputs)


def test_exact_counts_survive_ties(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, generator=None: self.fill_(2**31 - 1))
    mask = drawn(Pattern(0.5), 3, 10, 1)
    assert mask.index.tolist() == [list(range(5))] * 3


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_generator_and_global_seed_govern(name, exact):
    pattern = Pattern.named(name, 0.5, exact=exact)

    def by_global(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return drawn(pattern, 4, 50, 3).dense()

    def by_generator(seed: int) -> Tensor:
        return drawn(pattern, 4, 50, 3, generator=torch.Generator().manual_seed(seed)).dense()

    assert torch.equal(by_global(1), by_global(1))
    assert not torch.equal(by_global(1), by_global(2))
    state = torch.get_rng_state()
    assert torch.equal(by_generator(1), by_generator(1))
    assert not torch.equal(by_generator(1), by_generator(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_named_draws_as_the_papers_do():
    assert Pattern.named("structured", 0.5) == Pattern(0.5, None, 1, 1, True)
    assert Pattern.named("fixed", 0.5).exact
    assert not Pattern.named("random", 0.5).exact
    assert not Pattern.named("variational", 0.5).exact
    assert [Pattern.named(name, 0.5).name for name in CASES] == list(CASES)


@pytest.mark.parametrize("p", [float("nan"), 1.0, 1.5, -0.1, float("inf")])
def test_probabilities_out_of_range_are_refused(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\), got"):
        Pattern(p)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": "0.5"}, TypeError, "p must be a number"),
        ({"p": True}, TypeError, "p must be a number"),
        ({"p": None}, TypeError, "p must be a number"),
        ({"p": 0.5, "block": 0}, ValueError, "block must be at least 1, got 0"),
        ({"p": 0.5, "block": 2.0}, TypeError, "block must be an int"),
        ({"p": 0.5, "batch_extent": 2}, ValueError, "batch_extent must be 1 or None"),
        ({"p": 0.5, "time_extent": 0}, ValueError, "time_extent must be 1 or None"),
        ({"p": 0.5, "exact": 1}, TypeError, "exact must be a bool"),
    ],
    ids=str,
)
def test_bad_patterns_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Pattern(**arguments)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 4, 1), "steps must be at least 1, got 0"),
        ((1, 0, 1), "units must be at least 1, got 0"),
        ((1, 4, 0), "batch must be at least 1, got 0"),
        ((1, 5, 1), "block must divide the number of units, got block=2 for 5 units"),
    ],
    ids=str,
)
def test_bad_sizes_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        Pattern(0.5, block=2).draw(*size)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one of random, variational, structured, fixed, got 'blocks'"):
        Pattern.named("blocks", 0.5)


@pytest.mark.parametrize(
    ("index", "count", "keep", "message"),
    [
        (None, None, None, "either index or keep"),
        (torch.zeros(2, 1), None, torch.zeros(2, 3, 4), "either index or keep"),
        (torch.zeros(3, 1), None, None, r"index must be \[2, width\], got \[3, 1\]"),
        (torch.zeros(2), None, None, r"index must be \[2, width\], got \[2\]"),
        (torch.zeros(2, 1), torch.zeros(3), None, r"count must be \[2\], got \[3\]"),
        (None, None, torch.zeros(2, 1, 4), r"keep must be \[2 or 1, 3, 4\], got \[2, 1, 4\]"),
    ],
    ids=str,
)
def test_masks_that_contradict_themselves_are_refused(index, count, keep, message):
    with pytest.raises(ValueError, match=message):
        Mask(2, 3, 4, 1.0, index, count, keep)


@pytest.mark.skipif(not dispatch.available("native"), reason="no native kernels")
@pytest.mark.parametrize(
    ("rows", "columns", "kept"), [(1, 1, 1), (3, 7, 7), (35, 650, 325), (9, 1500, 2), (20, 3, 1)]
)
@pytest.mark.parametrize("distinct", [1, 3, 2**20])
def test_every_backend_chooses_the_same_units(rows, columns, kept, distinct):
    keys = torch.randint(-distinct, distinct, (rows, columns), dtype=torch.int32)
    expected = keys.sort(dim=1, stable=True).indices[:, :kept].sort(1).values
    for module in (native, selection):
        chosen = module.smallest(keys, kept)
        assert chosen.dtype == torch.int32
        assert torch.equal(chosen.long(), expected), module.__name__


def test_masks_of_a_kind_are_drawn_at_once_where_kernels_cost():
    """On a device that is no CPU; each has its own steps' lists."""
    half, quarter = (Pattern.named("structured", p) for p in (0.5, 0.25))
    kinds = [(half, 10), (quarter, 10), (half, 10), (Pattern.named("structured", 0.0), 10)]
    kinds += [(Pattern.named("fixed", 0.5), 10), (Pattern.named("random", 0.5), 10), (half, 8)]
    for device in ("cpu", "meta"):
        masks = draw_all(kinds, 4, 3, device=device)
        for (pattern, units), mask in zip(kinds, masks, strict=True):
            assert (mask is None) == (pattern.p == 0)
            if mask is None:
                continue
            assert (mask.steps, mask.batch, mask.units) == (4, 3, units)
            if pattern.name == "structured":
                assert mask.index is not None
                assert mask.index.shape == (4, pattern.kept(units))
                assert mask.index.is_contiguous()
    torch.manual_seed(0)
    at_once = draw_all(kinds[:3], 4, 3)
    torch.manual_seed(0)
    for mask, (pattern, units) in zip(at_once, kinds[:3], strict=True):
        assert torch.equal(mask.index, pattern.draw(4, units, 3).index)
