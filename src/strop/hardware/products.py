"""The matrix products of a training step, by phase, and the schedules in which they can be run."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from strop.hardware.layers import Drop, Matrix

Phase = Literal["fp", "bp", "wg"]
PHASES: tuple[Phase, ...] = ("fp", "bp", "wg")

Schedule = Literal["batched", "stepwise", "kept", "blocks"]
#: What each schedule computes.
SCHEDULES: dict[Schedule, str] = {
    "batched": "dense, all steps at once",
    "stepwise": "dense, step by step",
    "kept": "kept columns, mask by mask",
    "blocks": "kept columns, block by block",
}


@dataclass(frozen=True)
class Product:
    """Products of a matrix A ``[m, k]`` and a matrix B ``[k, n]``.

    Attributes:
        m: rows of A.
        k: columns of A, rows of B.
        n: columns of B.
        times: how many there are.
    """

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def macs(self) -> int:
        """Multiply-adds of all of them."""
        return self.times * self.m * self.k * self.n


@dataclass(frozen=True)
class Work:
    """The products of one weight matrix in one phase of a training step.

    In FP and BP their B is the weights, in WG their C is the weights' gradient: one matrix for all products.

    Attributes:
        layer: its number, from 0.
        matrix: the weights.
        phase: ``fp``, ``bp`` or ``wg``.
        schedule: how the products are run.
        products: of one copy of the matrix.
        rows: rows of the whole sequence, steps times batch.
        steps: time steps of the sequence.
    """

    layer: int
    matrix: Matrix
    phase: Phase
    schedule: Schedule
    products: tuple[Product, ...]
    rows: int
    steps: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all copies."""
        return self.matrix.copies * sum(product.macs for product in self.products)


def schedules(matrix: Matrix, phase: Phase) -> tuple[Schedule, ...]:
    """The schedules that a matrix has in a phase: ``blocks`` only where columns are dropped in blocks and
    nothing depends on the step before."""
    has_blocks = bool(_products(matrix, phase, 1, 1, "blocks"))
    return tuple(schedule for schedule in SCHEDULES if has_blocks or schedule != "blocks")


def work(layer: int, matrix: Matrix, phase: Phase, batch: int, steps: int, schedule: Schedule) -> Work:
    """The products of a matrix in one phase; a matrix without the schedule ``blocks`` runs ``kept`` there.

    What depends on the step before, FP and BP of the recurrent direction, is not batched over steps in any
    schedule. Dense products stand for masks of every kind: dropped units are zeros among the others. Where
    nothing is dropped, ``kept`` is step by step.
    """
    if schedule not in schedules(matrix, phase):
        schedule = "kept"
    products = _products(matrix, phase, batch, steps, schedule)
    return Work(layer, matrix, phase, schedule, products, batch * steps, steps)


def _products(
    matrix: Matrix, phase: Phase, batch: int, steps: int, schedule: Schedule
) -> tuple[Product, ...]:
    serial = matrix.serial and phase != "wg"
    if schedule == "batched":
        rows = Counter({batch: steps} if serial else {batch * steps: 1})
        return _dense(matrix, phase, rows)
    if schedule == "stepwise":
        return _dense(matrix, phase, Counter({batch: steps}))
    if schedule == "blocks":
        return () if serial else _by_block(matrix, phase, batch, steps)
    live = matrix.live if phase != "fp" else matrix.outputs
    # Panels of gates are chosen anew at each step, whatever the mask of the input.
    own = live < matrix.outputs
    drop = matrix.drop or Drop(0.0)
    row_groups = _groups(batch, drop.rows)
    step_groups = _groups(steps, 1 if serial or own else drop.steps)
    rows = Counter[int]()
    for size, number in row_groups.items():
        for length, times in step_groups.items():
            rows[size * length] += number * times
    return tuple(_product(phase, size, matrix.kept, live, times) for size, times in rows.items())


def _dense(matrix: Matrix, phase: Phase, rows: Counter[int]) -> tuple[Product, ...]:
    return tuple(_product(phase, size, matrix.inputs, matrix.outputs, times) for size, times in rows.items())


def _by_block(matrix: Matrix, phase: Phase, batch: int, steps: int) -> tuple[Product, ...]:
    """A product for each block of units, over all rows whose masks keep it.

    Masks keep a block equally often, as nearly as whole masks allow: what draws give on average. Empty
    where nothing is dropped in blocks, or gates are left out step by step.
    """
    drop = matrix.drop
    if drop is None or drop.block == 1 or (phase != "fp" and matrix.live < matrix.outputs):
        return ()
    blocks, kept = matrix.inputs // drop.block, matrix.kept // drop.block
    masks = _masks(batch, drop.rows) * _masks(steps, drop.steps)
    # Of masks * kept places a block has as many as another, or one more.
    least, more = divmod(masks * kept, blocks)
    rows = Counter[int]()
    for places, number in ((least, blocks - more), (least + 1, more)):
        rows[round(batch * steps * places / masks)] += number
    return tuple(
        _product(phase, size, drop.block, matrix.outputs, times)
        for size, times in rows.items()
        if size and times
    )


def _masks(whole: int, extent: int | None) -> int:
    return 1 if extent is None else -(-whole // extent)


def _groups(whole: int, extent: int | None) -> Counter[int]:
    """Sizes of the groups that ``whole`` is cut into: as large as ``extent``, the last one what is left."""
    extent = whole if extent is None else min(extent, whole)
    groups = Counter({extent: whole // extent})
    if whole % extent:
        groups[whole % extent] += 1
    return groups


def _product(phase: Phase, rows: int, columns: int, outputs: int, times: int) -> Product:
    """FP ``[rows, columns] · [columns, outputs]``, BP and WG in the order of their factors."""
    if phase == "fp":
        return Product(rows, columns, outputs, times)
    if phase == "bp":
        return Product(rows, outputs, columns, times)
    return Product(columns, rows, outputs, times)
