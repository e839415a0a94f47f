"""`strop bench tables`: the tables of the documentation, made from the measurements in benchmarks/results."""

import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from strop.bench import dense_table, keep_plot
from strop.bench.machines import BACKENDS, ISAS, Row, default_isa, heading, machine_of, of_each_backend
from strop.bench.presets import LAYER_PRESETS, PEER_PRESETS, RECIPE_PRESETS, TRAIN_PRESETS

_TABLE = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
_DENSE = "nothing-dropped"
_NAMES = {
    "torch": "`torch.nn.LSTM`",
    "dense": "strop, nothing dropped",
    "nr-st": "strop NR+ST",
    "eager": "eager loop",
    "compile": "`torch.compile` of that loop",
    "jax": "JAX `lax.scan`",
    "rh-st": "strop RH+ST",
    "nr-rh-st": "strop NR+RH+ST",
}


@dataclass(frozen=True)
class Options:
    """Write measured tables into Markdown files, for those who work on strop."""

    files: Positional[tuple[Path, ...]]
    """The files, with `<!-- table:NAME -->` and `<!-- /table -->` around each table."""

    results: Path = Path("benchmarks/results")
    """Folder of the measurements: NAME `layer`, `layer-phases`, `train` and `peers` show the newest of every
    machine and preset, `layer` its instruction sets side by side (`layer-avx2` shows the one, `layer-bf16`
    what ran under autocast), `nothing-dropped` sums up routes.csv, any other the rows of NAME.csv. What
    `keep` measured is drawn into keep.png."""

    check: bool = False
    """Change nothing, and fail if a table is not up to date."""


def run(options: Options) -> int:
    status = max((_renew(file, options) for file in options.files), default=0)
    if status == 0 and not options.check:
        _draw(options.results)
    return status


def _renew(file: Path, options: Options) -> int:
    """Writes the tables of a file, or checks them; the exit status."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        print(f"{file}: cannot be read ({error.strerror})", file=sys.stderr)
        return 1
    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        print(f"{file}: a table has no end; write <!-- /table --> after it", file=sys.stderr)
        return 1
    stale: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        start, name, old, end = match.groups()
        try:
            new = render(name, options.results)
        except LookupError as error:
            if old:
                raise
            print(error.args[0], file=sys.stderr)  # an empty table waits for its measurements
            return match[0]
        if new != old:
            stale.append(name)
        return start + new + end

    try:
        made = _TABLE.sub(replaced, text)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    if options.check and stale:
        print(f"{file}: not up to date: {', '.join(stale)}; run strop bench tables {file}", file=sys.stderr)
        return 1
    if stale:
        file.write_text(made, encoding="utf-8")
    print(f"{file}: {', '.join(stale) + ' written' if stale else 'up to date'}")
    return 0


def _draw(results: Path) -> None:
    """Draws what `strop bench keep` measured last, of the machine that was measured last."""
    rows = default_isa(_of_bench("keep", results))
    if rows:
        last = machine_of(max(rows, key=lambda row: row["date"]))
        keep_plot.draw(_newest([row for row in rows if machine_of(row) == last]), results / "keep.png")
        print(f"{results / 'keep.png'}: drawn")


def render(name: str, results: Path) -> str:
    """The Markdown of the table called `name`.

    Raises:
        LookupError: there are no measurements for it.
    """
    table, _, isa = (name, "", "") if name in _TABLES else name.partition("-")
    if table in _TABLES and isa in ("", *ISAS):
        bench, renderer = _TABLES["layer-phases" if table == "layer" and isa else table]
        rows = _of_bench(bench, results)
        if isa:
            rows = [row for row in rows if row["backend"] == f"native {isa}"]
        elif table != "layer":
            rows = default_isa(rows)
        if not rows:
            command = bench.replace("-", " --") + (f" --isa {isa}" if isa else "")
            raise LookupError(
                f"{results}: no row of {name}; run strop bench {command} --csv {results}/{bench}.csv"
            )
        return renderer(_newest(rows))
    file = results / f"{'routes' if name == _DENSE else name}.csv"
    if not file.is_file():
        raise LookupError(f"{file}: no such file, and table:{name} is none of {', '.join(_TABLES)}")
    rows = _read(file)
    if not rows:
        raise LookupError(f"{file}: no rows")
    if name == _DENSE:
        return _markdown(*dense_table.lines(rows))
    return _markdown(list(rows[0]), [list(row.values()) for row in rows])


def _read(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _of_bench(name: str, results: Path) -> list[Row]:
    return [row for file in sorted(results.glob("*.csv")) for row in _read(file) if row.get("bench") == name]


def _newest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the last run of every machine, instruction set and preset."""

    def key(row: Row) -> tuple[str, ...]:
        return *machine_of(row), row["backend"], row["preset"]

    last: dict[tuple[str, ...], str] = {}
    for row in rows:
        last[key(row)] = max(last.get(key(row), ""), row["date"])
    return [row for row in rows if row["date"] == last[key(row)]]


def _side_by_side(rows: Sequence[Row]) -> str:
    """A table per machine, with columns for each instruction set."""
    parts = []
    for machine in sorted({machine_of(row) for row in rows}):
        own = [row for row in rows if machine_of(row) == machine]
        backends = [row["backend"] for row in of_each_backend(own)]
        header = ["preset", "", "ideal"]
        for backend in backends:
            header += [
                f"{BACKENDS.get(backend, backend)}: forward + backward, ms",
                "over `nn.LSTM`",
                "of peak",
            ]
        lines = []
        for preset in _ordered(own, list(LAYER_PRESETS)):
            for impl in _NAMES:
                found = {
                    row["backend"]: row
                    for row in own
                    if (row["preset"], row["impl"], row["phase"]) == (preset, impl, "overall")
                }
                if found:
                    ideal = _times(next(iter(found.values()))["ideal"])
                    cells = [_side_cells(found[each]) if each in found else [""] * 3 for each in backends]
                    lines.append([preset, _NAMES[impl], ideal, *(cell for three in cells for cell in three)])
        parts.append(f"{heading(own)}:\n\n{_markdown(header, lines)}")
    return "\n".join(parts)


def _side_cells(row: Row) -> list[str]:
    return [_milliseconds(row), _times(row["speedup_vs_torch"]), _share(row["peak_fraction"])]


def _phases(rows: Sequence[Row]) -> str:
    header = ["preset", "", "forward + backward, ms", "over `nn.LSTM`", "FP", "BP", "WG", "ideal", "of peak"]
    return _per_machine(rows, header, _layer_cells, list(LAYER_PRESETS))


def _layer_cells(phases: dict[str, Row]) -> list[str]:
    overall = phases["overall"]
    over_dense = [
        _times(phases[name]["speedup_vs_dense"]) if name in phases else "" for name in ("fp", "bp", "wg")
    ]
    return [
        _milliseconds(overall),
        _times(overall["speedup_vs_torch"]),
        *over_dense,
        _times(overall["ideal"]),
        _share(overall["peak_fraction"]),
    ]


def _train(rows: Sequence[Row]) -> str:
    header = ["preset", "", "ms per step", "tokens/s", "over `nn.LSTM`"]
    return _per_machine(rows, header, _train_cells, [*TRAIN_PRESETS, *RECIPE_PRESETS])


def _train_cells(phases: dict[str, Row]) -> list[str]:
    overall = phases["overall"]
    preset = {**TRAIN_PRESETS, **RECIPE_PRESETS}.get(overall["preset"])
    tokens = f"{preset.tokens / float(overall['ms_p50']) * 1e3:,.0f}" if preset else ""
    return [_milliseconds(overall), tokens, _times(overall["speedup_vs_torch"])]


def _peers(rows: Sequence[Row]) -> str:
    header = ["layer", "", "forward + backward, ms", "first result, s", "over the best peer", "of peak"]
    return _per_machine(rows, header, _peer_cells, list(PEER_PRESETS))


def _peer_cells(phases: dict[str, Row]) -> list[str]:
    overall = phases["overall"]
    return [
        _milliseconds(overall),
        f"{float(overall['first_seconds']):.1f}",
        _times(overall["speedup_vs_best"]),
        _share(overall["peak_fraction"]),
    ]


# Of each table the benchmark and what makes Markdown of its rows.
_TABLES: dict[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
    "layer": ("layer", _side_by_side),
    "layer-phases": ("layer", _phases),
    "train": ("train", _train),
    "peers": ("peers", _peers),
    "layer-bf16": ("layer-bf16", _phases),
}


def _per_machine(
    rows: Sequence[Row], header: list[str], cells: Callable[[dict[str, Row]], list[str]], order: list[str]
) -> str:
    """A table per machine, under a line that says what it was measured on."""
    parts = []
    for machine in sorted({machine_of(row) for row in rows}):
        own = [row for row in rows if machine_of(row) == machine]
        lines = []
        for preset in _ordered(own, order):
            for impl in _NAMES:
                phases = {r["phase"]: r for r in own if r["preset"] == preset and r["impl"] == impl}
                if "overall" in phases:
                    lines.append([preset, _NAMES[impl], *cells(phases)])
        parts.append(f"{heading(own)}:\n\n{_markdown(header, lines)}")
    return "\n".join(parts)


def _ordered(rows: Sequence[Row], order: list[str]) -> list[str]:
    """The presets of the rows."""
    presets = {row["preset"] for row in rows}
    return sorted(presets, key=lambda name: (order.index(name) if name in order else len(order), name))


def _milliseconds(row: Row) -> str:
    p20, p50, p80 = (f"{float(row[name]):.1f}" for name in ("ms_p20", "ms_p50", "ms_p80"))
    return f"{p50} ({p20} to {p80})"


def _times(ratio: str) -> str:
    return f"{float(ratio):.2f}x" if ratio else ""


def _share(fraction: str) -> str:
    return f"{float(fraction):.0%}" if fraction else ""


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
