"""What a setting costs on a systolic array: every product in every schedule, and what is best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal

from strop.hardware.arrays import Array
from strop.hardware.memory import memory_words
from strop.hardware.products import PHASES, SCHEDULES, Phase, Schedule, Work, schedules, work
from strop.hardware.settings import Setting
from strop.hardware.systolic import DATAFLOWS, Dataflow, Words, buffer_words, cycles, fetches

#: The schedules, and the fastest of them for each product by itself.
Plan = Literal[Schedule, "best"]


@dataclass(frozen=True)
class Cost:
    """A work on an array, with one dataflow.

    Attributes:
        work: the products.
        dataflow: what stays in the array.
        array: where.
        cycles: of computing.
        stalls: further cycles, waiting for memory. The transfers of a work overlap with its computing.
        sram: words moved between buffers and array.
        dram: words moved from and to memory.
        energy: in the unit of the array's table.
    """

    work: Work
    dataflow: Dataflow
    array: Array
    cycles: int
    stalls: int
    sram: Words
    dram: Words
    energy: float

    @property
    def total(self) -> int:
        """Cycles with stalls."""
        return self.cycles + self.stalls

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.work.macs

    @property
    def utilisation(self) -> float:
        """Multiply-adds over those that the array could have done in the cycles of computing."""
        return self.macs / (self.array.macs * self.cycles)


def cost(work: Work, array: Array, dataflow: Dataflow | Literal["best"] = "best") -> Cost:
    """A work on an array; ``best`` takes the fewest cycles, stalls included, and then the least energy."""
    if dataflow == "best":
        return min((cost(work, array, each) for each in DATAFLOWS), key=lambda it: (it.total, it.energy))
    copies = work.matrix.copies
    taken = copies * sum(cycles(product, array, dataflow) for product in work.products)
    sram = sum((buffer_words(product, array, dataflow) for product in work.products), Words()) * copies
    capacity = Words(*(array.capacity(buffer) for buffer in ("sram_a", "sram_b", "sram_c")))
    dram = memory_words(work, capacity, partial(fetches, array=array, dataflow=dataflow))
    stalls = max(0, ceil(dram.total / array.words_per_cycle) - taken)
    energy = array.energy.of(array.bits, work.macs, sram.a + sram.b, sram.c, dram.total)
    return Cost(work, dataflow, array, taken, stalls, sram, dram, energy)


@dataclass(frozen=True)
class Sum:
    """Several costs in one.

    Attributes:
        cycles: of computing.
        stalls: further cycles, waiting for memory.
        macs: multiply-adds.
        sram: words moved between buffers and array.
        dram: words moved from and to memory.
        energy: in the unit of the array's table.
        utilisation: multiply-adds over those that the array could have done in ``cycles``.
    """

    cycles: int
    stalls: int
    macs: int
    sram: int
    dram: int
    energy: float
    utilisation: float

    @property
    def total(self) -> int:
        """Cycles with stalls."""
        return self.cycles + self.stalls


def add(costs: Iterable[Cost]) -> Sum:
    """The sum of costs on one array, at least one."""
    costs = list(costs)
    taken, macs = sum(each.cycles for each in costs), sum(each.macs for each in costs)
    return Sum(
        taken,
        sum(each.stalls for each in costs),
        macs,
        sum(each.sram.total for each in costs),
        sum(each.dram.total for each in costs),
        sum(each.energy for each in costs),
        macs / (costs[0].array.macs * taken),
    )


@dataclass(frozen=True)
class Analysis:
    """A setting on an array.

    Attributes:
        setting: what is trained.
        array: on what.
        costs: of every layer, matrix and phase, in every schedule that it has.
    """

    setting: Setting
    array: Array
    costs: tuple[Cost, ...]

    def of(self, plan: Plan, phase: Phase | None = None, matrix: str | None = None) -> list[Cost]:
        """The costs of a plan, one for each matrix and phase: of all, or of one phase or kind of matrix.

        In ``best`` each has the schedule of the fewest cycles: dense where skipping does not pay.
        """
        groups: dict[tuple[int, str, Phase], dict[Schedule, Cost]] = {}
        for each in self.costs:
            key = (each.work.layer, each.work.matrix.name, each.work.phase)
            if phase in (None, key[2]) and matrix in (None, key[1]):
                groups.setdefault(key, {})[each.work.schedule] = each
        if plan == "best":
            return [min(group.values(), key=lambda it: (it.total, it.energy)) for group in groups.values()]
        return [group.get(plan, group["kept"]) for group in groups.values()]

    def sum(self, plan: Plan, phase: Phase | None = None, matrix: str | None = None) -> Sum:
        """The sum of ``of``."""
        return add(self.of(plan, phase, matrix))

    def speedup(
        self, plan: Plan, over: Plan = "batched", phase: Phase | None = None, matrix: str | None = None
    ) -> float:
        """How many times fewer cycles ``plan`` takes than ``over``, stalls included."""
        return self.sum(over, phase, matrix).total / self.sum(plan, phase, matrix).total

    @property
    def matrices(self) -> list[str]:
        """Kinds of matrices, in order."""
        return list(dict.fromkeys(each.work.matrix.name for each in self.costs))

    @property
    def schedules(self) -> list[Schedule]:
        """Schedules that some product has."""
        found = {each.work.schedule for each in self.costs}
        return [schedule for schedule in SCHEDULES if schedule in found]

    @property
    def plans(self) -> list[Plan]:
        """The schedules and ``best``."""
        return [*self.schedules, "best"]


def analyse(setting: Setting, array: Array, dataflow: Dataflow | Literal["best"] = "best") -> Analysis:
    """Every product of a training step, in every schedule that it has.

    Args:
        setting: what is trained.
        array: on what.
        dataflow: ``ws``, ``is``, ``os``, or for each product the ``best`` of them.
    """
    costs = [
        cost(work(number, matrix, phase, setting.batch, setting.steps, schedule), array, dataflow)
        for number, layer in enumerate(setting.layers)
        for matrix in layer.matrices()
        for phase in PHASES
        for schedule in schedules(matrix, phase)
    ]
    return Analysis(setting, array, tuple(costs))
