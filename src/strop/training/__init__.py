"""A training loop for any task: exact resumption, learning curves, several processes."""

from strop.training.averaging import NtAsgd
from strop.training.curves import plot_curves, read_curve, value_at
from strop.training.distributed import World, world
from strop.training.errors import (
    CheckpointError,
    InterruptedRunError,
    NonFiniteError,
    RunError,
    RunFolderError,
)
from strop.training.folder import DESCRIPTION, RESULT, Trained, read_description, read_trained
from strop.training.loop import train
from strop.training.memory import reuse_freed_pages
from strop.training.progress import Bar, Lines, Progress, Silent, Status, for_stdout
from strop.training.run import LoopOptions, LoopSettings, Result
from strop.training.schedule import EpochDecay, Schedule, constant
from strop.training.task import Outcome, Task

__all__ = [
    "DESCRIPTION",
    "RESULT",
    "Bar",
    "CheckpointError",
    "EpochDecay",
    "InterruptedRunError",
    "Lines",
    "LoopOptions",
    "LoopSettings",
    "NonFiniteError",
    "NtAsgd",
    "Outcome",
    "Progress",
    "Result",
    "RunError",
    "RunFolderError",
    "Schedule",
    "Silent",
    "Status",
    "Task",
    "Trained",
    "World",
    "constant",
    "for_stdout",
    "plot_curves",
    "read_curve",
    "read_description",
    "read_trained",
    "reuse_freed_pages",
    "train",
    "value_at",
    "world",
]
