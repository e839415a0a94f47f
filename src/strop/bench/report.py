"""`strop bench tables`: the tables of the documentation, made from the measurements in benchmarks/results."""

import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from strop.bench import keep_plot
from strop.bench.isas import ISAS, default_isa
from strop.bench.presets import LAYER_PRESETS, PEER_PRESETS, RECIPE_PRESETS, TRAIN_PRESETS

_TABLE = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
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
Row = dict[str, str]


@dataclass(frozen=True)
class Options:
    """Write measured tables into Markdown files, for those who work on strop."""

    files: Positional[tuple[Path, ...]]
    """The files, with `<!-- table:NAME -->` and `<!-- /table -->` around each table."""

    results: Path = Path("benchmarks/results")
    """Folder of the measurements: NAME `layer`, `train` and `peers` show the newest of every machine and
    preset (`layer-avx2` with that instruction set, `layer-bf16` under autocast), any other the rows of
    NAME.csv. What `keep` measured is drawn into keep.png."""

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
        last = _machine(max(rows, key=lambda row: row["date"]))
        keep_plot.draw(_newest([row for row in rows if _machine(row) == last]), results / "keep.png")
        print(f"{results / 'keep.png'}: drawn")


def render(name: str, results: Path) -> str:
    """The Markdown of the table called `name`.

    Raises:
        LookupError: there are no measurements for it.
    """
    bench, _, isa = (name, "", "") if name in _RENDERERS else name.partition("-")
    if bench in _RENDERERS and isa in ("", *ISAS):
        rows = _of_bench(bench, results)
        rows = [row for row in rows if row["backend"] == f"native {isa}"] if isa else default_isa(rows)
        if not rows:
            forced = f"STROP_ISA={isa} " if isa else ""
            command = bench.replace("-", " --")
            raise LookupError(
                f"{results}: no row of {name}; run {forced}strop bench {command} --csv {results}/{bench}.csv"
            )
        return _RENDERERS[bench](_newest(rows))
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


def _of_bench(name: str, results: Path) -> list[Row]:
    return [row for file in sorted(results.glob("*.csv")) for row in _read(file) if row.get("bench") == name]


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


_RENDERERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "layer": _layer,
    "train": _train,
    "peers": _peers,
    "layer-bf16": _layer,
}


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
            for impl in _NAMES:
                phases = {r["phase"]: r for r in own if r["preset"] == preset and r["impl"] == impl}
                if "overall" in phases:
                    lines.append([preset, _NAMES[impl], *cells(phases)])
        cpu, threads, device = machine
        newest = max(own, key=lambda row: row["date"])
        precision = "autocast to bfloat16" if newest["bench"].endswith("-bf16") else "fp32"
        place = f"{cpu}, {threads} thread{'s' * (threads != '1')}" if device == "cpu" else device
        parts.append(
            f"{place}, {precision}, torch {newest['torch']}, Python {newest['python']}, "
            f"{newest['date'][:10]}; p50 (p20 to p80):\n\n{_markdown(header, lines)}"
        )
    return "\n".join(parts)


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
