"""Data-parallel training in several processes: who takes part, and what they tell each other.

Started by `torchrun`, which sets RANK, WORLD_SIZE and the meeting point in the environment. Each process
owns its batch columns, hidden state and generators; gradients are averaged by DistributedDataParallel.
"""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from strop.seeds import seed_of
from strop.training.errors import RunError


@dataclass(frozen=True)
class World:
    """The processes of a run: `size` of them, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This process's part of `total` batch columns. Raises RunError if they do not part evenly."""
        if total % self.size:
            raise RunError(f"batch: {total} columns cannot be parted evenly among {self.size} processes")
        part = total // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, its gradients averaged over the processes."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, element by element."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def from_leader(self, value: Any) -> Any:
        """The leader's `value`, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: bytes) -> list[bytes]:
        """The `value` of every process, on the leader; an empty list elsewhere."""
        if self.size == 1:
            return [value]
        boxes: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, boxes, dst=0)
        return boxes or []


def stream_seed(seed: int, rank: int) -> int:
    """The seed of one process's dropout masks: another stream for every (seed, rank), always the same."""
    return seed_of("dropout", seed, rank)


@contextmanager
def world() -> Iterator[World]:
    """The processes that torchrun started, or this one alone."""
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if not dist.is_available():
        raise RunError(f"WORLD_SIZE is {size}, but this build of torch has no torch.distributed")
    # Objects travel over gloo on the CPU, gradients over whatever suits their device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        # DistributedDataParallel sits in reference cycles and holds the group: if it is freed only while the
        # interpreter shuts down, the group's threads abort the process (seen in 1 of 20 runs).
        gc.collect()
        dist.destroy_process_group()
