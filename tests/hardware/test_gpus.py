"""Tiles, waves and loops on GPUs."""

from dataclasses import replace

import pytest

from strop.hardware import GPUS, PAPER, Drop, Gpu, Layer, Product, Setting, speedup, tiling, works
from strop.hardware.gpus import seconds, step_seconds

TITAN = GPUS["titan-v"]


def test_the_papers_large_products():
    """FP has 47 tiles in one wave, whose loops get shorter; BP 12 and then 5, whose loops stay."""
    dense, kept = tiling(Product(20, 1500, 6000), TITAN), tiling(Product(20, 525, 6000), TITAN)
    assert (dense.tiles, dense.waves, dense.loop) == (47, 1, 188)
    assert (kept.tiles, kept.waves, kept.loop) == (47, 1, 66)
    dense, kept = tiling(Product(20, 6000, 1500), TITAN), tiling(Product(20, 6000, 525), TITAN)
    assert (dense.tiles, dense.waves, dense.loop) == (12, 1, 750)
    assert (kept.tiles, kept.waves, kept.loop) == (5, 1, 750)
    dense, kept = tiling(Product(1500, 20, 6000), TITAN), tiling(Product(525, 20, 6000), TITAN)
    assert (dense.tiles, dense.waves, dense.loop) == (564, 8, 3)
    assert (kept.tiles, kept.waves, kept.loop) == (235, 3, 3)


def test_loads_and_stores():
    tiles = tiling(Product(200, 30, 300), TITAN)  # 2 x 3 tiles
    assert tiles.tiles == 6
    assert tiles.loads == 200 * 30 * 3 + 30 * 300 * 2
    assert tiles.stores == 200 * 300
    one = tiling(Product(1, 1, 1), TITAN)
    assert vars(one) == {"tiles": 1, "waves": 1, "loop": 1, "loads": 2, "stores": 1}


def test_splitting_the_sum_makes_bp_gain():
    """BP lacks tiles: with its sum in 16 parts 192 of them are three waves, and 80 of kept columns one."""
    large = PAPER["zaremba-large"].setting()
    split = replace(TITAN, split=16)
    assert tiling(Product(20, 6000, 1500), split).waves == 3
    assert tiling(Product(20, 6000, 525), split).waves == 1
    assert speedup(large, TITAN, "stepwise", "bp") == pytest.approx(1, abs=0.01)
    assert speedup(large, split, "stepwise", "bp") > 2
    # No more parts than turns.
    assert tiling(Product(20, 8, 6000), split).tiles == 47


def test_seconds_by_hand():
    """One wave: 188 turns of 2 * 128 * 128 * 8 operations at an 80th of the peak, and 0.12 M words stored."""
    (work, *_) = works([Layer(1500, 1500)], 20, 1)
    turn = 2 * 128 * 128 * 8 * 80 / 14.9e12
    stores = 20 * 6000 * 4 / 653e9
    assert seconds(work, TITAN) == pytest.approx(188 * turn + stores)
    # Memory so slow that loading is longer than the loop.
    slow = replace(TITAN, bandwidth=1.0)
    words = 20 * 1500 + 1500 * 6000 + 20 * 6000
    assert seconds(work, slow) == pytest.approx(words * 4 / 1e9)
    cached = replace(TITAN, l2_bandwidth=1.0)
    loads = 20 * 1500 * 47 + 1500 * 6000
    assert seconds(work, cached) == pytest.approx((loads + 20 * 6000) * 4 / 1e9)


def test_a_step_is_the_sum_of_its_phases():
    setting = Setting("small", (Layer(64, 64, input_drop=Drop(0.5)),), 4, 5)
    for gpu in GPUS.values():
        parts = sum(step_seconds(setting, gpu, "kept", phase) for phase in ("fp", "bp", "wg"))
        assert step_seconds(setting, gpu, "kept") == pytest.approx(parts)


def test_presets():
    assert {name: gpu.multiprocessors for name, gpu in GPUS.items()} == {
        "titan-v": 80,
        "a100": 108,
        "h100": 132,
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"multiprocessors": 0}, ValueError, "multiprocessors: 0"),
        ({"tile": (128, 128)}, ValueError, r"tile: \(128, 128\); rows, columns and depth are needed"),
        ({"tile": "128x128x8"}, ValueError, "tile: '128x128x8'"),
        ({"tile": (128, 0, 8)}, ValueError, "tile: 0"),
        ({"teraflops": 0}, ValueError, "teraflops: 0"),
        ({"bandwidth": float("inf")}, ValueError, "bandwidth: inf"),
        ({"l2": -1}, ValueError, "l2: -1"),
        ({"l2_bandwidth": "much"}, TypeError, "l2_bandwidth: 'much'"),
        ({"bits": 4}, ValueError, "bits: 4"),
        ({"split": 0}, ValueError, "split: 0"),
    ],
    ids=str,
)
def test_gpus_that_make_no_sense_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        replace(TITAN, **change)


def test_a_tile_may_be_a_list():
    assert Gpu("mine", 4, [64, 64, 8], 1, 100, 1, 500).tile == (64, 64, 8)  # pyright: ignore
