"""What the benchmark commands share: options, the refusal to time wrong results, and where records go."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from strop.bench import machine, records
from strop.bench.machine import Provenance
from strop.bench.records import Record


@dataclass(frozen=True)
class CommonOptions:
    device: str = "cpu"
    """Where to run: cpu, cuda, …"""

    threads: int | None = None
    """Threads for both sides; torch's own choice if not given."""

    json: Path | None = None
    """Also write the records to this file."""

    csv: Path | None = None
    """Also append rows, with machine and versions, to this file."""


@dataclass(frozen=True)
class Timing:
    """One interleaved run: its records, its rounds, and the machine's peak in GFLOP/s during it."""

    records: list[Record]
    rounds: int
    peak: float
    notes: tuple[str, ...] = ()


def run(
    options: CommonOptions,
    check: Callable[[torch.device], list[str]],
    measure: Callable[[torch.device], Timing],
    show: Callable[[Timing, Provenance, list[str]], None],
) -> int:
    """Checks, measures, writes and shows; the exit status. `show` also gets notes on the circumstances."""
    device = machine.device(options.device)
    records.prepare(options.json, options.csv)
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads: {options.threads}; at least 1 is needed")
        torch.set_num_threads(options.threads)
    load = machine.load()
    faults = check(device)
    if faults:
        print("strop computes wrong values here, so it is not timed:", *faults, sep="\n  ", file=sys.stderr)
        return 1
    timing = measure(device)
    provenance = machine.provenance(device)
    if options.json is not None:
        records.write_json(options.json, timing.records)
    if options.csv is not None:
        records.append_csv(options.csv, provenance, timing.rounds, timing.peak, timing.records)
    circumstances = (
        f"{timing.rounds} interleaved rounds, {provenance.threads} threads, fp32, "
        f"backend {provenance.backend}, torch {provenance.torch}. Peak {timing.peak:.0f} GFLOP/s "
        f"({machine.peak_source()}), measured in the same rounds; operations are those on kept columns."
    )
    show(timing, provenance, [circumstances, *timing.notes, *machine.load_note(load)])
    return 0
