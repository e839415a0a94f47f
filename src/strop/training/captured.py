"""Training steps as a CUDA graph: one launch in place of hundreds, which small steps would wait for.

The graph reads and writes memory that stays where it is: a batch and a carry are copied into it, a step's
loss and norm out of it, and the host waits for nothing. It holds the rates that it was captured with, so
other rates need another graph: once an epoch at most with the schedules that can be captured here.

What is recorded was done right before. cuDNN's dropout looks at the generator when it is first called after
that was set, as it is after an evaluation, and waits for it: no capture can hold that.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from strop.graphs import capturing
from strop.training import tree
from strop.training.step import Made

_log = logging.getLogger("strop")
# Steps up to the first capture: kernels are compiled, ways chosen by measurement, workspaces allocated.
_EAGER = 3


class Recorder(Protocol):
    """Something that records work on a device, to be done again."""

    def run(self, work: Callable[[], Made]) -> Made:
        """Does `work` now, where `record` will see nothing for the first time."""
        ...

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """What does `work`'s operations again, on the same memory; recording does none of them.

        Raises RuntimeError if `work` cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records as CUDA graphs, on a stream of its own: gradients are accumulated on the stream that used a
    parameter first, and a capture must not wait for another."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], Made]) -> Made:
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            made = work()
        here.wait_stream(self._stream)
        return made

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, self._stream):
            work()
        return graph.replay


class _Memory(NamedTuple):
    """What every replay reads and writes."""

    batch: Any
    carry: Any
    judged: Tensor

    @classmethod
    def like(cls, batch: Any, carry: Any) -> "_Memory":
        judged = torch.zeros(2, dtype=torch.float64, device=tree.tensors(batch)[0].device)
        return cls(tree.map_tensors(torch.clone, batch), tree.map_tensors(torch.clone, carry), judged)


class CapturedSteps:
    """Makes steps by `step`, recorded once a few were made.

    Batches of other shapes than the first are trained on without the graph, and so are all if it cannot be
    captured.

    Args:
        step: of a batch and a carry: forward, backward, update. It must wait for nothing on the host.
        recorder: what records it.
    """

    def __init__(self, step: Callable[[Any, Any], Made], recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._eager, self._impossible = _EAGER, False
        self._memory: _Memory | None = None
        self._replay: Callable[[], object] | None = None
        self._rates: Sequence[float] = ()
        self._items = 0

    def __call__(self, batch: Any, carry: Any, rates: Sequence[float]) -> Made:
        """One step with the optimiser's `rates`."""
        if self._memory is None:
            self._memory = _Memory.like(batch, carry)
        memory = self._memory
        given, static = (tree.tensors(each) for each in ((batch, carry), memory[:2]))
        if rates != self._rates:
            self._replay = None  # its memory is free for the next
        fits = _shapes(given) == _shapes(static)
        if fits and self._replay is not None:
            for target, tensor in zip(static, given, strict=True):
                if target is not tensor:
                    target.copy_(tensor)
            self._replay()
            return Made(memory.judged.clone(), self._items, memory.carry)
        made = self._recorder.run(lambda: self._step(batch, carry))
        if fits:
            self._eager -= 1
            if self._eager <= 0 and not self._impossible:
                self._record(memory, rates)
        return made

    def _record(self, memory: _Memory, rates: Sequence[float]) -> None:
        """Records steps with these rates, if they can be."""
        try:
            self._replay, self._rates = self._recorder.record(lambda: self._step_on(memory)), rates
        except RuntimeError as error:
            _log.warning("steps are not captured in a CUDA graph, which is slower: %s", error)
            self._impossible = True

    def _step_on(self, memory: _Memory) -> None:
        made = self._step(memory.batch, memory.carry)
        memory.judged.copy_(made.judged)
        for target, tensor in zip(tree.tensors(memory.carry), tree.tensors(made.carry), strict=True):
            target.copy_(tensor)
        self._items = made.items


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def recorder_for(device: torch.device) -> Recorder | None:
    """What can record steps on `device`; None if nothing can."""
    return CudaRecorder(device) if device.type == "cuda" else None
