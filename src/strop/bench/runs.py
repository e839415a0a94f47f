"""`strop report RUN…`: training runs beside each other, as a table and as learning curves in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strop import tables
from strop.bench import records
from strop.training import DESCRIPTION, RESULT, RunFolderError, plot_curves, read_curve, read_description
from strop.training.curves import evaluated
from strop.training.progress import duration

if TYPE_CHECKING:  # its options need tyro
    from strop.bench.runs_options import Options

_RUNS = Path("runs")  # where the commands put them
_WORTH_TELLING = 10.0  # seconds

# Runs older than this entry of run.json are all language models.
_LANGUAGE = {"metric": "perplexity", "goal": "min", "items": "words"}


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        command: what trained it; None where that was a program.
        metric, goal, items: the task's.
        rows: the learning curve, empty before the first evaluation.
        test: metrics on the test data; empty if the run is not finished.
        phase_ms: medians of a step's parts and the whole `step`; empty likewise.
        lost_seconds: those of training in which other work held steps up; 0 where that is not known.
    """

    folder: Path
    command: str | None
    metric: str
    goal: str
    items: str
    rows: Sequence[dict[str, float]]
    test: dict[str, float]
    phase_ms: dict[str, float]
    lost_seconds: float = 0.0

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
        every = read_curve(curve, between=True) if curve.exists() else []
        rows = [row for row in every if row["train_seconds"] >= 0 and evaluated(row)]
        measures = description.get("measures", _LANGUAGE)
        test, phase_ms, lost = _result(folder / RESULT)
        run = Run(
            folder,
            description.get("command"),
            **measures,
            rows=rows,
            test=test,
            phase_ms=phase_ms,
            lost_seconds=lost,
        )
        _cells(run, run, [])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise RunFolderError(f"{folder}: damaged, or not a run of this version ({error!r})") from error
    return run


def _result(file: Path) -> tuple[dict[str, float], dict[str, float], float]:
    """`test` and `phase_ms`, empty before a run has ended, and `lost_seconds`. Raises RunFolderError."""
    if not file.exists():
        return {}, {}, 0.0
    wanted = "damaged, or not of this version; remove it, and end the run again with --resume"
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        found = {name: content[name] for name in ("test", "phase_ms")}
        lost = float(content.get("lost_seconds", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{file}: {error!r}; {wanted}") from error
    for name, numbers in found.items():
        if not isinstance(numbers, dict) or not all(isinstance(n, int | float) for n in numbers.values()):
            raise RunFolderError(f"{file}: {name}: {numbers!r}, not numbers by name; {wanted}")
    return found["test"], found["phase_ms"], lost


def run(options: Options) -> int:
    """The command `strop report`: 0 once the runs are shown.

    Raises RunFolderError for a folder without runs, ValueError for named runs of different tasks and for a
    picture that cannot be written."""
    plot = options.plot
    if plot.is_dir() or not plot.parent.is_dir():
        what = "a folder" if plot.is_dir() else f"there is no folder {plot.parent}"
        raise ValueError(f"plot: {plot}: {what}; name a PNG file to write")
    runs, notes, named = _find(options.runs or (_RUNS,))
    tasks = _by_task(runs)
    if len(tasks) > 1 and named:
        metrics = sorted({run.metric for run in runs})
        if len(metrics) > 1:
            raise ValueError(f"runs: measured by {' and '.join(metrics)}; compare those of one task")
        those = " and ".join(f"{own[0].folder} (strop {task})" for task, own in sorted(tasks.items()))
        raise ValueError(f"runs: {those} are of different tasks; compare those of one task")
    for task, own in tasks.items():
        suffix = "-" + task.removeprefix("train ").replace(" ", "-") if len(tasks) > 1 else ""
        _compare(own, plot.with_stem(plot.stem + suffix), options.over)
    for note in notes:
        print(note)
    return 0


def _find(places: Sequence[Path]) -> tuple[list[Run], list[str], bool]:
    """The runs in folders, what was left out, and whether all were named one by one."""
    runs: list[Run] = []
    notes: list[str] = []
    named = True
    for place in places:
        inside = _inside(place)
        if not inside:
            if place == _RUNS and not place.exists():
                raise RunFolderError(f"{place}: there is no such folder here; name the folder of a run")
            runs.append(read_run(place))
            continue
        named = False
        for folder in inside:
            try:
                runs.append(read_run(folder))
            except RunFolderError as error:
                notes.append(f"left out: {error}")
    if not runs:
        raise RunFolderError("; ".join(notes))
    return runs, notes, named


def _inside(place: Path) -> list[Path]:
    """The folders of runs in a folder that is none itself, at most two levels deep."""
    if not place.is_dir() or (place / DESCRIPTION).exists():
        return []
    found = {file.parent for pattern in ("*", "*/*") for file in place.glob(f"{pattern}/{DESCRIPTION}")}
    return sorted(found)


def _by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what trained them; a program's are with the first command that is measured as they are."""
    commands = {run.metric: run.command for run in reversed(runs) if run.command is not None}
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.command or commands.get(run.metric) or run.metric, []).append(run)
    return tasks


def _compare(runs: Sequence[Run], plot: Path, over: str) -> None:
    """Prints a table of runs of one task and draws their curves."""
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
    names = _names([run.folder for run in runs])
    rows = [[name, *_cells(run, first, others)] for name, run in zip(names, runs, strict=True)]
    notes = [
        "training: its time, evaluation excluded; forward, backward, optimiser: medians in ms; "
        f"speed: the step of {names[0]} over the own one.",
        *(
            _lost(name, run)
            for name, run in zip(names, runs, strict=True)
            if run.lost_seconds >= _WORTH_TELLING
        ),
    ]
    curves = {name: run.rows for name, run in zip(names, runs, strict=True) if run.rows}
    if curves:
        plot_curves(curves, first.column, plot, over)
        notes.append(f"curves: {plot}")
    tables.show(f"strop report: {len(runs)} run{'s' * (len(runs) > 1)}", header, [rows], notes)


def _lost(name: str, run: Run) -> str:
    seconds = run.rows[-1]["train_seconds"] if run.rows else run.lost_seconds
    return (
        f"{name}: {duration(run.lost_seconds)} of {duration(seconds)} of training were lost to steps that "
        "took many times the median, as beside other work; speed, of medians, does not show that."
    )


def _cells(run: Run, base: Run, others: Sequence[str]) -> list[str]:
    if not run.rows:
        return ["not evaluated yet", *["-"] * (11 + len(others))]
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
