"""Words from and to memory, stalls and energy."""

from dataclasses import replace

import pytest

from strop.hardware import (
    ENERGIES,
    Array,
    Drop,
    Energy,
    Layer,
    Linear,
    Product,
    Setting,
    analyse,
    find_array,
    works,
)
from strop.hardware.analysis import cost
from strop.hardware.memory import memory_words
from strop.hardware.systolic import Words

LARGE = Layer(1500, 1500, input_drop=Drop(0.65), recurrent_drop=Drop(0.65))
ROOM = Words(10**9, 10**9, 10**9)
NONE = Words(0, 0, 0)


def once(product: Product) -> Words:
    return Words(1, 1, 1)


def moved(phase, schedule, room, layer=LARGE, matrix="input"):
    found = works([layer], 20, 35, schedule)
    (work,) = [each for each in found if (each.phase, each.matrix.name) == (phase, matrix)]
    return memory_words(work, room, once)


def test_weights_that_stay_on_the_chip_come_once():
    assert moved("fp", "batched", NONE).b == 9_000_000
    assert moved("fp", "stepwise", NONE).b == 35 * 9_000_000
    assert moved("fp", "kept", NONE).b == 35 * 525 * 6000 == 110_250_000
    for schedule in ("batched", "stepwise", "kept"):
        assert moved("fp", schedule, ROOM).b == 9_000_000
        assert moved("bp", schedule, ROOM).b == 9_000_000
    # Of a matrix that is never read whole, what is read: the kept columns of one mask.
    fixed = replace(LARGE, input_drop=Drop(0.65, steps=None))
    assert moved("fp", "kept", ROOM, fixed).b == 525 * 6000
    just = Words(0, 9_000_000, 0)
    assert moved("fp", "kept", just).b == 9_000_000
    assert moved("fp", "kept", Words(0, 8_999_999, 0)).b == 110_250_000


def test_activations_move_as_they_are_needed():
    dense, kept = (moved("fp", schedule, ROOM) for schedule in ("batched", "kept"))
    assert (dense.a, dense.c) == (700 * 1500, 700 * 6000)
    assert (kept.a, kept.c, kept.c_read) == (700 * 525, 700 * 6000, 0)
    backward = moved("bp", "kept", ROOM)
    assert (backward.a, backward.c) == (700 * 6000, 700 * 525)


def test_gradients_of_weights_are_added_to():
    """In memory unless they stay: read and written by each step's product."""
    assert moved("wg", "batched", NONE) == Words(700 * 1500, 700 * 6000, 9_000_000, 0)
    assert moved("wg", "stepwise", NONE) == Words(700 * 1500, 700 * 6000, 35 * 9_000_000, 35 * 9_000_000)
    assert moved("wg", "kept", NONE) == Words(700 * 525, 700 * 6000, 110_250_000, 110_250_000)
    assert moved("wg", "kept", ROOM) == Words(700 * 525, 700 * 6000, 9_000_000, 0)


def test_block_by_block():
    """Each block of WG is written once; FP adds to its gates block by block, BP reads its gradient so."""
    layer = replace(LARGE, input_drop=Drop(0.65, block=125))
    kept = 700 * 500
    assert moved("wg", "blocks", NONE, layer) == Words(kept, 4 * 700 * 6000, 9_000_000, 0)
    forward = moved("fp", "blocks", NONE, layer)
    assert forward == Words(kept, 9_000_000, 4 * 700 * 6000, 4 * 700 * 6000)
    assert moved("fp", "blocks", ROOM, layer) == Words(kept, 9_000_000, 700 * 6000, 0)
    assert moved("bp", "blocks", NONE, layer) == Words(4 * 700 * 6000, 9_000_000, kept, 0)
    assert moved("bp", "blocks", ROOM, layer) == Words(700 * 6000, 9_000_000, kept, 0)


def test_copies_have_weights_of_their_own():
    both = replace(LARGE, directions=2)
    assert moved("fp", "kept", ROOM, both) == 2 * moved("fp", "kept", ROOM)


def test_energy_of_forward_by_hand():
    """45 nm, float32, weights from memory: 29.0 mJ of multiply-adds and 5.8 of weights dense over all steps,
    10.1 and 70.6 on kept columns step by step. Skipping costs energy where weights do not stay."""
    table = ENERGIES["45nm"]
    dense, kept = 700 * 1500 * 6000, 700 * 525 * 6000
    assert round(table.of(32, dense, 0, 0, 0) / 1e9, 1) == 29.0
    assert round(table.of(32, kept, 0, 0, 0) / 1e9, 1) == 10.1
    assert round(table.of(32, 0, 0, 0, moved("fp", "batched", NONE).b) / 1e9, 1) == 5.8
    assert round(table.of(32, 0, 0, 0, moved("fp", "kept", NONE).b) / 1e9, 1) == 70.6
    assert round(table.of(32, 0, 9_000_000, 0, 0) / 1e9, 3) == 0.045
    assert round(table.of(32, 0, 0, 110_250_000, 0) / 1e9, 2) == 0.55
    array = replace(find_array("edge"), bits=32)
    analysis = analyse(Setting("large", (LARGE,), 20, 35), array)
    # A small buffer: the weights do not stay, and the dense product over all steps takes less energy.
    assert analysis.sum("kept", "fp", "input").dram > analysis.sum("kept", "fp", "input").macs / 50
    roomy = replace(array, sram_b=128 * 1024)
    resident = analyse(Setting("large", (LARGE,), 20, 35), roomy)
    assert resident.sum("kept", "fp", "input").energy < analysis.sum("kept", "fp", "input").energy / 2


def test_published_energies():
    horowitz, tpu, eyeriss = (ENERGIES[name] for name in ("45nm", "tpu-v4i", "eyeriss"))
    assert {bits: round(energy, 2) for bits, energy in horowitz.mac.items()} == {8: 0.23, 16: 1.5, 32: 4.6}
    # SRAM and DRAM of 32 bits; of a word of 16 bits relative to its multiply-add.
    assert [32 * each for each in (horowitz.sram_read, horowitz.sram_write, horowitz.dram)] == [5, 5, 640]
    assert [16 * each for each in (eyeriss.sram_read, eyeriss.sram_write, eyeriss.dram)] == [6, 6, 200]
    assert (tpu.mac[8], tpu.sram_read, tpu.sram_write, tpu.dram) == (0.084, 0.249, 0.293, 7.03)
    assert eyeriss.of(16, 10, 1, 1, 1) == 10 + 6 + 6 + 200
    assert all(table.source for table in ENERGIES.values())


def test_stalls():
    """What memory takes longer than computing does; with a faster memory nothing waits."""
    (work, *_) = works([Linear(64, 64)], 4, 1)
    array = Array("small", 8, 8, clock=1.0, bandwidth=1.0, bits=16)  # half a word a cycle
    slow = cost(work, array, "ws")
    words = 4 * 64 + 64 * 64 + 4 * 64
    assert slow.dram.total == words
    assert slow.total == 2 * words
    assert slow.stalls == 2 * words - slow.cycles > 0
    fast = cost(work, replace(array, bandwidth=1000.0), "ws")
    assert (fast.cycles, fast.stalls) == (slow.cycles, 0)
    assert fast.utilisation == slow.utilisation == work.macs / (64 * slow.cycles)


def test_best_is_the_fastest_with_its_stalls():
    for array in (find_array("128x128"), find_array("eyeriss"), replace(find_array("edge"), bandwidth=0.1)):
        for work in works([LARGE], 20, 35, "stepwise"):
            best = cost(work, array)
            flows = [cost(work, array, flow) for flow in ("ws", "is", "os")]
            assert best.total == min(each.total for each in flows)
            assert best in flows
            assert all(0 < each.utilisation <= 1 for each in flows)
            assert all(each.dram.total >= work.matrix.words for each in flows)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": 0}, ValueError, "rows: 0; it must be from 1 to 65,536"),
        ({"columns": -3}, ValueError, "columns: -3"),
        ({"rows": 2.5}, TypeError, "rows: 2.5; an integer is needed"),
        ({"count": 0}, ValueError, "count: 0"),
        ({"clock": 0.0}, ValueError, "clock: 0.0; it must be more than 0"),
        ({"clock": float("inf")}, ValueError, "clock: inf; a finite number is needed"),
        ({"clock": "fast"}, TypeError, "clock: 'fast'; a number is needed"),
        ({"bandwidth": float("nan")}, ValueError, "bandwidth: nan"),
        ({"bandwidth": -1}, ValueError, "bandwidth: -1"),
        ({"sram_a": 0}, ValueError, "sram_a: 0"),
        ({"sram_b": 1, "rows": 4096}, ValueError, "sram_b: 1 KiB; half of it holds 256 words of 16 bits"),
        ({"bits": 0}, ValueError, "bits: 0"),
        ({"bits": 12}, ValueError, "bits: 12; the energy table 45nm has words of 8, 16, 32 bits only"),
        ({"double_buffered": 1}, TypeError, "double_buffered: 1; true or false is needed"),
        ({"energy": "45nm"}, TypeError, "energy: '45nm'; a table of energies is needed"),
        ({"name": ""}, ValueError, "name: it is empty"),
    ],
    ids=str,
)
def test_arrays_that_hold_nothing_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        replace(Array("mine", 8, 8, sram_a=64, sram_b=64, sram_c=64), **change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (({}, 1, 1, 1), "mac: it is empty"),
        (({16: -1.0}, 1, 1, 1), "mac.16: -1.0"),
        (({16: 1.0}, 0, 1, 1), "sram_read: 0"),
        (({16: 1.0}, 1, 1, float("nan")), "dram: nan"),
    ],
)
def test_energies_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Energy("mine", *values)


@pytest.mark.parametrize(
    "name", ["0x8", "8x0", "8", "8x8x8", "x", "-8x8", "99999999999999999999x1", "tpu", "", "٣x٣"]
)
def test_names_of_arrays(name):
    with pytest.raises(ValueError, match=r"^(array|rows|columns): "):
        find_array(name)


def test_sizes_as_names():
    array = find_array("64x16")
    assert (array.rows, array.columns, array.name) == (64, 16, "64x16")
    assert array.bandwidth == find_array("128x128").bandwidth
    assert find_array("tpu-v1").double_buffered
