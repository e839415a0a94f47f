"""`strop report`: the tables of the README, made from the measurements in benchmarks/results; or runs."""

import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from strop.bench import runs
from strop.bench.presets import IMPLS, LAYER_PRESETS, TRAIN_PRESETS

_TABLE = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
_NAMES = {
    "torch": "`torch.nn.LSTM`",
    "dense": "strop, nothing dropped",
    "nr-st": "strop NR+ST",
    "nr-rh-st": "strop NR+RH+ST",
}

Row = dict[str, str]


@dataclass(frozen=True)
class Options:
    """Compare training runs; without any, write the measured tables into a Markdown file.

    Runs of one task are compared in a table and in a picture of their learning curves, finished or not.
    """

    runs: Positional[tuple[Path, ...]] = ()
    """Folders of the runs to be compared, the first being the baseline."""

    plot: Path = Path("curves.png")
    """The picture of the runs' learning curves."""

    over: Literal["train_seconds", "epoch"] = "train_seconds"
    """What the learning curves are drawn over."""

    file: Path = Path("README.md")
    """The file for tables, with `<!-- table:NAME -->` and `<!-- /table -->` around each table."""

    results: Path = Path("benchmarks/results")
    """Folder of the measurements: NAME `layer` and `train` show the newest of every machine and preset,
    any other the rows of NAME.csv."""

    check: bool = False
    """Change nothing, and fail if a table is not up to date."""


def run(options: Options) -> int:
    if options.runs:
        return runs.compare(options.runs, options.plot, options.over)
    try:
        text = options.file.read_text(encoding="utf-8")
    except OSError as error:
        print(f"{options.file}: cannot be read ({error.strerror})", file=sys.stderr)
        return 1
    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        print(f"{options.file}: a table has no end; write <!-- /table --> after it", file=sys.stderr)
        return 1
    stale: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        start, name, old, end = match.groups()
        new = render(name, options.results)
        if new != old:
            stale.append(name)
        return start + new + end

    try:
        made = _TABLE.sub(replaced, text)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    if options.check and stale:
        print(f"{options.file}: not up to date: {', '.join(stale)}; run strop report", file=sys.stderr)
        return 1
    if stale:
        options.file.write_text(made, encoding="utf-8")
    print(f"{options.file}: {', '.join(stale) + ' written' if stale else 'up to date'}")
    return 0


def render(name: str, results: Path) -> str:
    """The Markdown of the table called `name`.

    Raises:
        LookupError: there are no measurements for it.
    """
    if name in _RENDERERS:
        rows = [
            row for file in sorted(results.glob("*.csv")) for row in _read(file) if row.get("bench") == name
        ]
        if not rows:
            raise LookupError(
                f"{results}: no row of {name}; run strop bench {name} --csv {results}/{name}.csv"
            )
        return _RENDERERS[name](_newest(rows))
    file = results / f"{name}.csv"
    if not file.is_file():
        raise LookupError(f"{file}: no such file, and table:{name} is none of {', '.join(_RENDERERS)}")
    rows = _read(file)
    if not rows:
        raise LookupError(f"{file}: no rows")
    return _markdown(list(rows[0]), [list(row.values()) for row in rows])


def _read(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _machine(row: Row) -> tuple[str, str, str]:
    return row["cpu"], row["threads"], row["device"]


def _newest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the last run of every machine and preset."""
    last: dict[tuple[str, ...], str] = {}
    for row in rows:
        key = (*_machine(row), row["preset"])
        last[key] = max(last.get(key, ""), row["date"])
    return [row for row in rows if row["date"] == last[*_machine(row), row["preset"]]]


def _layer(rows: Sequence[Row]) -> str:
    header = ["preset", "", "forward + backward, ms", "over `nn.LSTM`", "FP", "BP", "WG", "ideal", "of peak"]
    return _per_machine(rows, header, _layer_cells, list(LAYER_PRESETS))


def _layer_cells(phases: dict[str, Row]) -> list[str]:
    overall = phases["overall"]
    over_dense = [
        _times(phases[name]["speedup_vs_dense"]) if name in phases else "" for name in ("fp", "bp", "wg")
    ]
    fraction = overall["peak_fraction"]
    return [
        _milliseconds(overall),
        _times(overall["speedup_vs_torch"]),
        *over_dense,
        _times(overall["ideal"]),
        f"{float(fraction):.0%}" if fraction else "",
    ]


def _train(rows: Sequence[Row]) -> str:
    header = ["preset", "", "ms per step", "tokens/s", "over `nn.LSTM`"]
    return _per_machine(rows, header, _train_cells, list(TRAIN_PRESETS))


def _train_cells(phases: dict[str, Row]) -> list[str]:
    overall = phases["overall"]
    preset = {**TRAIN_PRESETS}.get(overall["preset"])
    tokens = (
        f"{preset.model.batch * preset.model.steps / float(overall['ms_p50']) * 1e3:,.0f}" if preset else ""
    )
    return [_milliseconds(overall), tokens, _times(overall["speedup_vs_torch"])]


_RENDERERS: dict[str, Callable[[Sequence[Row]], str]] = {"layer": _layer, "train": _train}


def _per_machine(
    rows: Sequence[Row], header: list[str], cells: Callable[[dict[str, Row]], list[str]], order: list[str]
) -> str:
    """A table per machine, under a line that says what it was measured on."""
    parts = []
    for machine in sorted({_machine(row) for row in rows}):
        own = [row for row in rows if _machine(row) == machine]
        presets = sorted(
            {row["preset"] for row in own},
            key=lambda name: (order.index(name) if name in order else len(order), name),
        )
        lines = []
        for preset in presets:
            for impl in IMPLS:
                phases = {r["phase"]: r for r in own if r["preset"] == preset and r["impl"] == impl}
                if "overall" in phases:
                    lines.append([preset, _NAMES[impl], *cells(phases)])
        cpu, threads, device = machine
        newest = max(own, key=lambda row: row["date"])
        place = f"{cpu}, {threads} thread{'s' * (threads != '1')}" if device == "cpu" else device
        parts.append(
            f"{place}, fp32, torch {newest['torch']}, Python {newest['python']}, {newest['date'][:10]}; "
            f"p50 (p20 to p80):\n\n{_markdown(header, lines)}"
        )
    return "\n".join(parts)


def _milliseconds(row: Row) -> str:
    p20, p50, p80 = (f"{float(row[name]):.1f}" for name in ("ms_p20", "ms_p50", "ms_p80"))
    return f"{p50} ({p20} to {p80})"


def _times(ratio: str) -> str:
    return f"{float(ratio):.2f}x" if ratio else ""


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
