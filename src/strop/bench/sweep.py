"""`strop bench sweep`: strop against the best alternative over a grid of shapes. Is it slower anywhere?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice

import torch
from torch import nn

from strop import tables
from strop.bench import command, machine, records
from strop.bench.baselines import EagerLoop, TorchDropout
from strop.bench.check import STEPS, stack_discrepancies
from strop.bench.command import Timing
from strop.bench.design import Point, points, seconds
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, interleave, one_pass, progress
from strop.bench.options import CommonOptions
from strop.bench.presets import PHASES, Preset
from strop.bench.records import Record, Work
from strop.bench.stack import build, inputs

LIMIT = 0.95  # times the best alternative: slower than that counts

_CANDIDATES = 20  # for each point to measure: where so few fit the budget, there are no more to find
_CHECKED_OPERATIONS = 5_000_000_000  # done in float64 within a second
_QUICK_POINTS, _QUICK_SECONDS, _QUICK_BUDGET = 12, 0.05, 0.01
_LEGEND = (
    "best: torch is nn.LSTM with nn.Dropout, eager a loop over the steps (nn.LSTM drops no hidden states)."
)


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time strop against the best alternative over a grid of shapes: torch.nn.LSTM with nn.Dropout, or,
    where hidden states are dropped, a loop over the steps."""

    points: int = 80
    """How many points: a base, the corners, every axis, then random ones."""

    seed: int = 0
    """Of the random points."""

    seconds: float = 1.0
    """How long to measure each point, roughly; at least 5 rounds are run."""

    budget: float = 1.0
    """Leave out points of which one pass, nothing dropped, takes more seconds at this machine's peak."""

    quick: bool = False
    """A few small points, briefly: a trial."""


@dataclass(frozen=True)
class SweepRecord(Record):
    """One implementation at one point, beside the best alternative there."""

    dropout: str
    layers: int
    hidden: int
    batch: int
    steps: int
    p: float
    best: str
    best_ms_p50: float
    speedup_vs_best: float


@dataclass(frozen=True)
class Plan:
    """The points to measure, and those left out because a pass would take too long."""

    measured: list[Point]
    left_out: list[Point]
    budget: float


def run(options: Options) -> int:
    if options.points < 1:
        raise ValueError(f"points: {options.points}; at least 1 is needed")
    if options.quick:
        options = replace(
            options,
            points=min(options.points, _QUICK_POINTS),
            seconds=min(options.seconds, _QUICK_SECONDS),
            budget=min(options.budget, _QUICK_BUDGET),
        )

    @cache
    def planned(device: torch.device) -> Plan:
        return plan(options, device)

    return command.run(
        options,
        lambda device: check(planned(device), device),
        lambda device: measure(planned(device), device, options.seconds),
        show,
        SweepRecord,
    )


def plan(options: Options, device: torch.device) -> Plan:
    """As many points as asked for that fit the budget here.

    Raises:
        ValueError: none does.
    """
    gflops, gigabytes = machine.peak_gflops(device), machine.copy_gigabytes(device)
    made = Plan([], [], options.budget)
    for point in islice(points(options.seed), _CANDIDATES * options.points):
        if len(made.measured) == options.points:
            break
        fits = seconds(point, gflops, gigabytes) <= options.budget
        (made.measured if fits else made.left_out).append(point)
    if not made.measured:
        raise ValueError(f"budget: no point passes within {options.budget:g} s here; give more")
    return made


def check(plan: Plan, device: torch.device) -> list[str]:
    """What strop computes wrongly at the planned points, with batches that float64 is done with soon."""
    faults: list[str] = []
    checked: set[Preset] = set()
    for number, point in enumerate(plan.measured, 1):
        preset = replace(point.preset, steps=min(point.steps, STEPS))
        row = len(PHASES) * preset.operations("torch") // preset.batch
        batch = min(preset.batch, max(1, _CHECKED_OPERATIONS // row))
        preset = replace(preset, name="", batch=batch)
        if preset not in checked:
            checked.add(preset)
            progress(f"checking: point {number} of {len(plan.measured)}")
            found = stack_discrepancies(preset, [point.kind], device)
            faults += [f"{point.preset.name}: {fault}" for fault in found]
    progress("")
    return faults


def measure(plan: Plan, device: torch.device, seconds: float) -> list[Timing]:
    torch.manual_seed(0)
    count = len(plan.measured)
    timings = [
        _timing(point, device, seconds, f"point {number} of {count}")
        for number, point in enumerate(plan.measured, 1)
    ]
    return [replace(timings[0], notes=_left_out(plan)), *timings[1:]]


def _timing(point: Point, device: torch.device, seconds: float, title: str) -> Timing:
    preset = point.preset
    models: dict[str, nn.Module] = {"torch": TorchDropout(preset)}
    if preset.rh:
        models["eager"] = EagerLoop(preset)
    models[point.kind] = build(preset, point.kind)
    x, grad = inputs(preset, device)
    cases: dict[str, Case] = {
        impl: one_pass(model.to(device), [(x, grad)], device) for impl, model in models.items()
    }
    peak = machine.peak_gflops(device)
    samples = interleave(cases, seconds, title=title)
    dense, kept = (len(PHASES) * preset.operations(impl) for impl in ("torch", point.kind))
    work = {(impl, "overall"): Work(dense) for impl in models}
    work[point.kind, "overall"] = Work(kept, preset.ideal(point.kind))
    made = records.summarise("sweep", preset.name, device.type, samples, work, peak)
    return Timing(
        _compared(point, made, best="eager" if preset.rh else "torch"),
        len(samples["torch"]["overall"]),
        peak,
    )


def _compared(point: Point, made: list[Record], best: str) -> list[Record]:
    """The records that have a time, beside the best alternative's."""
    overall = {record.impl: record for record in made if record.phase == "overall"}
    shape = {name: value for name, value in asdict(point).items() if name != "kind"}
    return [
        SweepRecord(
            **asdict(record),
            **shape,
            dropout=point.kind,
            best=best,
            best_ms_p50=_p50(overall[best]),
            speedup_vs_best=_p50(overall[best]) / _p50(record),
        )
        for record in overall.values()
    ]


def _p50(record: Record) -> float:
    assert record.ms_p50 is not None
    return record.ms_p50


def _left_out(plan: Plan) -> tuple[str, ...]:
    shapes = dict.fromkeys(
        f"{point.layers}x{point.hidden} batch {point.batch} steps {point.steps}" for point in plan.left_out
    )
    if not shapes:
        return ()
    return (
        f"{len(plan.left_out)} points left out, one pass of which takes over {plan.budget:g} s at the "
        f"machine's peak (--budget): {', '.join(shapes)}.",
    )


def show(timings: Sequence[Timing], where: Provenance, notes: list[str]) -> None:
    header = [
        "",
        "stack",
        "batch",
        "steps",
        "p",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "of peak",
        "best",
        "its p50",
        "vs best",
        "vs torch",
    ]
    ours = [
        record
        for timing in timings
        for record in timing.records
        if isinstance(record, SweepRecord) and record.impl == record.dropout
    ]
    ours.sort(key=lambda record: record.speedup_vs_best)
    ratios = [record.speedup_vs_best for record in ours]
    slower = sum(ratio < LIMIT for ratio in ratios)
    summary = (
        f"{len(ours)} points, p50 of the best alternative over strop's: worst {ratios[0]:.2f}x, "
        f"median {Percentiles.of(ratios).p50:.2f}x, {slower} below {LIMIT}x."
    )
    title = f"strop bench sweep: forward and backward on {where.cpu}"
    tables.show(title, header, [[_row(record) for record in ours]], [summary, _LEGEND, *notes])


def _row(record: SweepRecord) -> list[str]:
    return [
        record.dropout,
        f"{record.layers}x{record.hidden}",
        str(record.batch),
        str(record.steps),
        f"{record.p:g}",
        *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
        records.cell(record.peak_fraction, ".0%"),
        record.best,
        records.milliseconds(record.best_ms_p50),
        records.cell(record.speedup_vs_best, ".2f", "x"),
        records.cell(record.speedup_vs_torch, ".2f", "x"),
    ]
