"""Which of several ways to do the same is fastest on a device: measured where it is first met, and kept.

A measurement waits for the device, once for each kind of work. None is made while a CUDA graph is captured
(run the work once before, as torch asks for anyway), nor under ``torch.use_deterministic_algorithms``, as a
choice may change from process to process, and with it the order of sums.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import torch

_log = logging.getLogger("strop")
_REPEATS = 5

T = TypeVar("T")


class Times(NamedTuple):
    """Milliseconds of one way.

    Attributes:
        called: from Python, kernel after kernel.
        queued: on the device alone, as in a CUDA graph.
    """

    called: float
    queued: float


class Choice(NamedTuple):
    """What was measured for a kind of work, by way; a way that failed has said why."""

    what: str
    times: Mapping[str, Times]
    failed: Mapping[str, str]

    def fastest(self, captured: bool) -> str:
        return min(self.times, key=lambda way: self.times[way][captured])

    def __str__(self) -> str:
        """For people: what is taken, and why."""
        ways = [f"{way} {t.called:.3f} ms ({t.queued:.3f} in a graph)" for way, t in self.times.items()]
        ways += [f"{way} not possible ({why})" for way, why in self.failed.items()]
        taken = [self.fastest(captured) for captured in (False, True)]
        graph = "" if taken[0] == taken[1] else f", in a graph {taken[1]}"
        return f"{self.what}: {taken[0]}{graph}. {', '.join(ways)}"


_choices: dict[tuple[Any, ...], Choice] = {}


def choices() -> list[Choice]:
    """All that were made in this process."""
    return list(_choices.values())


def fastest(
    key: tuple[Any, ...],
    what: str,
    ways: Mapping[str, Callable[[], object]],
    device: torch.device,
    unmeasured: str,
) -> str:
    """The name of the fastest of ``ways`` to do one kind of work.

    Args:
        key: of the kind of work: what its time depends on.
        what: the same, for people.
        ways: any may be called any number of times.
        unmeasured: the way to take where nothing can be measured.

    Raises:
        Exception: of the first way, if all of them fail.
    """
    if len(ways) == 1:
        return next(iter(ways))
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if key not in _choices:
        if capturing or torch.are_deterministic_algorithms_enabled():
            return unmeasured
        _choices[key] = _measure(what, ways, device)
        _log.info("%s", _choices[key])
    return _choices[key].fastest(capturing)


def _measure(what: str, ways: Mapping[str, Callable[[], object]], device: torch.device) -> Choice:
    times: dict[str, Times] = {}
    failed: dict[str, str] = {}
    errors: list[Exception] = []
    for way, once in ways.items():
        try:
            times[way] = time_of(once, device)
        except Exception as error:  # of the compiler, or of a launch that asks for too much
            errors.append(error)
            failed[way] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if not times:
        raise errors[0]
    return Choice(what, times, failed)


def time_of(once: Callable[[], object], device: torch.device) -> Times:
    """Medians over a few calls, after one that compiles."""
    with torch.cuda.device(device):
        once()
        torch.cuda.synchronize()
        start = perf_counter()
        called = sorted(_elapsed(once, 0) for _ in range(_REPEATS))[_REPEATS // 2]
        host = (perf_counter() - start) / _REPEATS
        # The device sleeps until the host has queued everything: at most 2 GHz, and twice the time.
        queued = sorted(_elapsed(once, int(4e9 * host)) for _ in range(_REPEATS))[_REPEATS // 2]
    return Times(called, queued)


def _elapsed(once: Callable[[], object], cycles: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if cycles:
        torch.cuda._sleep(cycles)
    begin.record()
    once()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
