"""Training runs into results/: a row each in trained.csv, their learning curves, the tables of the plan."""

import argparse
import csv
import importlib
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from draw import draw
from plan import DROPOUTS, TABLES, Table, Training, folder_name

from strop.bench.machine import cpu_model
from strop.bench.machines import default_isa
from strop.bench.runs import Run, read_run
from strop.tasks.options import TrainOptions
from strop.training import read_curve, read_description

RESULTS = Path(__file__).parent / "results"
Row = dict[str, str]

COLUMNS = (
    "command",
    "data",
    "preset",
    "dropout",
    "seed",
    "options",
    "epochs",
    "of",
    "valid",
    "test",
    "hours",
    "step_ms",
    "threads",
    "cpu",
    "torch",
)
KEY = COLUMNS[:6]
_NOT_RUN = "not run"
# Options that change neither the model nor its training, or have a column of their own.
INCIDENTAL = {field.name for field in fields(TrainOptions)} - {"bf16"} | {"data", "preset", "dropout"}


def row_of(run: Run, data: str) -> Row:
    """The row of a run on the data set called `data`, finished or not."""
    description = read_description(run.folder)
    options, command = description["options"], description["command"]
    table = next(table for table in TABLES if table.command == command)
    threads = options["threads"] or torch.get_num_threads()
    return {
        "command": command,
        "data": data,
        "preset": options["preset"],
        "dropout": options["dropout"],
        "seed": str(options["seed"]),
        "options": " ".join(_other(table, options)),
        "epochs": f"{run.rows[-1]['epoch']:g}",
        "of": str(table.presets[options["preset"]].epochs),
        "valid": _figures({k.removeprefix("valid_"): v for k, v in run.best.items() if k[:6] == "valid_"}),
        "test": _figures(run.test),
        "hours": f"{run.rows[-1]['train_seconds'] / 3600:.2f}",
        "step_ms": f"{run.phase_ms['step']:.1f}" if run.phase_ms else "",
        "threads": str(threads),
        "cpu": cpu_model(),
        "torch": torch.__version__,
    }


def _other(table: Table, options: dict[str, Any]) -> list[str]:
    """Options with other values than their defaults that make another training of it."""
    given = []
    for field in fields(importlib.import_module(table.module).Options):
        value = options.get(field.name, field.default)
        if field.name not in INCIDENTAL and value != field.default:
            given.append(f"--{field.name.replace('_', '-')} {value}")
    return given


def _figures(metrics: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4f}" for name, value in metrics.items())


def summary(table: Table, rows: Sequence[Row], results: Path) -> list[Row]:
    """The table's rows, planned ones that were not run included."""
    return [
        _summary(table, training, dropout, rows, results)
        for training in table.trainings
        for dropout in DROPOUTS
    ]


def _summary(table: Table, training: Training, dropout: str, rows: Sequence[Row], results: Path) -> Row:
    planned = {"command": table.command, "data": training.data, "preset": training.preset, "options": ""}
    of_training = [row for row in rows if all(row[name] == value for name, value in planned.items())]
    own = [row for row in of_training if row["dropout"] == dropout]
    # Of several seeds those that got furthest, so that equals are averaged.
    furthest = max((float(row["epochs"]) for row in own), default=0.0)
    own = [row for row in own if float(row["epochs"]) == furthest]
    line = {"data": training.data, "preset": training.preset, "dropout": dropout}
    line["epochs"] = f"{furthest:g} of {own[0]['of']}" if own else _NOT_RUN
    line["seeds"] = f"{len(own)} of {training.seeds}" if own else ""
    paper = training.paper.get(dropout, ("",) * len(table.measures))
    for (split, metric), published in zip(table.measures, paper, strict=True):
        values = [value for row in own if (value := _figure(row[split], metric)) is not None]
        line[f"{split} {metric}"] = _mean(values)
        line[f"paper's {split} {metric}"] = published
    for phase in ("fp", "bp", "wg"):
        line[phase.upper()] = _benchmark(
            results, "layer", training.layers, dropout, phase, "speedup_vs_dense"
        )
    line["step"] = _benchmark(results, "train", training.steps, dropout, "overall", "speedup_vs_torch")
    line["step"] = line["step"] or _step(of_training, own)
    hours = [float(row["hours"]) for row in own]
    line["hours"] = f"{statistics.mean(hours):.1f}" if hours else ""
    return line


def overview(tables: dict[str, list[Row]]) -> list[Row]:
    """What was trained, a row for each preset on a data set: the last figure of its table by dropout."""
    rows = []
    for table in TABLES:
        split, metric = table.measures[-1]
        for training in table.trainings:
            own = [
                line
                for line in tables[table.name]
                if (line["data"], line["preset"]) == (training.data, training.preset)
            ]
            figure = f"{split} {metric}"
            if not any(line[figure] for line in own):
                continue
            row = {"command": f"`{table.command} --preset {training.preset}`", "data": training.data}
            row["figure"] = figure
            for line in own:
                done, _, planned = line["epochs"].partition(" of ")
                reached = [line[figure]] if line[figure] else []
                if done != planned:
                    reached += [_NOT_RUN if not planned else f"({line['epochs']} epochs)"]
                row[line["dropout"]] = " ".join(reached)
            rows.append({**row, "step": own[-1]["step"]})
    return rows


def _figure(text: str, metric: str) -> float | None:
    figures = dict(pair.split("=") for pair in text.split())
    return float(figures[metric]) if metric in figures else None


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _benchmark(results: Path, name: str, preset: str | None, dropout: str, phase: str, column: str) -> str:
    """The newest speed-up that `strop bench` measured."""
    file, impl = results / f"{name}.csv", "torch" if dropout == "nr-random" else dropout
    found = [
        row
        for row in default_isa(_read(file) if file.is_file() else [])
        if (row["preset"], row["impl"], row["phase"]) == (preset, impl, phase) and row[column]
    ]
    return _times(float(max(found, key=lambda row: row["date"])[column])) if found else ""


def _step(rows: Sequence[Row], own: Sequence[Row]) -> str:
    """How many times faster steps are than the baseline's in runs on the same machine."""
    places = {(row["cpu"], row["threads"]) for row in own}
    base = [
        float(row["step_ms"])
        for row in rows
        if row["dropout"] == DROPOUTS[0] and row["step_ms"] and (row["cpu"], row["threads"]) in places
    ]
    times = [float(row["step_ms"]) for row in own if row["step_ms"]]
    if not base or not times or len(places) > 1:
        return ""
    return _times(statistics.mean(base) / statistics.mean(times))


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _read(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(file: Path, rows: Sequence[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def collect(folders: Sequence[Path], data: str, results: Path) -> list[Row]:
    """Adds runs on `data` to trained.csv, in place of earlier rows of the same; all its rows."""
    file = results / "trained.csv"
    rows = {tuple(row[name] for name in KEY): row for row in (_read(file) if file.is_file() else [])}
    for folder in folders:
        run = read_run(folder)
        row = row_of(run, data)
        rows[tuple(row[name] for name in KEY)] = row
        if not row["options"]:
            name = folder_name(data, row["preset"], row["dropout"], int(row["seed"]))
            shutil.copyfile(folder / "curve.csv", results / f"{name}-curve.csv")
    if rows:
        _write(file, [rows[key] for key in sorted(rows)])
    return list(rows.values())


def write_tables(rows: Sequence[Row], results: Path, pictures: Path) -> None:
    """Writes each table as results/NAME.csv and what they say in short as results/overview.csv, and draws the
    learning curves of each preset as results-NAME-PRESET.png."""
    tables = {table.name: summary(table, rows, results) for table in TABLES}
    if said := overview(tables):
        _write(results / "overview.csv", said)
    for table in TABLES:
        _write(results / f"{table.name}.csv", tables[table.name])
        for training in table.trainings:
            curves = {dropout: _curves(training, dropout, results) for dropout in DROPOUTS}
            if curves := {dropout: seeds for dropout, seeds in curves.items() if seeds}:
                file = pictures / f"results-{table.name}-{training.preset}.png"
                draw(
                    f"{table.command} --preset {training.preset}, data: {training.data}",
                    table.measures[-1][1],
                    curves,
                    file,
                )


def _curves(training: Training, dropout: str, results: Path) -> list[list[dict[str, float]]]:
    names = (folder_name(training.data, training.preset, dropout, seed) for seed in range(training.seeds))
    files = (results / f"{name}-curve.csv" for name in names)
    return [read_curve(file) for file in files if file.is_file()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs, finished or not")
    parser.add_argument("--data", default="ptb", help="name of the data set that these runs are on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--pictures", type=Path, default=RESULTS.parent.parent / "docs")
    given = parser.parse_args()
    rows = collect(given.runs, given.data, given.results)
    write_tables(rows, given.results, given.pictures)
    print(f"{given.results / 'trained.csv'}: {len(rows)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
