"""Operations and bytes of a training step's products: the one place where they are counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from strop.hardware.checks import check_count
from strop.hardware.layers import Layer, Linear
from strop.hardware.products import PHASES, Phase, Schedule, Work, work


@dataclass(frozen=True)
class Count:
    """The products of one weight matrix, or of several, in one phase or in several.

    Attributes:
        macs: multiply-adds.
        a: words of the first factors: x in FP, the gates' gradient in BP, x transposed in WG.
        b: words of the second factors: weights in FP and BP, the gates' gradient in WG.
        c: words of the results: gates in FP, x's gradient in BP, the weights' gradient in WG.
        steps: time steps of the sequence that is counted.
    """

    macs: int
    a: int
    b: int
    c: int
    steps: int

    @property
    def operations(self) -> int:
        """Floating-point operations, two for each multiply-add."""
        return 2 * self.macs

    @property
    def words(self) -> int:
        """Words moved if every product reads its factors and writes its result once."""
        return self.a + self.b + self.c

    @property
    def operations_per_step(self) -> float:
        """Operations of one time step, on average."""
        return self.operations / self.steps

    def bytes(self, width: int = 4) -> int:
        """``words`` of ``width`` bytes each."""
        return width * self.words


def works(
    layers: Sequence[Layer | Linear], batch: int, steps: int, schedule: Schedule = "kept"
) -> list[Work]:
    """The work of every weight matrix in every phase, in the order of layers, matrices and phases.

    Args:
        layers: of the network.
        batch: rows of a time step.
        steps: time steps of the sequence.
        schedule: how products are run.

    Raises:
        TypeError: a size is no integer.
        ValueError: it is below 1.
    """
    check_count("batch", batch)
    check_count("steps", steps)
    return [
        work(number, matrix, phase, batch, steps, schedule)
        for number, layer in enumerate(layers)
        for matrix in layer.matrices()
        for phase in PHASES
    ]


def count(works: Iterable[Work]) -> Count:
    """The sum over works.

    Args:
        works: at least one.
    """
    works = list(works)
    pairs = [(work.matrix.copies * product.times, product) for work in works for product in work.products]
    return Count(
        sum(times * product.m * product.k * product.n for times, product in pairs),
        sum(times * product.m * product.k for times, product in pairs),
        sum(times * product.k * product.n for times, product in pairs),
        sum(times * product.m * product.n for times, product in pairs),
        works[0].steps,
    )


def operations(
    layers: Sequence[Layer | Linear],
    batch: int,
    steps: int,
    schedule: Schedule = "kept",
    phase: Phase | None = None,
) -> int:
    """Floating-point operations of a training step's products: a multiply-add is two.

    Args:
        layers: of the network.
        batch: rows of a time step.
        steps: time steps of the sequence.
        schedule: ``kept`` for kept columns, ``batched`` or ``stepwise`` for all of them.
        phase: ``fp``, ``bp`` or ``wg``; None for all three.

    Raises:
        TypeError: a size is no integer.
        ValueError: it is below 1.
    """
    chosen = [each for each in works(layers, batch, steps, schedule) if phase in (None, each.phase)]
    return count(chosen).operations
