"""Records of a benchmark: as JSON, as rows of results, and as a table for people."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from strop.bench.machine import Provenance
from strop.bench.measure import Percentiles

# Columns that files of older versions lack.
_ADDED = ("isa", "torch_isa", "l1d_kb", "l2_kb", "l3_kb")


@dataclass(frozen=True)
class Record:
    """One implementation in one phase; None where it has no meaning or cannot be told apart."""

    bench: str
    preset: str
    device: str
    impl: str
    phase: str
    ms_p20: float | None
    ms_p50: float | None
    ms_p80: float | None
    speedup_vs_torch: float | None
    speedup_vs_dense: float | None
    ideal: float | None
    gflops: float | None
    peak_fraction: float | None


@dataclass(frozen=True)
class Work:
    """What a measured time is compared with: operations done in it, and the ideal speed-up over dense."""

    operations: int | None = None
    ideal: float | None = None


def summarise(
    bench: str,
    preset: str,
    device: str,
    seconds: dict[str, dict[str, list[float]]],
    work: dict[tuple[str, str], Work],
    peak: float | None,
) -> list[Record]:
    """Records of all implementations (one of them "torch", perhaps one "dense") and the four phases.

    Args:
        seconds: of every round, by implementation and phase.
        work: by implementation and phase.
        peak: GFLOP/s.
    """
    records = []
    for impl, phases in seconds.items():
        for phase in ("fp", "bp", "wg", "overall"):
            values = phases.get(phase)
            ms = Percentiles.of([1e3 * value for value in values]) if values else None
            done = work.get((impl, phase), Work())
            gflops = done.operations / ms.p50 / 1e6 if ms and done.operations else None
            records.append(
                Record(
                    bench=bench,
                    preset=preset,
                    device=device,
                    impl=impl,
                    phase=phase,
                    ms_p20=ms and ms.p20,
                    ms_p50=ms and ms.p50,
                    ms_p80=ms and ms.p80,
                    speedup_vs_torch=_ratio(seconds, "torch", impl, phase) if phase == "overall" else None,
                    speedup_vs_dense=_ratio(seconds, "dense", impl, phase) if impl != "torch" else None,
                    ideal=done.ideal,
                    gflops=gflops,
                    peak_fraction=gflops / peak if gflops and peak else None,
                )
            )
    return records


def _ratio(seconds: dict[str, dict[str, list[float]]], base: str, impl: str, phase: str) -> float | None:
    ours, theirs = seconds[impl].get(phase), seconds.get(base, {}).get(phase)
    return Percentiles.of(theirs).p50 / Percentiles.of(ours).p50 if ours and theirs else None


def prepare(json_file: Path | None, csv_file: Path | None, kind: type[Record] = Record) -> None:
    """Makes the folders of both files, so that a run fails at its start and not at its end.

    Raises:
        OSError: a folder cannot be made.
        ValueError: a file cannot be written, or `csv_file` has columns that `append_csv` does not write for
            records of this kind. Those that an older version did not know are added by `append_csv`.
    """
    for file in (json_file, csv_file):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
                raise ValueError(f"{file}: cannot be written; name another file")
    if csv_file is not None and csv_file.exists() and csv_file.stat().st_size:
        there, known = _header(csv_file), _columns(kind)
        if not {*there} <= {*known} or not {*known} - {*there} <= {*_ADDED}:
            raise ValueError(
                f"{csv_file}: its columns are not those of this version; name another file (--csv)"
            )


def _header(file: Path) -> list[str]:
    with file.open(newline="", encoding="utf-8") as stream:
        return next(csv.reader(stream), [])


def _columns(kind: type[Record]) -> list[str]:
    where, own = ([field.name for field in fields(each)] for each in (Provenance, kind))
    return [*where, "rounds", "peak_gflops", *own]


def write_json(file: Path, provenance: Provenance, records: Sequence[Record]) -> None:
    """Writes the records, each with what a row of results tells of machine and versions."""
    where = asdict(provenance)
    file.write_text(json.dumps([asdict(record) | where for record in records], indent=1) + "\n")


def append_csv(
    file: Path, provenance: Provenance, rounds: int, peak: float | None, records: Sequence[Record]
) -> None:
    """Appends a row per record that has a time, after a header if the file is new or empty. The records are
    of one kind. Rows of an older version get its missing columns, empty."""
    new, columns = not file.exists() or not file.stat().st_size, _columns(type(records[0]))
    if not new and _header(file) != columns:
        _widen(file, columns)
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        for record in records:
            if record.ms_p50 is not None:
                row = asdict(provenance) | {"rounds": rounds, "peak_gflops": peak} | asdict(record)
                writer.writerow({name: _short(value) for name, value in row.items()})


def _widen(file: Path, columns: list[str]) -> None:
    """Gives all rows these columns, in one step: a file that is half written is none."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    wider = file.with_name(f"{file.name}.new")
    with wider.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    wider.replace(file)


def _short(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def cell(value: float | None, form: str, unit: str = "") -> str:
    """A cell of a table for people."""
    return "-" if value is None else format(value, form) + unit


def milliseconds(value: float | None) -> str:
    """A time with about four figures."""
    return cell(value, ".3f" if value is None or value < 1 else ".2f" if value < 100 else ".1f")
