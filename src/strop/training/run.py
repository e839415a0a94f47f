"""How a run is asked for, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict


@dataclass(frozen=True)
class LoopOptions:
    """How long, how, and where to run.

    Attributes:
        out: the run's folder, new or empty; with `resume` one that holds a run.
        epochs: passes over the training data. A finished run resumed with more epochs goes on.
        seed: of the generators that the model draws from during training (dropout masks).
        clip: largest 2-norm of all gradients together; None for no limit.
        bf16: take losses under autocast to bfloat16.
        evaluations: validations per epoch, evenly spaced, the last at its end; as many as its steps at most.
        log_steps: steps from one row of training losses in the curve to the next; 0 for none.
        checkpoint_seconds: time between checkpoints, beside those at the end of epochs.
        patience: evaluations in a row without a better metric that end the run; None for no such end.
        resume: go on with the run in `out`, or begin if it never got to a checkpoint.
        capture: on a GPU, record a step as a CUDA graph, where the task is `capturable` and trains alone.
        tensorboard, plot: write events; draw the metric's curve as PNG.
        description: JSON kept in `out/run.json`, beside what is measured.
        files: texts kept in `out`, by file name: what the trained model cannot be used without.
        resume_hint: what to tell the user to type after an interruption.
    """

    out: Path
    epochs: int
    seed: int = 0
    clip: float | None = None
    bf16: bool = False
    evaluations: int = 1
    log_steps: int = 100
    checkpoint_seconds: float = 60.0
    patience: int | None = None
    resume: bool = False
    capture: bool = True
    tensorboard: bool = True
    plot: bool = True
    description: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    resume_hint: str = "run the same again with resume"

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluations", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; at least 1 is needed")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip: {self.clip}; more than 0 is needed: at 0 nothing is learned")
        if self.log_steps < 0:
            raise ValueError(f"log_steps: {self.log_steps}; 0 or more is needed")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds: {self.checkpoint_seconds}; 0 or more is needed")


class LoopSettings(TypedDict, total=False):
    """Fields of `LoopOptions` that have to do with no task, for functions that pass them on."""

    bf16: bool
    evaluations: int
    log_steps: int
    checkpoint_seconds: float
    patience: int | None
    resume: bool
    capture: bool
    tensorboard: bool


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        rows: the learning curve, see `curves`: step, epoch, train_seconds, items, rate, metrics.
        best: step, epoch and metrics of the best weights.
        test: metrics of the best weights on the test split.
        train_seconds: time spent training, evaluations and checkpoints excluded.
        phase_seconds: its parts: data, forward, backward, optimiser; of captured steps data and graph.
        phase_ms: medians over the steps of the latest process that made any, the whole `step` included.
        items_per_second: throughput over `train_seconds`.
        lost_seconds: those of `train_seconds` in which other work held steps up, see `slowness`.
        metric, goal, items: the task's.
    """

    rows: Sequence[Mapping[str, float]]
    best: Mapping[str, float]
    test: Mapping[str, float]
    steps: int
    train_seconds: float
    phase_seconds: Mapping[str, float]
    phase_ms: Mapping[str, float]
    items_per_second: float
    metric: str
    goal: str
    items: str
    folder: str
    lost_seconds: float = 0.0
