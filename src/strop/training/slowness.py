"""Steps that take many times what they usually take, as beside other work on the machine."""

import os
from statistics import median

_BLOCK = 32  # steps whose median is one measurement of the usual time
_MANY = 4.0  # times the usual: sequences of different lengths stay below that
_WORTH_TELLING = 10.0  # seconds


class SlowSteps:
    """Watches the seconds of a run's steps.

    Attributes:
        lost: seconds beyond the usual ones of steps that took many times these.
    """

    def __init__(self, lost: float = 0.0) -> None:
        self.lost = lost
        self._told_at = lost
        self._usual: float | None = None
        self._block: list[float] = []

    def observe(self, seconds: float) -> str | None:
        """Counts a step; now and then what to tell the user about those so far."""
        self._block.append(seconds)
        if len(self._block) == _BLOCK:
            now = median(self._block)
            self._usual = now if self._usual is None else min(now, self._usual)
            self._block.clear()
        if self._usual is None or seconds < _MANY * self._usual:
            return None
        self.lost += seconds - self._usual
        if self.lost - self._told_at < max(_WORTH_TELLING, self._told_at):
            return None
        self._told_at = self.lost
        return (
            f"{self.lost:.0f} s lost in steps that took more than {_MANY:g} times the usual "
            f"{1e3 * self._usual:.0f} ms{_load()}: end other work on this machine; "
            "a run with --threads 1 suffers least"
        )


def _load() -> str:
    if not hasattr(os, "getloadavg"):
        return ""
    return f" (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
