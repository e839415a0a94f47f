"""What helps where skipping loses: changes of the array, the batch or the mask, each with its figures.

A mask for each time step keeps the products of the input, and those of all weights' gradients, from being
run over all steps at once, as dense products are. With fewer rows a mask than the array has rows, skipping
then takes longer than not skipping.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from strop.hardware.analysis import Analysis, analyse
from strop.hardware.arrays import Array
from strop.hardware.layers import Drop, Layer, Linear
from strop.hardware.products import PHASES, Phase, Schedule
from strop.hardware.settings import Setting
from strop.hardware.systolic import Dataflow

#: Rows and columns of the arrays that stand in for a larger one.
_SMALL = 32


@dataclass(frozen=True)
class Remedy:
    """A change, and the analysis of what it makes.

    Attributes:
        name: the change, or ``as it is``.
        analysis: of the changed setting on the changed array.
        schedule: of its skipping products.
    """

    name: str
    analysis: Analysis
    schedule: Schedule = "kept"

    def over_batched(self, phase: Phase) -> float:
        """How many times faster skipping is than dense products over all steps, for the input."""
        kind = self.analysis.matrices[0]
        return self.analysis.speedup(self.schedule, "batched", phase, kind)

    def over_stepwise(self, phase: Phase) -> float:
        """How many times faster skipping is than dense products step by step, for the input."""
        kind = self.analysis.matrices[0]
        return self.analysis.speedup(self.schedule, "stepwise", phase, kind)

    @property
    def best(self) -> float:
        """How many times faster the whole is than dense, if each product is run as is fastest for it."""
        return self.analysis.speedup("best")


def is_trapped(analysis: Analysis) -> bool:
    """Whether skipping takes longer than dense products over all steps, in some phase of the input."""
    kind = analysis.matrices[0]
    if all(cost.work.matrix.drop is None for cost in analysis.of("kept", matrix=kind)):
        return False
    return any(analysis.speedup("kept", "batched", phase, kind) < 1 for phase in PHASES)


def remedies(setting: Setting, array: Array, dataflow: Dataflow | Literal["best"] = "best") -> list[Remedy]:
    """The setting as it is, and with each remedy that changes something.

    Args:
        setting: what is trained.
        array: on what.
        dataflow: ``ws``, ``is``, ``os``, or for each product the ``best`` of them.
    """
    made = [Remedy("as it is", analyse(setting, array, dataflow))]
    small = replace(array, name=f"{_SMALL}x{_SMALL}", rows=_SMALL, columns=_SMALL)
    number = array.macs // small.macs
    if number > 1:
        small = replace(small, count=number)
        made.append(Remedy(f"{number} arrays of {small.name}", analyse(setting, small, dataflow)))
    rows = array.rows
    if setting.batch < rows:
        larger = replace(setting, batch=rows)
        made.append(Remedy(f"batch {rows}", analyse(larger, array, dataflow)))
    shared = _steps_that_fill(rows, setting.batch, setting.steps)
    if shared > 1:
        made.append(
            Remedy(f"a mask for {shared} steps", analyse(setting.dropping(steps=shared), array, dataflow))
        )
    blocked = replace(setting, layers=tuple(_blocked(layer, rows) for layer in setting.layers))
    if blocked != setting:
        sizes = sorted({drop.block for layer in blocked.layers for drop in _drops(layer)})
        name = f"blocks of {' and '.join(map(str, sizes))} units"
        made.append(Remedy(name, analyse(blocked, array, dataflow), "blocks"))
    return made


def _steps_that_fill(rows: int, batch: int, steps: int) -> int:
    """The fewest steps whose rows fill nine tenths of the array's rows, or of a multiple of them; 1 if one
    step does, or the sequence is too short."""
    most = min(steps, 10 * -(-rows // batch))
    return next((n for n in range(1, most + 1) if n * batch >= 0.9 * rows * -(-n * batch // rows)), 1)


def _drops(layer: Layer | Linear) -> list[Drop]:
    drops = [layer.drop] if isinstance(layer, Linear) else [layer.input_drop, layer.recurrent_drop]
    return [drop for drop in drops if drop is not None]


def _blocked(layer: Layer | Linear, most: int) -> Layer | Linear:
    """With masks in the largest blocks of at most ``most`` units that divide the units."""
    if isinstance(layer, Linear):
        return replace(layer, drop=_block(layer.drop, layer.inputs, most))
    state = layer.projection or layer.hidden
    return replace(
        layer,
        input_drop=_block(layer.input_drop, layer.inputs, most),
        recurrent_drop=_block(layer.recurrent_drop, state, most),
    )


def _block(drop: Drop | None, units: int, most: int) -> Drop | None:
    if drop is None:
        return None
    return replace(drop, block=max(size for size in range(1, min(most, units) + 1) if units % size == 0))
