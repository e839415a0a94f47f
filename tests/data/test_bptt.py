import pytest
import torch

from strop.data.bptt import VaryingWindows
from strop.data.text import DataError, batchify


def columns(rows, batch=3):
    return batchify(torch.arange(rows * batch), batch)


@pytest.mark.parametrize(("rows", "steps"), [(11_620, 70), (500, 70), (40, 5), (9, 1), (2, 70), (3, 1)])
def test_every_word_is_a_target_once_an_epoch(rows, steps):
    text = columns(rows)
    varying = VaryingWindows(text, steps, seed=1)
    for epoch in (0, 1, 7):
        windows = [varying.window(epoch, index) for index in range(len(varying))]
        assert torch.equal(torch.cat([x for x, _ in windows]), text[:-1])
        assert torch.equal(torch.cat([y for _, y in windows]), text[1:])
        assert [len(x) for x, _ in windows] == list(varying.lengths(epoch))
        assert min(varying.lengths(epoch)) >= 1


def test_lengths_are_those_of_the_published_program():
    varying = VaryingWindows(columns(200_000, 1), 70, seed=0)
    lengths = torch.tensor(varying.lengths(0), dtype=torch.float64)
    halved = lengths < 52
    assert 0.03 < halved.double().mean() < 0.07
    assert lengths[~halved].mean() == pytest.approx(70, abs=1)
    assert lengths[~halved].std() == pytest.approx(5, rel=0.1)
    assert lengths[halved].mean() == pytest.approx(35, abs=2)


def test_lengths_differ_by_epoch_and_seed_and_are_drawn_alike_again():
    text = columns(5000)
    first, again, other = (
        VaryingWindows(text, 70, 0),
        VaryingWindows(text, 70, 0),
        VaryingWindows(text, 70, 1),
    )
    assert first.lengths(0) != first.lengths(1)
    assert first.lengths(3) != other.lengths(3)
    assert again.lengths(3) == first.lengths(3)
    before = torch.get_rng_state()
    first.lengths(9)
    assert torch.equal(torch.get_rng_state(), before)


def test_any_seed_of_torchs_has_lengths_of_its_own():
    text = columns(5000)
    seeds = (0, 99_999_999_999_999, 2**63 - 1, -1, 2**43)
    drawn = {tuple(VaryingWindows(text, 70, seed).lengths(0)) for seed in seeds}
    assert len(drawn) == len(seeds)


def test_a_longer_window_takes_a_longer_step():
    varying = VaryingWindows(columns(5000), 70, seed=0)
    for epoch in (0, 2):
        for index in (0, len(varying) - 1):
            x, _ = varying.window(epoch, index)
            assert varying.rate(epoch, epoch * len(varying) + index) == len(x) / 70


def test_refusals():
    with pytest.raises(DataError, match="steps: 0"):
        VaryingWindows(columns(10), 0, 0)
    with pytest.raises(DataError, match="columns: 1 rows"):
        VaryingWindows(torch.zeros(1, 3), 5, 0)
