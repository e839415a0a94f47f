"""What the benchmark commands share: options, the refusal to time wrong results, and where records go."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from strop.bench import isa, machine, records
from strop.bench.machine import Provenance
from strop.bench.measure import Percentiles
from strop.bench.options import CommonOptions
from strop.bench.records import Record
from strop.limits import check_duration, check_sizes, find_device, use_threads
from strop.training.progress import counted


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
    measure: Callable[[torch.device], Sequence[Timing]],
    show: Callable[[Sequence[Timing], Provenance, list[str]], None],
    kind: type[Record] = Record,
    precision: str = "fp32",
) -> int:
    """Checks, measures, writes and shows; the exit status.

    Args:
        check: what is wrong; nothing is timed unless that is nothing.
        measure: one interleaved run or several, with records of `kind`.
        show: also gets notes on the circumstances.
        kind: of the records.
        precision: what all is computed in.
    """
    device = find_device(options.device)
    records.prepare(options.json, options.csv, kind)
    check_sizes(options)
    check_duration("seconds", options.seconds)
    if options.isa is not None and not isa.in_force(options.isa):
        needed = " ".join(f"{name}={value}" for name, value in options.environment.items())
        raise ValueError(f"isa: {options.isa} takes a process that was started with {needed}")
    use_threads(options.threads)
    load = machine.load()
    faults = check(device)
    if faults:
        print("strop computes wrong values here, so it is not timed:", *faults, sep="\n  ", file=sys.stderr)
        return 1
    timings = measure(device)
    provenance = machine.provenance(device)
    if options.json is not None:
        records.write_json(
            options.json, provenance, [record for timing in timings for record in timing.records]
        )
    if options.csv is not None:
        for timing in timings:
            records.append_csv(options.csv, provenance, timing.rounds, timing.peak, timing.records)
    rounds = sorted({timing.rounds for timing in timings})
    peak = Percentiles.of([timing.peak for timing in timings]).p50
    circumstances = (
        f"{_span(rounds)} interleaved rounds, {counted(provenance.threads, 'thread')}, {precision}, "
        f"backend {provenance.backend}, torch {provenance.torch}{_in_brackets(provenance.torch_isa)}. "
        f"Peak {peak:.0f} GFLOP/s ({machine.peak_source()}), measured beside them; "
        "operations are those on kept columns."
    )
    notes = dict.fromkeys(note for timing in timings for note in timing.notes)
    show(timings, provenance, [circumstances, *notes, *machine.load_note(load)])
    return 0


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _span(ordered: Sequence[int]) -> str:
    return " to ".join(str(each) for each in dict.fromkeys((ordered[0], ordered[-1])))
