"""Learning-rate schedules: pure functions of the position, so a resumed run needs no state of theirs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

#: (epoch counted from 0, step counted from 0) -> factor on the optimiser's own rate.
Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class EpochDecay:
    """The full rate for `after + 1` epochs, then divided by `factor` before every further `every` epochs.

    As in Zaremba et al.'s program, where the first division follows epoch `after + 1`.

    Raises ValueError for a factor that is not above 0 and finite, and for `every` below 1.
    """

    factor: float
    after: int
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor: {self.factor}; it must be more than 0, and finite")
        if self.every < 1:
            raise ValueError(f"every: {self.every}; it must be at least 1")

    def __call__(self, epoch: int, step: int) -> float:
        return self.factor ** (-max(0, epoch - self.after) // self.every)


def constant(epoch: int, step: int) -> float:
    """The optimiser's own rate throughout."""
    return 1.0


def evaluation_steps(evaluations: int, steps: int) -> frozenset[int]:
    """After how many of an epoch's `steps` to evaluate: evenly spaced, the last at the end.

    Raises ValueError for more evaluations than steps.
    """
    if evaluations > steps:
        raise ValueError(f"evaluations: {evaluations}; an epoch has {steps} steps, and no more evaluations")
    return frozenset(round(steps / evaluations * (i + 1)) for i in range(evaluations))
