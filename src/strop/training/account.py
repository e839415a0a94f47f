"""A run's account of itself: the rows of its curve, its progress, its result, and why it ended."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from strop.training.progress import Status
from strop.training.run import LoopOptions, Result
from strop.training.state import RunState
from strop.training.task import Task


class Account:
    """Tells about one run: the training of `task` that `options` ask for, now at `state`."""

    def __init__(self, task: Task, options: LoopOptions, state: RunState) -> None:
        self._task, self._options, self._state = task, options, state
        self._steps = options.epochs * task.steps_per_epoch
        self._row_at = (0.0, 0)
        self._began_at = (time.monotonic(), 0)

    def begin(self) -> None:
        """Starts counting for rows and estimates: an earlier process may have made the steps before."""
        self._row_at = (self._state.clock.total(), self._state.items)
        self._began_at = (time.monotonic(), self._state.step)

    def row(self, summary: Mapping[str, float]) -> dict[str, float]:
        """A row of the curve; `summary` is the task's of its losses."""
        state, items = self._state, self._task.items
        before, self._row_at = self._row_at, (state.clock.total(), state.items)
        seconds, count = self._row_at
        return {
            "step": state.step,
            "epoch": state.step / self._task.steps_per_epoch,
            "train_seconds": seconds,
            items: count,
            f"{items}_per_second": (count - before[1]) / max(seconds - before[0], 1e-9),
            "rate": self._task.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in summary.items()},
        }

    def status(self) -> Status:
        """The line of the progress bar."""
        state, (began, first) = self._state, self._began_at
        done = state.step - first
        left = (time.monotonic() - began) / done * (self._steps - state.step) if done else math.nan
        return Status(
            step=state.step,
            steps=self._steps,
            epoch=state.step / self._task.steps_per_epoch,
            epochs=self._options.epochs,
            metrics=self._task.summary(state.losses.recent),
            items=self._task.items,
            items_per_second=state.items / max(state.clock.total(), 1e-9),
            seconds_left=left,
        )

    def result(self, rows: Sequence[Mapping[str, float]], test: Mapping[str, float]) -> Result:
        """The result of the whole run; `rows` are those of its curve."""
        state = self._state
        return Result(
            rows=rows,
            best=state.best.row,
            test=test,
            steps=state.step,
            train_seconds=state.clock.total(),
            phase_seconds=dict(state.clock.seconds),
            phase_ms=state.clock.medians_ms(),
            items_per_second=state.items / state.clock.total(),
            metric=self._task.metric,
            goal=self._task.goal,
            items=self._task.items,
            folder=str(self._options.out),
            lost_seconds=state.slow.lost,
        )

    def stopped(self) -> str:
        """The message of a run that was stopped and saved."""
        return (
            f"stopped at step {self._state.step} of {self._steps}, all saved in {self._options.out}; "
            f"to go on: {self._options.resume_hint}"
        )

    def left(self) -> str:
        """The message of a run that is left without saving: what that loses."""
        step, saved = self._state.step, self._state.saved
        if saved < 0:
            return f"left at step {step}: nothing was saved yet in {self._options.out}"
        lost = step - saved
        return (
            f"left at step {step}; lost since the last checkpoint: {lost} step{'s' * (lost != 1)}; "
            f"to go on from there: {self._options.resume_hint}"
        )

    def spoilt(self, what: str, checkpoint: Path | None, step: int | None = None) -> str:
        """The message that `what` is wrong at `step`, by default now; `checkpoint` is the last."""
        return (
            f"step {self._state.step if step is None else step}: {what}, so training was stopped; "
            f"last good checkpoint: {checkpoint or 'none yet'}. "
            "A lower learning rate or tighter clipping may help"
        )
