"""Skipping against dense products on systolic arrays: where it wins, where it loses, and what helps.

2 x 1500 units are the paper's large model: batch 20, 35 steps, 525 units kept. Thousands of cycles are those
of one matrix in the best dataflow.
"""

from dataclasses import replace

import pytest

from strop.hardware import PAPER, Drop, Layer, Product, Setting, analyse, find_array, remedies
from strop.hardware.analysis import Analysis
from strop.hardware.remedies import is_trapped
from strop.hardware.report import advice
from strop.hardware.systolic import cycles

LARGE = Layer(1500, 1500, input_drop=Drop(0.65), recurrent_drop=Drop(0.65))
# Memory that nothing waits for: cycles of the array alone.
WIDE = replace(find_array("128x128"), bandwidth=1e12)
NARROW = replace(WIDE, rows=32, columns=32)


def large(batch: int = 20, array=WIDE, **drop) -> Analysis:
    return analyse(Setting("large", (LARGE,), batch, 35).dropping(**drop), array)


def kilocycles(analysis: Analysis, phase, plan, matrix="input") -> int:
    return round(analysis.sum(plan, phase, matrix).cycles / 1e3)


@pytest.mark.parametrize(
    ("phase", "flow", "batched", "stepwise", "kept"),
    [("fp", "is", 460, 2680, 1117), ("bp", "os", 450, 2627, 1094), ("wg", "is", 460, 2680, 1117)],
)
def test_the_trap(phase, flow, batched, stepwise, kept):
    """A mask for each step: 20 rows in place of 700. Skipping takes 2.4 times as long as not skipping."""
    analysis = large()
    assert kilocycles(analysis, phase, "batched") == batched
    assert kilocycles(analysis, phase, "stepwise") == stepwise
    assert kilocycles(analysis, phase, "kept") == kept
    (dense,) = analysis.of("batched", phase, "input")
    assert dense.dataflow == flow
    assert round(analysis.speedup("kept", "stepwise", phase, "input"), 2) == 2.40
    assert round(analysis.speedup("kept", "batched", phase, "input"), 2) == 0.41
    assert is_trapped(analysis)


def test_the_recurrent_direction_gains_in_any_case():
    """It waits for each step, dense or not; its weights' gradient does not."""
    analysis = large()
    for phase in ("fp", "bp"):
        assert round(analysis.speedup("kept", "batched", phase, "recurrent"), 2) == 2.40
    assert round(analysis.speedup("kept", "batched", "wg", "recurrent"), 2) == 0.41


def test_each_product_is_run_as_is_fastest():
    analysis = large()
    chosen = {(cost.work.phase, cost.work.matrix.name): cost.work.schedule for cost in analysis.of("best")}
    assert {key for key, schedule in chosen.items() if schedule == "kept"} == {
        ("fp", "recurrent"),
        ("bp", "recurrent"),
    }
    assert analysis.speedup("best") > max(1, analysis.speedup("kept"))
    trap, skip = advice(analysis)
    assert "FP 0.41x, BP 0.41x, WG 0.41x" in trap
    assert "the product of one mask has 40 rows" in advice(large(steps=2))[0]
    assert skip.startswith("Skip in FP recurrent, BP recurrent, run the rest dense")
    (skip,) = advice(large(array=NARROW))
    assert skip.startswith("Skip everywhere: the step is 2.")
    (skip,) = advice(analyse(Setting("plain", (Layer(650, 650),), 128, 35), NARROW))
    assert skip == "Skip nowhere: dense products are faster in every phase."


def test_remedy_of_smaller_arrays():
    analysis = large(array=NARROW)
    assert kilocycles(analysis, "fp", "batched") == 6301
    assert kilocycles(analysis, "fp", "stepwise") == 10_025
    assert kilocycles(analysis, "fp", "kept") == 3626
    assert round(analysis.speedup("kept", "stepwise", "fp", "input"), 2) == 2.76
    assert round(analysis.speedup("kept", "batched", "fp", "input"), 2) == 1.74
    assert not is_trapped(analysis)


def test_remedy_of_more_rows():
    analysis = large(batch=128)
    assert kilocycles(analysis, "fp", "batched") == kilocycles(analysis, "fp", "stepwise") == 2680
    assert kilocycles(analysis, "fp", "kept") == 1117
    assert round(analysis.speedup("kept", "batched", "fp", "input"), 2) == 2.40


def test_remedy_of_masks_for_several_steps():
    """7 steps are 140 rows, two folds of 128; 6 steps are 120, which one fold holds."""
    seven = large(steps=7)
    assert kilocycles(seven, "fp", "kept") == 319
    assert round(seven.speedup("kept", "batched", "fp", "input"), 2) == 1.44
    assert round(large(steps=6).speedup("kept", "batched", "fp", "input"), 2) == 2.40


def test_remedy_of_blocks_as_large_as_the_array():
    """WG with outputs stationary: for each block of units one product over the rows that keep it."""
    rows = 245  # 35 % of 35 steps of 20
    blocks = 12 * cycles(Product(128, rows, 6000), WIDE, "os")
    dense = cycles(Product(1500, 700, 6000), WIDE, "os")
    assert (round(blocks / 1e3), round(dense / 1e3), round(dense / blocks, 2)) == (281, 538, 1.91)
    blocked = large(block=125)
    for phase in ("fp", "bp", "wg"):
        # 4 of 12 blocks are kept; 240 or 220 rows are two folds of 128, as 700 are six.
        assert blocked.speedup("blocks", "batched", phase, "input") == pytest.approx(3, rel=0.01)


def test_remedies_are_listed_with_their_figures():
    setting = PAPER["zaremba-large"].setting()
    found = {each.name: each for each in remedies(setting, WIDE)}
    assert list(found) == [
        "as it is",
        "16 arrays of 32x32",
        "batch 128",
        "a mask for 6 steps",
        "blocks of 125 units",
    ]
    ratios = [round(each.over_batched("fp"), 2) for each in found.values()]
    assert ratios == [0.41, 1.61, 2.40, 2.40, 3.00]
    assert all(each.best >= found["as it is"].best for each in found.values())
    assert round(found["as it is"].over_stepwise("fp"), 2) == 2.40


def test_no_remedy_where_nothing_is_dropped_or_rows_are_enough():
    plain = Setting("plain", (Layer(650, 650),), 128, 35)
    assert [each.name for each in remedies(plain, NARROW)] == ["as it is"]
    assert not is_trapped(analyse(plain, NARROW))
    one = Setting("one step", (LARGE,), 20, 1)
    assert "a mask for" not in " ".join(each.name for each in remedies(one, WIDE))


def test_steps_of_folds():
    """1500 to 525 units: 12 to 5 folds of 128 (2.40), 47 to 17 of 32 (2.76), 6 to 3 of 256 (2.00)."""
    for side, ratio in ((128, 2.40), (32, 2.76), (256, 2.00)):
        analysis = large(array=replace(WIDE, rows=side, columns=side))
        assert round(analysis.speedup("kept", "stepwise", "fp", "recurrent"), 2) == ratio


def test_double_buffered_weights_do_not_save_it():
    buffered = analyse(Setting("large", (LARGE,), 20, 35), replace(WIDE, double_buffered=True), "ws")
    assert kilocycles(buffered, "fp", "kept") == 1062
    assert kilocycles(buffered, "fp", "batched") == 395
