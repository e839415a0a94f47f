"""Measuring which of several ways to do the same is fastest on a device: only if somebody asks for it.

A rule from sizes names the way that runs. With ``autotune`` the ways are timed where a kind of work is first
met, and the fastest is kept: another process may then take another way, which sums in another order. So
nothing is timed under ``torch.use_deterministic_algorithms``, nor where something observes torch's operations
(``TorchDispatchMode``, by which activation checkpointing compares two runs). What is known already is taken,
but nothing timed, under a profiler or anomaly detection, and while a CUDA graph is captured: run the work
once before, as torch asks for anyway.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import torch

autotune = False
"""Switches timing on: set by ``strop.backends.autotune``."""

_log = logging.getLogger("strop")
_ROUNDS, _REPEATS = 2, 5
_MOST_CYCLES = (
    10**8
)  # some 50 ms: under a sanitizer the host takes seconds, and the device would sleep as long

T = TypeVar("T")


class Times(NamedTuple):
    """Milliseconds of one way.

    Attributes:
        called: from Python, kernel after kernel.
        queued: on the device alone, as in a CUDA graph; on a CPU the same.
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
        ways = [
            f"{way} {t.called:.3f} ms" + (f" ({t.queued:.3f} in a graph)" if t.queued != t.called else "")
            for way, t in self.times.items()
        ]
        ways += [f"{way} not possible ({why})" for way, why in self.failed.items()]
        taken = [self.fastest(captured) for captured in (False, True)]
        graph = "" if taken[0] == taken[1] else f", in a graph {taken[1]}"
        return f"{self.what}: {taken[0]}{graph}. {', '.join(ways)}"


_choices: dict[Hashable, Choice] = {}
_lock = RLock()  # other threads would disturb what is measured; ways may hold choices of their own


def _after_fork() -> None:
    """Another thread of the parent, which the child has not, may have held the lock."""
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def choices() -> list[Choice]:
    """All that were made in this process."""
    return list(_choices.values())


def fastest(
    key: Hashable,
    what: Callable[[], str],
    ways: Mapping[str, Callable[[], object]],
    device: torch.device,
    rule: str,
) -> str:
    """The name of the way to take of ``ways`` for one kind of work: the rule's, or with autotune the fastest.

    Args:
        key: of the kind of work: what its time depends on.
        what: says the same for people.
        ways: any may be called any number of times.
        rule: the way to take where nothing is timed.

    Raises:
        Exception: of the first way, if all of them fail; on a CPU of any.
    """
    if len(ways) == 1:
        return next(iter(ways))
    if not timing():
        return rule
    capturing = is_capturing(device)
    if key not in _choices:
        profiled = torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
        if capturing or profiled or torch.is_anomaly_enabled():
            return rule
        with _lock, _unseen():
            if key not in _choices:
                _choices[key] = _measure(what(), ways, device)
                _log.info("%s", _choices[key])
    return _choices[key].fastest(capturing)


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured on ``device``, which need not be the current one."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def timing() -> bool:
    """True where timing is switched on and may be used here and now."""
    return autotune and not (
        torch.are_deterministic_algorithms_enabled() or torch._C._len_torch_dispatch_stack()
    )


def _unseen() -> AbstractContextManager[Any]:
    """Hides what autograd saves from hooks, such as those of activation checkpointing, which count it."""
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _same(tensor: T) -> T:
    return tensor


def _measure(what: str, ways: Mapping[str, Callable[[], object]], device: torch.device) -> Choice:
    times: dict[str, Times] = {}
    failed: dict[str, str] = {}
    errors: list[Exception] = []
    for way, once in ways.items():
        try:
            times[way] = time_of(once, device)
        except Exception as error:
            if device.type == "cpu" or not _is_of_a_launch(error):
                raise
            torch.cuda.synchronize(device)  # raises where the device answers nothing any more
            errors.append(error)
            failed[way] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if not times:
        raise errors[0]
    for _ in range(_ROUNDS - 1):  # in turn, against what else the machine does
        for way in times:
            times[way] = Times(*map(min, times[way], time_of(ways[way], device)))
    return Choice(what, times, failed)


def _is_of_a_launch(error: Exception) -> bool:
    """Of a compiler, or of a launch that asks for too much; not of a signal's handler, say."""
    return isinstance(error, RuntimeError) or type(error).__module__.split(".")[0] == "triton"


def time_of(once: Callable[[], object], device: torch.device) -> Times:
    """Of a few calls, after one that compiles: the median on a GPU, the least on a CPU, which others use."""
    if device.type == "cpu":
        once()
        called = min(_elapsed_here(once) for _ in range(_REPEATS))
        return Times(called, called)
    with torch.cuda.device(device):
        once()
        torch.cuda.synchronize()
        start = perf_counter()
        called = sorted(_elapsed(once, 0) for _ in range(_REPEATS))[_REPEATS // 2]
        host = (perf_counter() - start) / _REPEATS
        # The device sleeps until the host has queued everything: at most 2 GHz, and twice the time.
        queued = sorted(_elapsed(once, min(int(4e9 * host), _MOST_CYCLES)) for _ in range(_REPEATS))[
            _REPEATS // 2
        ]
    return Times(called, queued)


def _elapsed_here(once: Callable[[], object]) -> float:
    start = perf_counter()
    once()
    return 1e3 * (perf_counter() - start)


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
