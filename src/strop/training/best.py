"""Which evaluation was the best so far."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Best:
    """The best row of a curve by `column`, and how many evaluations came after it."""

    column: str
    goal: Literal["min", "max"]
    row: dict[str, float] = field(default_factory=dict)
    waited: int = 0

    @property
    def step(self) -> int | None:
        return int(self.row["step"]) if self.row else None

    def observe(self, row: dict[str, float]) -> bool:
        """Takes note of an evaluation; whether it is better than all before."""
        better = not self.row or self._loss(row) < self._loss(self.row)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.row = row
        return better

    def _loss(self, row: dict[str, float]) -> float:
        return row[self.column] if self.goal == "min" else -row[self.column]
