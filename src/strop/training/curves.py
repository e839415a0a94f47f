"""Learning curves: a row per evaluation, and rows of training alone between them, as CSV, for TensorBoard
and as a picture.

`train_seconds` counts training alone, neither evaluation nor checkpoints, so curves of several runs can be
compared at equal training time.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

from strop.training.errors import RunFolderError
from strop.training.events import EventWriter
from strop.training.files import write_atomically, writing

Row = Mapping[str, float]


def read_curve(path: Path, between: bool = False) -> list[dict[str, float]]:
    """The evaluations of a curve, oldest first; with `between` also the rows of training between them,
    which lack the columns `valid_…`. A last line cut short by a crash is left out."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = [
        {name: _number(value) for name, value in row.items() if value != ""}
        for row in csv.DictReader(io.StringIO(whole))
    ]
    return rows if between else [row for row in rows if evaluated(row)]


def evaluated(row: Row) -> bool:
    """Whether a row is of an evaluation."""
    return any(name.startswith("valid_") for name in row)


def _number(text: str) -> float:
    """As it was before it was written: an int stays one, so that rows written again have the same text."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def value_at(rows: Sequence[Row], seconds: float, column: str) -> float:
    """`column` at a training time: linear between evaluations, the last value after the end.

    Raises ValueError for a time before the first evaluation, where nothing is known.
    """
    if not rows or seconds < rows[0]["train_seconds"]:
        first = rows[0]["train_seconds"] if rows else None
        raise ValueError(f"seconds: {seconds}; the first evaluation was at {first}")
    for before, after in pairwise(rows):
        start, end = before["train_seconds"], after["train_seconds"]
        if start <= seconds <= end and end > start:
            part = (seconds - start) / (end - start)
            return before[column] + part * (after[column] - before[column])
    return rows[-1][column]


def plot_curves(
    curves: Mapping[str, Sequence[Row]], column: str, path: Path, over: str = "train_seconds"
) -> None:
    """Draws `column` over `over`, one line per curve, into the PNG `path`. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, rows in curves.items():
        known = [row for row in rows if column in row]
        axes.plot([row[over] for row in known], [row[column] for row in known], marker=".", label=label)
    values = [row[column] for rows in curves.values() for row in rows if column in row]
    if values and min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
    seconds = "training time in seconds, evaluation excluded"
    axes.set_xlabel(seconds if over == "train_seconds" else over.replace("_", " "))
    axes.set_ylabel(column.replace("_", " "))
    axes.grid(alpha=0.3, which="both")
    if len(curves) > 1:
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


class CurveWriter:
    """Appends rows to `curve.csv` and TensorBoard's events, and draws `curve.png`.

    Rows after `step`, and evaluations after `evaluated_at`, are dropped first: a resumed run makes them
    again.

    Attributes:
        rows: the evaluations.
    """

    def __init__(
        self, path: Path, step: int, tensorboard: bool, plot: str | None, evaluated_at: int | None = None
    ) -> None:
        self.path = path
        limit = step if evaluated_at is None else evaluated_at
        try:
            found = read_curve(path, between=True) if path.exists() else []
            known = [row for row in found if row["step"] <= (limit if evaluated(row) else step)]
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{path}: not a learning curve ({error!r}); move it away") from error
        self._plot = plot
        self._events = None
        self.rows = [row for row in known if evaluated(row)]
        self._columns = list(dict.fromkeys(name for row in known for name in row))
        with self._writing():
            if path.exists():
                self._rewrite(known)
            if tensorboard:
                self._events = EventWriter(path.parent / "tensorboard", step)

    def append(self, row: Row) -> None:
        """Adds an evaluation, or a row of training alone, which has no column `valid_…`."""
        if evaluated(row):
            self.rows.append(dict(row))
        with self._writing():
            if new := [name for name in row if name not in self._columns]:
                before = read_curve(self.path, between=True) if self.path.exists() else []
                self._columns += new
                self._rewrite([*before, row])
            else:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    file.write(self._lines([row]))
                    file.flush()
                    os.fsync(file.fileno())
            if self._events is not None:
                scalars = {name: value for name, value in row.items() if name != "step"}
                self._events.scalars(int(row["step"]), scalars)

    def _rewrite(self, rows: Sequence[Row]) -> None:
        header = ",".join(self._columns) + "\n" if rows else ""
        write_atomically(self.path, header + self._lines(rows))

    def _lines(self, rows: Sequence[Row]) -> str:
        out = io.StringIO()
        csv.DictWriter(out, self._columns, restval="", lineterminator="\n").writerows(rows)
        return out.getvalue()

    def draw(self) -> None:
        if self._plot and self.rows:
            with self._writing():
                plot_curves({self._plot: self.rows}, self._plot, self.path.with_suffix(".png"))

    def close(self) -> None:
        if self._events is not None:
            with self._writing():
                self._events.close()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.path.parent, RunFolderError)
