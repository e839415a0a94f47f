"""Cells as hardware sees them: how many sets of gates, and how many products of the state in a time step."""

from dataclasses import dataclass

from strop.hardware.checks import check_count, check_text
from strop.ops import cells


@dataclass(frozen=True)
class Cell:
    """The weights of a recurrent cell.

    Args:
        name: what it is called.
        gates: sets of ``hidden`` rows in each weight matrix.
        micro_steps: products of the state in one time step, each with weights of its own; the step's input
            enters the first of them. More than 1 in recurrent highway networks (Zilly et al., 2017).
    """

    name: str
    gates: int
    micro_steps: int = 1

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_count("gates", self.gates, most=1000)
        check_count("micro_steps", self.micro_steps, most=1000)


#: By name. The RHN couples its carry gate to the transform gate, and is 10 deep as published.
CELLS = {
    **{cell.name: Cell(cell.name, cell.gates) for cell in cells.CELLS.values()},
    "RHN": Cell("RHN", gates=2, micro_steps=10),
}
