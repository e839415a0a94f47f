"""`strop report RUN…`: training runs beside each other, as a table and as learning curves in one picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strop.bench import records
from strop.training import RunFolderError, plot_curves, read_curve, read_description
from strop.training.progress import duration

# Runs older than this entry of run.json are all language models.
_LANGUAGE = {"metric": "perplexity", "goal": "min", "items": "words"}


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        metric, goal, items: the task's.
        rows: the learning curve, never empty.
        test: metrics on the test data; empty if the run is not finished.
        phase_ms: medians of a step's parts and the whole `step`; empty likewise.
    """

    folder: Path
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
    measures = read_description(folder).get("measures", _LANGUAGE)
    curve, file = folder / "curve.csv", folder / "result.json"
    try:
        rows = read_curve(curve) if curve.exists() else []
        result = {"test": {}, "phase_ms": {}}
        if file.exists():
            result = json.loads(file.read_text(encoding="utf-8"))
        if not rows:
            raise RunFolderError(f"{folder}: nothing to report before the first evaluation")
        run = Run(folder, **measures, rows=rows, test=result["test"], phase_ms=result["phase_ms"])
        _cells(run, run)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder}: damaged, or not a run of this version ({error!r})") from error
    return run


def compare(folders: Sequence[Path], plot: Path, over: str) -> int:
    """Prints a table of the runs and draws their curves; the exit status.

    Args:
        plot: the PNG to write.
        over: column of the curves to draw over, `train_seconds` or `epoch`.

    Raises RunFolderError for a folder that holds no run, ValueError for runs of different metrics.
    """
    runs = [read_run(folder) for folder in folders]
    metrics = {run.metric for run in runs}
    if len(metrics) > 1:
        raise ValueError(f"runs: measured by {' and '.join(sorted(metrics))}; compare those of one task")
    first = runs[0]
    header = [
        "run",
        "",
        f"valid {first.metric}",
        f"test {first.metric}",
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
    rows = [[name, *_cells(run, first)] for name, run in zip(names, runs, strict=True)]
    notes = [
        "training: its time, evaluation excluded; forward, backward, optimiser: medians in ms; "
        f"speed: the step of {names[0]} over the own one.",
        f"curves: {plot}",
    ]
    plot_curves({name: run.rows for name, run in zip(names, runs, strict=True)}, first.column, plot, over)
    records.show(f"strop report: {len(runs)} run{'s' * (len(runs) > 1)}", header, [rows], notes)
    return 0


def _cells(run: Run, base: Run) -> list[str]:
    last, best, phases = run.rows[-1], run.best, run.phase_ms
    speed = base.phase_ms["step"] / phases["step"] if phases and base.phase_ms else None
    seconds = last["train_seconds"]
    return [
        "" if run.test else "unfinished",
        f"{best[run.column]:.2f}",
        records.cell(run.test.get(run.metric), ".2f"),
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
