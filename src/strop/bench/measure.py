"""Interleaved measurements and their percentiles."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

# The phase in which a backend's function does its work (Sarma et al. §3.2).
_OF_ONE = {"forward": "fp", "backward": "bp", "input_grad": "bp", "weight_grad": "wg"}
_PHASES = {**_OF_ONE, **{f"{name}_each": phase for name, phase in _OF_ONE.items()}}

Sample = Mapping[str, float]  # seconds (or another quantity) by name
Case = Callable[[int], Sample]  # one repetition, given its number


@dataclass(frozen=True)
class Percentiles:
    """20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Percentiles":
        ordered = sorted(values)
        return cls(*(_quantile(ordered, q) for q in (0.2, 0.5, 0.8)))


def _quantile(ordered: Sequence[float], q: float) -> float:
    whole, part = divmod(q * (len(ordered) - 1), 1)
    low, high = ordered[int(whole)], ordered[min(int(whole) + 1, len(ordered) - 1)]
    return low + (high - low) * part


class PhaseClock:
    """Adds up the time that a backend's functions take, by phase: a wrapper for `dispatch.wrapped`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)

    def __call__(self, backend: Any) -> "_Timed":
        return _Timed(backend, self)

    def time(self, phase: str, function: Callable[..., Any], *args: Any) -> Any:
        start = now(self._device)
        result = function(*args)
        self._seconds[phase] += now(self._device) - start
        return result

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken


class _Timed:
    def __init__(self, backend: Any, clock: PhaseClock) -> None:
        self._backend, self._clock = backend, clock

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._backend, name)
        if name not in _PHASES:
            return function
        return lambda *args: self._clock.time(_PHASES[name], function, *args)


def now(device: torch.device) -> float:
    """The wall clock in seconds, once all work queued on `device` is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter()


def one_pass(
    model: nn.Module,
    sets: Sequence[tuple[Tensor, Tensor]],
    device: torch.device,
    clock: PhaseClock | None = None,
) -> Case:
    """Forward and backward through a module, as a user calls it; by phase if there is a `clock`.

    Args:
        model: of x to y.
        sets: x and the gradient of y, taken in turn.
    """

    def once(repetition: int) -> Sample:
        x, grad = sets[repetition % len(sets)]
        start = now(device)
        y = model(x)
        forward = now(device)
        y.backward(grad)
        end = now(device)
        # The gradients' memory, as large as the parameters, is not kept while others run.
        model.zero_grad(set_to_none=True)
        x.grad = None
        # torch computes BP and WG in one call, and has no phase but FP: all of its forward.
        phases = {} if clock is None else clock.take() or {"fp": forward - start}
        return {**phases, "overall": end - start}

    return once


class _Progress:
    """Shows a line in place of the last one on a terminal, an empty one at the end; in logs a line now and
    then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = perf_counter() + seconds

    def __call__(self, line: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        elif line and perf_counter() >= self._next:
            self._next = perf_counter() + self._seconds
            print(line, file=sys.stderr, flush=True)


progress = _Progress(seconds=20.0)


def interleave(
    cases: Mapping[str, Case], seconds: float, *, least: int = 5, title: str = "measuring"
) -> dict[str, dict[str, list[float]]]:
    """Runs the cases in turn (A B C A B C …) for about `seconds`, at least `least` rounds after a first
    one that does not count, so that whatever else the machine does falls on all of them alike.

    Args:
        cases: by name.
        seconds: how long, roughly.
        least: rounds.
        title: what the progress display calls it.

    Returns:
        For each case and name in its samples, the values of all rounds.
    """
    samples: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in cases}
    start, repetition = perf_counter(), 0
    while repetition <= least or perf_counter() - start < seconds:
        for name, case in cases.items():
            sample = case(repetition)
            if repetition:
                for key, value in sample.items():
                    samples[name][key].append(value)
        if repetition == 0:
            start = perf_counter()
        took = perf_counter() - start
        limit = f" of {seconds:.0f}" if took < seconds else ""
        progress(f"{title}: round {repetition}, {took:.0f}{limit} s")
        repetition += 1
    progress("")
    return samples
