"""Layers as hardware sees them: their weight matrices, and what of each takes part in a product."""

from __future__ import annotations

from dataclasses import dataclass

from strop.hardware.cells import CELLS, Cell
from strop.hardware.checks import check_count, check_share
from strop.pattern import Pattern, check_probability

#: Units whose gates are kept or left out together by sparse gate gradients.
PANEL = 16


@dataclass(frozen=True)
class Drop:
    """Columns of a product's input that are dropped for several rows at once.

    Args:
        p: share of the units that is dropped, in [0, 1).
        block: adjacent units dropped together; it divides the units.
        rows: rows of the batch that share a mask; None for all of them.
        steps: time steps that share a mask; None for the whole sequence.
    """

    p: float
    block: int = 1
    rows: int | None = None
    steps: int | None = 1

    def __post_init__(self) -> None:
        check_probability("p", self.p)
        check_count("block", self.block)
        for name in ("rows", "steps"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    @classmethod
    def of(cls, pattern: Pattern) -> Drop | None:
        """What ``pattern`` drops for several rows at once; None where each row has a mask of its own, or
        nothing is dropped. A pattern that is not exact drops its expected number of units."""
        if pattern.batch_extent is not None or pattern.p == 0:
            return None
        return cls(pattern.p, pattern.block, None, pattern.time_extent)

    def kept(self, units: int) -> int:
        """Of ``units`` units those that a mask keeps. Raises ValueError: ``block`` does not divide them."""
        return Pattern(self.p, block=self.block).kept(units)


@dataclass(frozen=True)
class Matrix:
    """Weights ``[outputs, inputs]`` and how a sequence meets them.

    Attributes:
        name: ``input``, ``recurrent``, ``projection`` or ``output``.
        inputs: columns: units that enter the product.
        outputs: rows: gate columns of the result.
        kept: of the inputs those that a mask keeps.
        drop: which rows share a mask; None where nothing is dropped in columns.
        live: of the outputs those whose gradients take part in BP and WG.
        serial: whether a step's product needs the step before (FP) or after (BP).
        copies: equal matrices of the layer: directions, micro-steps.
    """

    name: str
    inputs: int
    outputs: int
    kept: int
    drop: Drop | None
    live: int
    serial: bool
    copies: int = 1

    @property
    def words(self) -> int:
        """Weights of one copy."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Layer:
    """A recurrent layer. After pruning, its sizes are those that are left; layers may differ.

    Args:
        inputs: units of its input.
        hidden: units of each direction.
        cell: gates and micro-steps.
        directions: 1 or 2, equally wide. Directions of unequal widths are two layers.
        input_drop: what is dropped of the input.
        recurrent_drop: what is dropped of the state on its way to the next step (or micro-step).
        gate_keep: share of the panels of 16 units whose gate gradients take part in BP and WG, chosen anew
            at each step; 1 for all.
        projection: units of the state where it is projected, else None.
    """

    inputs: int
    hidden: int
    cell: Cell = CELLS["LSTM"]
    directions: int = 1
    input_drop: Drop | None = None
    recurrent_drop: Drop | None = None
    gate_keep: float = 1.0
    projection: int | None = None

    def __post_init__(self) -> None:
        check_count("inputs", self.inputs)
        check_count("hidden", self.hidden)
        check_count("directions", self.directions, most=2)
        check_share("gate_keep", self.gate_keep)
        if self.projection is not None:
            check_count("projection", self.projection)
        self.matrices()  # blocks that divide nothing are refused here

    def matrices(self) -> tuple[Matrix, ...]:
        """Its weight matrices, in the order in which a step meets them."""
        gates, state = self.cell.gates, self.projection or self.hidden
        panels = -(-self.hidden // PANEL)
        live = gates * min(self.hidden, PANEL * max(1, int(panels * self.gate_keep + 0.5)))
        outputs = gates * self.hidden
        made = [
            _matrix("input", self.inputs, outputs, self.input_drop, live, False, self.directions),
            _matrix(
                "recurrent",
                state,
                outputs,
                self.recurrent_drop,
                live,
                True,
                self.directions * self.cell.micro_steps,
            ),
        ]
        if self.projection is not None:
            made.append(_matrix("projection", self.hidden, state, None, state, True, self.directions))
        return tuple(made)


@dataclass(frozen=True)
class Linear:
    """A feed-forward layer over every row of a sequence, as the projection onto a vocabulary.

    Args:
        inputs: units of its input.
        outputs: units of its result.
        drop: what is dropped of the input.
    """

    inputs: int
    outputs: int
    drop: Drop | None = None

    def __post_init__(self) -> None:
        check_count("inputs", self.inputs)
        check_count("outputs", self.outputs)
        self.matrices()

    def matrices(self) -> tuple[Matrix, ...]:
        """Its one weight matrix."""
        return (_matrix("output", self.inputs, self.outputs, self.drop, self.outputs, False, 1),)


def _matrix(
    name: str, inputs: int, outputs: int, drop: Drop | None, live: int, serial: bool, copies: int
) -> Matrix:
    drop = None if drop is None or drop.p == 0 else drop
    kept = inputs if drop is None else drop.kept(inputs)
    return Matrix(name, inputs, outputs, kept, drop, live, serial, copies)
