"""Operations and bytes: by hand, and against masks that are drawn."""

from dataclasses import replace

import pytest
import torch

from strop import Pattern
from strop.hardware import CELLS, Cell, Count, Drop, Layer, Linear, Product, Setting, count, operations, works
from strop.hardware.products import SCHEDULES, Work
from strop.ops import cells

SMALL = Layer(6, 8, input_drop=Drop(0.5), recurrent_drop=Drop(0.25))


def products(layer, phase, matrix="input", batch=3, steps=5, schedule="kept") -> tuple[Product, ...]:
    found = works([layer], batch, steps, schedule)
    return next(work.products for work in found if (work.phase, work.matrix.name) == (phase, matrix))


def test_the_three_products_of_a_mask():
    assert products(SMALL, "fp") == (Product(3, 3, 32, 5),)
    assert products(SMALL, "bp") == (Product(3, 32, 3, 5),)
    assert products(SMALL, "wg") == (Product(3, 3, 32, 5),)
    assert products(SMALL, "fp", "recurrent") == (Product(3, 6, 32, 5),)
    assert products(SMALL, "bp", "recurrent") == (Product(3, 32, 6, 5),)
    assert products(SMALL, "wg", "recurrent") == (Product(6, 3, 32, 5),)


def test_dense_products():
    assert products(SMALL, "fp", schedule="batched") == (Product(15, 6, 32),)
    assert products(SMALL, "wg", "recurrent", schedule="batched") == (Product(8, 15, 32),)
    assert products(SMALL, "fp", "recurrent", schedule="batched") == (Product(3, 8, 32, 5),)
    assert products(SMALL, "bp", schedule="stepwise") == (Product(3, 32, 6, 5),)


def test_the_count_of_a_layer():
    made = works([SMALL], 3, 5)
    assert [(work.phase, work.matrix.name) for work in made] == [
        ("fp", "input"),
        ("bp", "input"),
        ("wg", "input"),
        ("fp", "recurrent"),
        ("bp", "recurrent"),
        ("wg", "recurrent"),
    ]
    forward = count(made[:1])
    assert forward == Count(macs=3 * 3 * 32 * 5, a=3 * 3 * 5, b=3 * 32 * 5, c=3 * 32 * 5, steps=5)
    assert forward.operations == 2 * forward.macs
    assert forward.operations_per_step == forward.operations / 5
    assert forward.words == 45 + 480 + 480
    assert forward.bytes() == 4 * forward.words
    assert forward.bytes(2) == 2 * forward.words
    assert operations([SMALL], 3, 5) == 2 * 3 * 5 * 32 * (3 + 6) * 3
    assert operations([SMALL], 3, 5, phase="wg") == 2 * 3 * 5 * 32 * (3 + 6)


@pytest.mark.parametrize("name", ["structured", "fixed", "random", "variational"])
@pytest.mark.parametrize("block", [1, 2])
def test_counts_are_those_of_drawn_masks(name, block):
    """Multiplications of the columns that a mask shared by the batch keeps, and of all where it is not."""
    pattern = Pattern.named(name, 0.6, block=block)
    steps, units, batch = 7, 10, 4
    mask = pattern.draw(steps, units, batch, generator=torch.Generator().manual_seed(0))
    assert mask is not None
    columns = steps * units if mask.index is None else int(mask.dense().ne(0).sum())
    layer = Layer(units, 3, input_drop=Drop.of(pattern))
    (work,) = [
        each for each in works([layer], batch, steps) if (each.phase, each.matrix.name) == ("fp", "input")
    ]
    assert work.macs == columns * batch * 12


def test_patterns_as_hardware_sees_them():
    assert Drop.of(Pattern.named("structured", 0.5)) == Drop(0.5)
    assert Drop.of(Pattern.named("fixed", 0.5, block=4)) == Drop(0.5, 4, None, None)
    assert Drop.of(Pattern.named("variational", 0.5)) is None
    assert Drop.of(Pattern(0.0)) is None
    assert Drop.of(Pattern(0.5, exact=False)) == Drop(0.5)


def test_schedules_differ_in_rows_not_in_arithmetic():
    for phase in ("fp", "bp", "wg"):
        assert operations([SMALL], 3, 5, "batched", phase) == operations([SMALL], 3, 5, "stepwise", phase)
    blocked = Layer(12, 8, input_drop=Drop(0.5, block=3))
    assert operations([blocked], 4, 6, "blocks") == operations([blocked], 4, 6, "kept")
    assert SCHEDULES.keys() == {"batched", "stepwise", "kept", "blocks"}


def test_masks_shared_by_some_rows_or_steps():
    rows = Layer(6, 8, input_drop=Drop(0.5, rows=2))
    assert products(rows, "fp") == (Product(2, 3, 32, 5), Product(1, 3, 32, 5))
    steps = Layer(6, 8, input_drop=Drop(0.5, steps=2), recurrent_drop=Drop(0.5, steps=2))
    assert products(steps, "fp") == (Product(6, 3, 32, 2), Product(3, 3, 32))
    # FP and BP of the recurrent direction wait for each step; WG does not.
    assert products(steps, "fp", "recurrent") == (Product(3, 4, 32, 5),)
    assert products(steps, "wg", "recurrent") == (Product(4, 6, 32, 2), Product(4, 3, 32))
    whole = Layer(6, 8, input_drop=Drop(0.5, steps=None))
    assert products(whole, "fp") == (Product(15, 3, 32),)
    # More rows or steps than there are.
    assert products(Layer(6, 8, input_drop=Drop(0.5, rows=99, steps=99)), "fp") == (Product(15, 3, 32),)


def test_block_by_block():
    """6 steps keep 2 of 4 blocks: each block 3 steps of 5 rows."""
    layer = Layer(8, 4, input_drop=Drop(0.5, block=2))
    assert products(layer, "fp", batch=5, steps=6, schedule="blocks") == (Product(15, 2, 16, 4),)
    assert products(layer, "bp", batch=5, steps=6, schedule="blocks") == (Product(15, 16, 2, 4),)
    assert products(layer, "wg", batch=5, steps=6, schedule="blocks") == (Product(2, 15, 16, 4),)
    # 5 steps are 10 places for 4 blocks: two have 3, two have 2.
    assert products(layer, "fp", batch=5, steps=5, schedule="blocks") == (
        Product(10, 2, 16, 2),
        Product(15, 2, 16, 2),
    )
    # Without blocks, or where a step waits for another, it is mask by mask.
    assert products(SMALL, "fp", schedule="blocks") == products(SMALL, "fp")
    serial = Layer(8, 8, recurrent_drop=Drop(0.5, block=2))
    assert products(serial, "fp", "recurrent", schedule="blocks") == products(serial, "fp", "recurrent")
    assert products(serial, "wg", "recurrent", schedule="blocks") != products(serial, "wg", "recurrent")


def test_sparse_gate_gradients():
    """Panels of 16 units with all their gates, in BP and WG: half of columns and panels leave a quarter."""
    layer = Layer(64, 64, input_drop=Drop(0.5), recurrent_drop=Drop(0.5), gate_keep=0.5)
    assert products(layer, "fp") == (Product(3, 32, 256, 5),)
    assert products(layer, "bp") == (Product(3, 128, 32, 5),)
    assert products(layer, "wg") == (Product(32, 3, 128, 5),)
    dense = operations([Layer(64, 64)], 3, 5)
    shares = {
        (keep, gate): operations(
            [
                Layer(
                    1600,
                    1600,
                    input_drop=Drop(1 - keep) if keep < 1 else None,
                    recurrent_drop=Drop(1 - keep) if keep < 1 else None,
                    gate_keep=gate,
                )
            ],
            20,
            35,
        )
        / operations([Layer(1600, 1600)], 20, 35)
        for keep in (1, 0.5, 0.35)
        for gate in (1, 0.5, 0.2)
    }
    assert {key: round(share, 3) for key, share in shares.items()} == {
        (1, 1): 1,
        (1, 0.5): 0.667,
        (1, 0.2): 0.467,
        (0.5, 1): 0.5,
        (0.5, 0.5): 0.333,
        (0.5, 0.2): 0.233,
        (0.35, 1): 0.35,
        (0.35, 0.5): 0.233,
        (0.35, 0.2): 0.163,
    }
    # A new choice at each step: no batching over steps, whatever the mask of the input.
    fixed = replace(layer, input_drop=Drop(0.5, steps=None))
    assert products(fixed, "fp") == (Product(15, 32, 256),)
    assert products(fixed, "wg") == (Product(32, 3, 128, 5),)
    # The last panel may have fewer units, and one panel stays.
    assert products(Layer(64, 20, gate_keep=0.01), "bp") == (Product(3, 64, 64, 5),)
    assert products(Layer(64, 20, gate_keep=1.0), "bp") == (Product(3, 80, 64, 5),)
    assert products(Layer(64, 5, gate_keep=0.01), "bp") == (Product(3, 20, 64, 5),)
    assert operations([replace(layer, gate_keep=1.0)], 3, 5) == dense // 2


def test_cells():
    assert {name: cell.gates for name, cell in CELLS.items() if name != "RHN"} == {
        name: cell.gates for name, cell in cells.CELLS.items()
    }
    dense = {name: operations([Layer(6, 8, cell)], 3, 5, phase="fp") for name, cell in CELLS.items()}
    assert dense["LSTM"] == 2 * 3 * 5 * 32 * 14
    assert dense["GRU"] == dense["LSTM"] * 3 // 4
    assert dense["RNN_TANH"] == dense["LSTM"] // 4
    # Ten micro-steps, each with weights of its own; the input enters the first.
    assert dense["RHN"] == 2 * 3 * 5 * 16 * (6 + 10 * 8)
    assert dense["RHN"] == operations([Layer(6, 8, Cell("deep", 2, 10))], 3, 5, phase="fp")


def test_directions_widths_and_projections():
    one = operations([Layer(6, 8)], 3, 5)
    assert operations([Layer(6, 8, directions=2)], 3, 5) == 2 * one
    # After pruning layers have sizes of their own, and two directions too.
    pruned = [Layer(6, 5), Layer(6, 3), Layer(8, 7)]
    gates = 4 * (5 * (6 + 5) + 3 * (6 + 3) + 7 * (8 + 7))
    assert operations(pruned, 3, 5) == 3 * 2 * 15 * gates
    projected = operations([Layer(6, 8, projection=2)], 3, 5)
    assert projected == 3 * 2 * 15 * (32 * (6 + 2) + 2 * 8)
    assert operations([Linear(6, 9, Drop(0.5))], 3, 5) == 3 * 2 * 15 * 9 * 3


def test_size_one_of_everything():
    for schedule in SCHEDULES:
        assert operations([Layer(1, 1, input_drop=Drop(0.9))], 1, 1, schedule) == 2 * 3 * 4 * 2


def test_a_work_knows_its_copies():
    work = works([Layer(6, 8, CELLS["RHN"], directions=2)], 3, 5)[3]
    assert isinstance(work, Work)
    assert (work.matrix.name, work.matrix.copies, work.rows, work.steps) == ("recurrent", 20, 15, 5)
    assert work.macs == 20 * 5 * 3 * 8 * 16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Layer(0, 8), ValueError, "inputs: 0; it must be from 1"),
        (lambda: Layer(6, -1), ValueError, "hidden: -1"),
        (lambda: Layer(6, 8.0), TypeError, "hidden: 8.0; an integer is needed"),  # pyright: ignore
        (lambda: Layer(6, True), TypeError, "hidden: True; an integer is needed"),
        (
            lambda: Layer(6, 10**30),
            ValueError,
            "hidden: 1000000000000000000000000000000; it must be from 1 to",
        ),
        (lambda: Layer(6, 8, directions=3), ValueError, "directions: 3"),
        (lambda: Layer(6, 8, gate_keep=0.0), ValueError, r"gate_keep: 0.0; a share in \(0, 1\] is needed"),
        (lambda: Layer(6, 8, gate_keep=float("nan")), ValueError, "gate_keep: nan; a finite number"),
        (lambda: Layer(6, 8, gate_keep="all"), TypeError, "gate_keep: 'all'; a number is needed"),  # pyright: ignore
        (lambda: Layer(6, 8, projection=0), ValueError, "projection: 0"),
        (lambda: Layer(6, 8, input_drop=Drop(0.5, block=4)), ValueError, "block=4 for 6 units"),
        (lambda: Drop(1.0), ValueError, r"p must be in \[0, 1\), got 1.0"),
        (lambda: Drop("half"), TypeError, "p must be a number"),  # pyright: ignore
        (lambda: Drop(0.5, rows=0), ValueError, "rows: 0"),
        (lambda: Drop(0.5, steps=0), ValueError, "steps: 0"),
        (lambda: Drop(0.5, block=0), ValueError, "block: 0"),
        (lambda: Cell("", 4), ValueError, "name: it is empty"),
        (lambda: Cell("odd", 0), ValueError, "gates: 0"),
        (lambda: Cell("odd", 1, 0), ValueError, "micro_steps: 0"),
        (lambda: Linear(0, 5), ValueError, "inputs: 0"),
        (lambda: Linear(5, 0), ValueError, "outputs: 0"),
        (lambda: Setting("none", (), 20, 35), ValueError, "layers: there are none"),
        (lambda: Setting("none", (Layer(6, 8),), 0, 35), ValueError, "batch: 0"),
        (lambda: Setting("none", (Layer(6, 8),), 20, 0), ValueError, "steps: 0"),
        (lambda: works([Layer(6, 8)], 0, 5), ValueError, "batch: 0"),
        (lambda: works([Layer(6, 8)], 5, 0), ValueError, "steps: 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
