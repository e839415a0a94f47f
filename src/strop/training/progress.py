"""What the user sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import errno
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Status:
    """Where a run stands. `epoch` counts from 0 and has fractions; `seconds_left` is an estimate."""

    step: int
    steps: int
    epoch: float
    epochs: int
    metrics: Mapping[str, float]
    items: str
    items_per_second: float
    seconds_left: float

    def line(self) -> str:
        return (
            f"epoch {self.epoch:.2f}/{self.epochs} · step {self.step:,}/{self.steps:,} · {self.details()} · "
            f"{duration(self.seconds_left)} left"
        )

    def details(self) -> str:
        return f"{describe(self.metrics)} · {self.items_per_second:,.0f} {self.items}/s"


class Progress(Protocol):
    """How a loop reports. `due` is asked at every step, `show` called when it says so."""

    def due(self) -> bool: ...
    def show(self, status: Status) -> None: ...
    def say(self, message: str) -> None: ...
    def close(self) -> None: ...


class Silent:
    """Reports nothing."""

    def due(self) -> bool:
        return False

    def show(self, status: Status) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A plain line every `seconds` seconds: for logs and pipes."""

    def __init__(self, seconds: float = 10.0, prefix: str = "") -> None:
        self._seconds = seconds
        self._prefix = prefix
        self._next = time.monotonic() + min(seconds, 2.0)

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def show(self, status: Status) -> None:
        self._next = time.monotonic() + self._seconds
        self.say(status.line())

    def say(self, message: str) -> None:
        with _without_terminal():
            print(self._prefix + message, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A live bar with rich, redrawn from the training loop: no thread competes with the kernels.

    `title` stands before the epoch; with a short one everything fits into 80 columns.
    """

    def __init__(self, title: str = "epoch") -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bar = Progress(
            TextColumn("{task.description} {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}"),
            TextColumn("· {task.fields[left]} left"),
            expand=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task(title, total=None, epoch="?", details="", left="?")
        self._next = 0.0
        self._bar.start()

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def show(self, status: Status) -> None:
        self._next = time.monotonic() + 0.25
        with _without_terminal():
            self._bar.update(
                self._task,
                completed=status.step,
                total=status.steps,
                epoch=f"{status.epoch:.2f}/{status.epochs}",
                details=status.details(),
                left=duration(status.seconds_left),
                refresh=True,
            )

    def say(self, message: str) -> None:
        with _without_terminal():
            self._bar.console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        with _without_terminal():
            self._bar.stop()


@contextmanager
def _without_terminal() -> Iterator[None]:
    """Nobody can be told anything on a terminal that was closed; the run is to be saved all the same."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def for_stdout(title: str = "epoch") -> Progress:
    """A bar if stdout is a terminal, else lines."""
    return Bar(title) if sys.stdout.isatty() else Lines()


def describe(metrics: Mapping[str, float]) -> str:
    """`{"train_perplexity": 87.31…}` as `train perplexity 87.31`."""
    return " · ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in metrics.items())


def counted(number: int, noun: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below one hour; `?` where it is not known."""
    if not 0 <= seconds < 1e8:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
