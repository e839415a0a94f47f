"""Learning-rate schedules: pure functions of the position, so a resumed run needs no state of theirs."""

from collections.abc import Callable
from dataclasses import dataclass

#: (epoch counted from 0, step counted from 0) -> factor on the optimiser's own rate.
Schedule = Callable[[int, int], float]


@dataclass(frozen=True)
class EpochDecay:
    """The full rate for `after + 1` epochs, then divided by `factor` before every further `every` epochs.

    As in Zaremba et al.'s program, where the first division follows epoch `after + 1`.
    """

    factor: float
    after: int
    every: int = 1

    def __call__(self, epoch: int, step: int) -> float:
        return self.factor ** (-max(0, epoch - self.after) // self.every)


def constant(epoch: int, step: int) -> float:
    """The optimiser's own rate throughout."""
    return 1.0
