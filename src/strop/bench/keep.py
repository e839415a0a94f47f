"""`strop bench keep`: does time follow the kept share, and grow linearly with steps and batch?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from strop import tables
from strop.bench import command, keep_plot, machine, records
from strop.bench.check import STEPS, stack_discrepancies
from strop.bench.command import Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, PhaseClock, interleave, one_pass, progress
from strop.bench.options import CommonOptions
from strop.bench.presets import LAYER_PRESETS, PHASES, Impl, Preset
from strop.bench.records import Record, Work
from strop.bench.stack import build, inputs
from strop.ops import dispatch

_KEPT = tuple(tenths / 10 for tenths in range(1, 11))
_STEPS = (5, 10, 20, 35, 50, 70)
_BATCHES = (5, 10, 20, 40, 60, 80)

Series = Literal["keep", "steps", "batch"]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time the LSTM layers of a preset, by phase, over the kept share, over time steps and over batch.

    Inputs and hidden states are dropped (NR+RH+ST). The points of a series are measured in turn, round by
    round. Ideal is a time in proportion to the operations: that of a pass with nothing dropped times the kept
    share, and that of the preset's own steps and batch times theirs.
    """

    preset: Literal["zaremba-medium", "zaremba-large"] = "zaremba-medium"
    """Whose sizes; its dropout where steps and batch vary."""

    seconds: float = 15.0
    """How long to measure each of the three series, roughly; at least 5 rounds are run."""

    plot: Path | None = None
    """Also draw what was measured into this PNG."""


@dataclass(frozen=True)
class KeepRecord(Record):
    """A phase at one point of a series, beside the time in proportion to its operations."""

    series: str
    keep: float
    steps: int
    batch: int
    ideal_ms: float


def run(options: Options) -> int:
    preset = LAYER_PRESETS[options.preset]
    if options.plot is not None and not options.plot.parent.is_dir():
        raise ValueError(f"plot: the folder {options.plot.parent} does not exist; make it first")
    return command.run(
        options,
        lambda device: check(preset, device),
        lambda device: [measure(preset, each, device, options.seconds) for each in points(preset)],
        lambda timings, where, notes: show(options, timings, where, notes),
        KeepRecord,
    )


def points(preset: Preset) -> dict[Series, list[Preset]]:
    """The points of each series, with the one that ideals go by."""
    return {
        "keep": [replace(preset, nr=round(1 - keep, 2), rh=round(1 - keep, 2)) for keep in _KEPT],
        "steps": [replace(preset, steps=steps) for steps in sorted({*_STEPS, preset.steps})],
        "batch": [replace(preset, batch=batch) for batch in sorted({*_BATCHES, preset.batch})],
    }


def _impl(point: Preset) -> Impl:
    return "nr-rh-st" if point.nr else "dense"


def check(preset: Preset, device: torch.device) -> list[str]:
    """What strop computes wrongly in the first steps of the points."""
    faults: list[str] = []
    short = {
        replace(point, steps=min(point.steps, STEPS)): point
        for series in points(preset).values()
        for point in series
    }
    for number, point in enumerate(short, 1):
        progress(f"checking: point {number} of {len(short)}")
        found = stack_discrepancies(point, [_impl(point)], device)
        faults += [f"keep {1 - point.nr:g}, batch {point.batch}: {fault}" for fault in found]
    progress("")
    return faults


def measure(preset: Preset, series: Series, device: torch.device, seconds: float) -> Timing:
    torch.manual_seed(0)
    clock = PhaseClock(device)
    own = {str(number): point for number, point in enumerate(points(preset)[series])}
    cases: dict[str, Case] = {
        name: one_pass(build(point, _impl(point)).to(device), [inputs(point, device)], device, clock)
        for name, point in own.items()
    }
    cases["peak"] = lambda _: {"gflops": machine.peak_gflops(device)}
    with dispatch.wrapped(clock):
        samples = interleave(cases, seconds, title=series)
    peak = Percentiles.of(samples.pop("peak")["gflops"]).p50
    work = {}
    for name, point in own.items():
        operations = point.operations(_impl(point))
        ideal = point.ideal(_impl(point))
        work |= {(name, phase): Work(operations, ideal) for phase in PHASES}
        work[name, "overall"] = Work(len(PHASES) * operations, ideal)
    made = records.summarise("keep", preset.name, device.type, samples, work, peak)
    reference = replace(preset, nr=0.0, rh=0.0) if series == "keep" else preset
    base = next(name for name, point in own.items() if point == reference)
    return Timing(_compared(series, own, base, made), len(samples[base]["overall"]), peak)


def _compared(series: Series, own: dict[str, Preset], base: str, made: Sequence[Record]) -> list[Record]:
    """The records beside the time of `base` in proportion to operations."""
    times = {record.phase: record.ms_p50 for record in made if record.impl == base}
    operations = {name: point.operations(_impl(point)) for name, point in own.items()}
    compared: list[Record] = []
    for record in made:
        point, reference = own[record.impl], times[record.phase]
        assert record.ms_p50 is not None
        assert reference is not None
        over_dense = reference / record.ms_p50 if series == "keep" else None
        known = replace(record, impl=_impl(point), speedup_vs_dense=over_dense)
        compared.append(
            KeepRecord(
                **asdict(known),
                series=series,
                keep=round(1 - point.nr, 2),
                steps=point.steps,
                batch=point.batch,
                ideal_ms=reference * operations[record.impl] / operations[base],
            )
        )
    return compared


def show(options: Options, timings: Sequence[Timing], where: Provenance, notes: list[str]) -> None:
    made = [record for timing in timings for record in timing.records if isinstance(record, KeepRecord)]
    header = ["series", "phase", "at", "p20 ms", "p50 ms", "p80 ms", "ideal ms", "of ideal", "of peak"]
    groups = [
        [_row(record) for record in made if (record.series, record.phase) == (series, phase)]
        for series in dict.fromkeys(record.series for record in made)
        for phase in (*PHASES, "overall")
    ]
    if options.plot is not None:
        keep_plot.draw(
            [{name: str(value) for name, value in asdict(each).items()} for each in made], options.plot
        )
        notes = [*notes, f"drawn: {options.plot}"]
    legend = "of ideal: the time in proportion to operations over the measured one."
    tables.show(f"strop bench keep: {options.preset} on {where.cpu}", header, groups, [legend, *notes])


def _row(record: KeepRecord) -> list[str]:
    assert record.ms_p50 is not None
    return [
        record.series,
        record.phase.upper() if record.phase in PHASES else record.phase,
        f"{getattr(record, record.series):g}",
        *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80, record.ideal_ms)),
        f"{record.ideal_ms / record.ms_p50:.0%}",
        records.cell(record.peak_fraction, ".0%"),
    ]
