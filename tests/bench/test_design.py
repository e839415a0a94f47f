from dataclasses import replace
from itertools import islice

import pytest

from strop.bench.design import KINDS, Point, points, seconds

BASE = Point("nr-st", hidden=512, batch=20, steps=35, p=0.5)
FAST = 1e9  # GFLOP/s


def first(count: int, seed: int = 0) -> list[Point]:
    return list(islice(points(seed), count))


def _varied(made: list[Point], name: str) -> set[float]:
    """The values of an axis at points that are the base in all else."""
    return {
        getattr(point, name)
        for point in made
        if replace(point, kind="nr-st", **{name: getattr(BASE, name)}) == BASE
    }


def test_axes_and_corners_come_first():
    made = first(67)
    assert made[:2] == [BASE, replace(BASE, kind="nr-rh-st")]
    assert len(set(made)) == 67
    for kind in KINDS:
        own = [point for point in made if point.kind == kind]
        varied = {name: _varied(own, name) for name in ("hidden", "batch", "steps", "p", "layers")}
        assert varied["hidden"] == {64, 128, 256, 512, 1024, 2048, 4096}
        assert varied["batch"] == {1, 4, 20, 64, 256}
        assert varied["steps"] == {1, 5, 35, 100, 200}
        assert varied["p"] - {0.0} == {0.1, 0.25, 0.5, 0.75, 0.9, 0.99}
        assert varied["layers"] == {1, 2}
        corners = {(point.hidden, point.batch, point.steps) for point in own if point.p == 0.9}
        assert corners >= {(h, b, t) for h in (64, 4096) for b in (1, 256) for t in (1, 200)}
    assert {point.kind for point in made if not point.p} == {"nr-st"}


def test_the_rest_is_drawn_from_the_seed():
    made = first(500)
    assert made == first(500)
    assert made[:67] == first(67, seed=1)
    drawn = made[67:]
    assert not set(drawn) & set(islice(points(1), 67, 500))
    for point in drawn:
        assert 64 <= point.hidden <= 4096
        assert 1 <= point.batch <= 256
        assert 1 <= point.steps <= 200
        assert 0 < point.p < 1
    assert {(point.kind, point.layers) for point in drawn} == {(kind, n) for kind in KINDS for n in (1, 2)}
    # Even in the logarithm: 512 is in the middle of 64 to 4096.
    assert sum(point.hidden < 512 for point in drawn) == pytest.approx(len(drawn) / 2, rel=0.2)


def test_seconds_by_hand():
    operations = 3 * (2 * 20 * 35) * (4 * 512) * (512 + 512)
    assert seconds(BASE, 100.0, FAST) == pytest.approx(operations / 100e9)
    assert seconds(replace(BASE, layers=2, p=0.9), 100.0, FAST) == pytest.approx(2 * operations / 100e9)
    weights = 2 * 35 * (4 * 512 * 512) * 4
    assert seconds(replace(BASE, batch=1), FAST, 10.0) == pytest.approx(weights / 10e9)


def test_a_point_says_what_is_dropped():
    assert replace(BASE, kind="nr-rh-st").preset.dropout("nr-rh-st") == (0.5, 0.5)
    preset = replace(BASE, layers=2).preset
    assert (preset.nr, preset.rh) == (0.5, 0.0)
    assert preset.sizes == [512, 512, 512]
    assert preset.name == "nr-st 2x512 batch 20 steps 35 p 0.5"
