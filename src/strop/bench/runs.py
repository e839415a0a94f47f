"""`strop report RUN…`: training runs beside each other, as a table and as learning curves in one picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop import tables
from strop.bench import records
from strop.training import RESULT, RunFolderError, plot_curves, read_curve, read_description
from strop.training.progress import duration

# Runs older than this entry of run.json are all language models.
_LANGUAGE = {"metric": "perplexity", "goal": "min", "items": "words"}


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        command: what trained it; None where that was a program.
        metric, goal, items: the task's.
        rows: the learning curve, never empty.
        test: metrics on the test data; empty if the run is not finished.
        phase_ms: medians of a step's parts and the whole `step`; empty likewise.
    """

    folder: Path
    command: str | None
    metric: str
    goal: str
    items: str
    rows: Sequence[dict[str, float]]
    test: dict[str, float]
    phase_ms: dict[str, float]

    @property
    def column(self) -> str:
        """The metric's column of the curve."""
        return f"valid_{self.metric}"

    @property
    def best(self) -> dict[str, float]:
        """The curve's row with the best metric."""
        return (min if self.goal == "min" else max)(self.rows, key=lambda row: row[self.column])


def read_run(folder: Path) -> Run:
    """Raises RunFolderError, naming what is missing or damaged."""
    if folder.is_file():
        raise RunFolderError(f"{folder}: a file; name the run's folder, {folder.parent}")
    description = read_description(folder)
    curve = folder / "curve.csv"
    try:
        rows = read_curve(curve) if curve.exists() else []
        if not rows:
            raise RunFolderError(f"{folder}: nothing to report before the first evaluation")
        measures = description.get("measures", _LANGUAGE)
        test, phase_ms = _result(folder / RESULT)
        run = Run(folder, description.get("command"), **measures, rows=rows, test=test, phase_ms=phase_ms)
        _cells(run, run, [])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise RunFolderError(f"{folder}: damaged, or not a run of this version ({error!r})") from error
    return run


def _result(file: Path) -> tuple[dict[str, float], dict[str, float]]:
    """`test` and `phase_ms`, empty before a run has ended. Raises RunFolderError."""
    if not file.exists():
        return {}, {}
    wanted = "damaged, or not of this version; remove it, and end the run again with --resume"
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        found = {name: content[name] for name in ("test", "phase_ms")}
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{file}: {error!r}; {wanted}") from error
    for name, numbers in found.items():
        if not isinstance(numbers, dict) or not all(isinstance(n, int | float) for n in numbers.values()):
            raise RunFolderError(f"{file}: {name}: {numbers!r}, not numbers by name; {wanted}")
    return found["test"], found["phase_ms"]


def compare(folders: Sequence[Path], plot: Path, over: str) -> int:
    """Prints a table of the runs and draws their curves; the exit status.

    Args:
        plot: the PNG to write.
        over: column of the curves to draw over, `train_seconds` or `epoch`.

    Raises RunFolderError for a folder that holds no run, ValueError for runs of different tasks and for a
    picture that cannot be written.
    """
    if plot.is_dir() or not plot.parent.is_dir():
        what = "a folder" if plot.is_dir() else f"there is no folder {plot.parent}"
        raise ValueError(f"plot: {plot}: {what}; name a PNG file to write")
    runs = [read_run(folder) for folder in folders]
    metrics = {run.metric for run in runs}
    if len(metrics) > 1:
        raise ValueError(f"runs: measured by {' and '.join(sorted(metrics))}; compare those of one task")
    commands = {str(run.command): run.folder for run in reversed(runs) if run.command is not None}
    if len(commands) > 1:
        those = " and ".join(f"{folder} (strop {command})" for command, folder in sorted(commands.items()))
        raise ValueError(f"runs: {those} are of different tasks; compare those of one task")
    first = runs[0]
    # What the task measures beside the metric that picks the best weights, BLEU for one.
    others = [
        name for name in dict.fromkeys(name for run in runs for name in run.test) if name != first.metric
    ]
    header = [
        "run",
        "",
        f"valid {first.metric}",
        *(f"test {name}" for name in (first.metric, *others)),
        "best at epoch",
        "epochs",
        "training",
        f"{first.items}/s",
        "ms/step",
        "forward",
        "backward",
        "optimiser",
        "speed",
    ]
    names = _names(folders)
    rows = [[name, *_cells(run, first, others)] for name, run in zip(names, runs, strict=True)]
    notes = [
        "training: its time, evaluation excluded; forward, backward, optimiser: medians in ms; "
        f"speed: the step of {names[0]} over the own one.",
        f"curves: {plot}",
    ]
    plot_curves({name: run.rows for name, run in zip(names, runs, strict=True)}, first.column, plot, over)
    tables.show(f"strop report: {len(runs)} run{'s' * (len(runs) > 1)}", header, [rows], notes)
    return 0


def _cells(run: Run, base: Run, others: Sequence[str]) -> list[str]:
    last, best, phases = run.rows[-1], run.best, run.phase_ms
    speed = base.phase_ms["step"] / phases["step"] if phases and base.phase_ms else None
    seconds = last["train_seconds"]
    return [
        "" if run.test else "unfinished",
        f"{best[run.column]:.2f}",
        *(records.cell(run.test.get(name), ".2f") for name in (run.metric, *others)),
        f"{best['epoch']:g}",
        f"{last['epoch']:g}",
        duration(seconds),
        f"{last[run.items] / seconds:,.0f}" if seconds else "-",
        *(records.milliseconds(phases.get(phase)) for phase in ("step", "forward", "backward", "optimiser")),
        records.cell(speed, ".2f", "x"),
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names where these tell them apart, else their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
