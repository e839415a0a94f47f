"""The state of a run: written to a checkpoint, and restored from one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from strop.training import generators, tree
from strop.training.best import Best
from strop.training.checkpoint import Checkpoint
from strop.training.clock import StepClock
from strop.training.distributed import World
from strop.training.errors import CheckpointError
from strop.training.losses import Losses
from strop.training.slowness import SlowSteps
from strop.training.task import Task


class RunState:
    """Counters, clocks and losses of a run, beside the weights, optimiser and generators that its task has.

    Attributes:
        step: steps made.
        saved: the step of the latest checkpoint; -1 before the first.
        evaluated: the step of the latest evaluation; 0 before the first.
        items: how many were trained on, by all processes.
        carry: what the next step needs of the one before.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task, self._device = task, device
        self.step = self.evaluated = self.items = 0
        self.saved = -1
        self.carry: Any = None
        self.best = Best(f"valid_{task.metric}", task.goal)
        self.clock = StepClock(device)
        self.losses = Losses()
        self.slow = SlowSteps()

    def position(self) -> tuple[int, int]:
        """Epoch, and number of the batch in it, of the next step."""
        return divmod(self.step, self._task.steps_per_epoch)

    def of_process(self) -> bytes:
        """This process's carry and generators, as bytes."""
        drawn = generators.capture(self._task.generators, self._device)
        return tree.to_bytes({"carry": self.carry, "generators": drawn})

    def checkpoint(self, ranks: list[bytes], identity: Mapping[str, Any]) -> Checkpoint:
        """The whole run as a checkpoint; `ranks` has `of_process` of every process."""
        progress = {
            "evaluated": self.evaluated,
            "items": self.items,
            "best": self.best.row,
            "loss": [self.losses.total, self.losses.items],
            "recent": self.losses.recent,
            "first": self.losses.first,
            "logged": [self.losses.logged_total, self.losses.logged_items],
            "lost": self.slow.lost,
            "waited": self.best.waited,
            "seconds": self.clock.seconds,
            "phase_ms": self.clock.medians_ms(),
        }
        return Checkpoint(
            step=self.step,
            weights=self._task.model.state_dict(),
            optimizer=self._task.optimizer.state_dict(),
            ranks=ranks,
            progress=progress,
            identity=identity,
            best_step=self.best.step,
        )

    def restore(self, path: Path, saved: Checkpoint, world: World) -> None:
        """Goes on from `saved`, read from `path`. Raises CheckpointError if other processes wrote it."""
        if len(saved.ranks) != world.size:
            raise CheckpointError(
                f"{path}: written by {len(saved.ranks)} processes, now there are {world.size}; "
                f"resume with torchrun --nproc-per-node {len(saved.ranks)}"
            )
        own = saved.ranks[world.rank]
        self._task.model.load_state_dict(saved.weights)
        self._task.optimizer.load_state_dict(saved.optimizer)
        generators.restore(own["generators"], self._task.generators, self._device)
        self.carry = tree.map_tensors(lambda tensor: tensor.to(self._device), own["carry"])
        self.step = self.saved = saved.step
        self._count_on_from(saved.progress)

    def _count_on_from(self, progress: Mapping[str, Any]) -> None:
        self.evaluated, self.items = progress["evaluated"], progress["items"]
        self.best.row = dict(progress["best"])
        self.losses.total, self.losses.items = progress["loss"]
        self.losses.recent = progress["recent"]
        # Older checkpoints have none of these.
        self.best.waited = progress.get("waited", 0)
        self.losses.first = progress.get("first", 0.0)
        self.losses.logged_total, self.losses.logged_items = progress.get("logged", (0.0, 0.0))
        self.slow = SlowSteps(progress.get("lost", 0.0))
        self.clock.go_on_from(progress["seconds"], progress.get("phase_ms", {}))
