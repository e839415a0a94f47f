"""Where the time of a training step goes."""

import time
from array import array
from collections.abc import Mapping
from typing import Any

import torch

PHASES: tuple[str, ...] = ("data", "forward", "backward", "optimiser")
GRAPH: tuple[str, ...] = ("data", "graph")
"""The phases of a step that is captured, and has no others to be told apart."""


class StepClock:
    """Times the phases of training steps; whatever happens between `start` and the last `lap` counts.

    On a CUDA device the laps are events in its stream, read when `settle` is called, so timing does not
    make the host wait.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._samples: dict[str, array[float]] = {}
        self._earlier_ms: dict[str, float] = {}
        self._device = device
        self._on_device = device.type == "cuda"
        self._last: Any = 0.0  # a time, or an event
        self._open: list[tuple[str, Any, Any]] = []

    def start(self) -> None:
        self._last = self._now()

    def lap(self, phase: str) -> None:
        """Ends `phase`, which began at the last lap or start."""
        last, now = self._last, self._now()
        self._last = now
        if self._on_device:
            self._open.append((phase, last, now))
        else:
            self._add(phase, now - last)

    def settle(self) -> None:
        """Waits for the device, and counts what was pending."""
        if self._open:
            self._open[-1][2].synchronize()
            for phase, start, end in self._open:
                self._add(phase, start.elapsed_time(end) / 1e3)
            self._open.clear()

    def total(self) -> float:
        """Seconds of training so far, of a resumed run's earlier parts too."""
        return sum(self.seconds.values())

    def go_on_from(self, seconds: Mapping[str, float], medians_ms: Mapping[str, float]) -> None:
        """Counts on from the `seconds` of an earlier part of the run; its medians until a step is made."""
        self.seconds = dict(seconds)
        self._earlier_ms = dict(medians_ms)

    def medians_ms(self) -> dict[str, float]:
        """Median milliseconds of each phase and of a whole `step`, over the steps of the latest process."""
        phases = GRAPH if GRAPH[-1] in self._samples else PHASES
        if phases[-1] not in self._samples:
            return self._earlier_ms
        steps = len(self._samples[phases[-1]])
        table = torch.tensor([list(self._samples[phase][-steps:]) for phase in phases], dtype=torch.float64)
        medians = table.median(1).values.mul(1e3).tolist()
        return {**dict(zip(phases, medians, strict=True)), "step": table.sum(0).median().item() * 1e3}

    def _now(self) -> Any:
        if not self._on_device:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self._samples.setdefault(phase, array("d")).append(seconds)
