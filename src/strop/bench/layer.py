"""`strop bench layer`: forward and backward of a stack of LSTMs against `torch.nn.LSTM`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from strop.bench import machine, records
from strop.bench.check import STEPS, discrepancies
from strop.bench.measure import Case, Percentiles, PhaseClock, Sample, interleave, now
from strop.bench.presets import IMPLS, LAYER_PRESETS, PHASES, Impl, LayerPreset, Preset
from strop.bench.records import Record, Work
from strop.bench.stack import TorchStack, build, inputs
from strop.ops import dispatch

_INPUT_SETS = 3


@dataclass(frozen=True)
class Options:
    """Time forward and backward of a stack of LSTMs, phase by phase, against torch.nn.LSTM."""

    preset: LayerPreset = "zaremba-medium"
    """Whose sizes and dropout."""

    device: str = "cpu"
    """Where to run: cpu, cuda, …"""

    seconds: float = 30.0
    """How long to measure, roughly; at least 5 rounds are run."""

    threads: int | None = None
    """Threads for both sides; torch's own choice if not given."""

    json: Path | None = None
    """Also write the records to this file."""

    csv: Path | None = None
    """Also append rows, with machine and versions, to this file."""


def run(options: Options) -> int:
    device = machine.device(options.device)
    records.prepare(options.json, options.csv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    preset = LAYER_PRESETS[options.preset]
    torch.manual_seed(0)
    faults = check(preset, device)
    if faults:
        print("strop computes wrong values here, so it is not timed:", *faults, sep="\n  ", file=sys.stderr)
        return 1
    made, rounds, peak = measure(preset, device, options.seconds)
    provenance = machine.provenance(device)
    if options.json is not None:
        records.write_json(options.json, made)
    if options.csv is not None:
        records.append_csv(options.csv, provenance, rounds, peak, made)
    show(preset, made, rounds, peak, provenance)
    return 0


def check(preset: Preset, device: torch.device) -> list[str]:
    """What strop computes wrongly at the preset's sizes."""
    short = replace(preset, steps=min(preset.steps, STEPS))
    given, grad = inputs(short, device)

    def loss(model: nn.Module) -> tuple[Tensor, Tensor]:
        y = model(model.get_parameter("x"))
        return (y * grad.to(y.dtype)).sum(), y

    faults = []
    for impl in IMPLS:
        if impl == "torch":
            continue
        model = build(short, impl).to(device)
        model.register_parameter("x", nn.Parameter(given.detach()))  # its gradient is compared too
        faults += discrepancies(impl, model, loss)
    return faults


def measure(preset: Preset, device: torch.device, seconds: float) -> tuple[list[Record], int, float]:
    """Records, number of rounds, and peak GFLOP/s of one interleaved run."""
    sets = [inputs(preset, device) for _ in range(_INPUT_SETS)]
    clock = PhaseClock(device)
    cases: dict[str, Case] = {impl: _case(preset, impl, sets, clock, device) for impl in IMPLS}
    cases["peak"] = lambda _: {"gflops": machine.peak_gflops(device)}
    with dispatch.wrapped(clock):
        samples = interleave(cases, seconds)
    peak = Percentiles.of(samples.pop("peak")["gflops"]).p50
    work = {}
    for impl in IMPLS:
        phase = preset.operations(impl)
        ideal = None if impl == "torch" else preset.ideal(impl)
        work |= {(impl, name): Work(phase, ideal) for name in PHASES}
        work[impl, "overall"] = Work(len(PHASES) * phase, ideal)
    made = records.summarise("layer", preset.name, device.type, samples, work, peak)
    return made, len(samples["torch"]["overall"]), peak


def _case(
    preset: Preset,
    impl: Impl,
    sets: list[tuple[Tensor, Tensor]],
    clock: PhaseClock,
    device: torch.device,
) -> Callable[[int], Sample]:
    """One forward and backward through the module, as a user calls it."""
    model = build(preset, impl).to(device)

    def once(repetition: int) -> Sample:
        x, grad = sets[repetition % len(sets)]
        x.grad = None
        model.zero_grad(set_to_none=True)
        clock.take()
        start = now(device)
        y = model(x)
        forward = now(device)
        y.backward(grad)
        end = now(device)
        # torch computes BP and WG in one call; its FP is all of its forward.
        phases = {"fp": forward - start} if isinstance(model, TorchStack) else clock.take()
        return {**phases, "overall": end - start}

    return once


def show(
    preset: Preset, made: list[Record], rounds: int, peak: float, provenance: machine.Provenance
) -> None:
    header = [
        "",
        "phase",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "vs torch",
        "vs dense",
        "ideal",
        "GFLOP/s",
        "of peak",
    ]
    groups = [
        [_row(record) for record in made if record.impl == impl and record.ms_p50 is not None]
        for impl in IMPLS
    ]
    sizes = " → ".join(
        str(size)
        for size in (preset.stack[0].input, *(s.hidden for s in preset.stack for _ in range(s.count)))
    )
    notes = [
        f"LSTM stack {sizes}, batch {preset.batch}, {preset.steps} steps, dropout {preset.nr} (NR) and "
        f"{preset.rh} (RH), fp32; {rounds} interleaved rounds, {provenance.threads} threads, "
        f"backend {provenance.backend}.",
        f"Peak {peak:.0f} GFLOP/s ({machine.peak_source()}), measured in the same rounds; operations are "
        "those on kept columns. torch computes BP and WG in one call.",
    ]
    records.show(f"strop bench layer: {preset.name} on {provenance.cpu}", header, groups, notes)


def _row(record: Record) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        record.impl,
        record.phase.upper() if record.phase in PHASES else record.phase,
        *(cell(ms, ".2f") for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
        *(f"{cell(x, '.2f')}x" for x in (record.speedup_vs_torch, record.speedup_vs_dense, record.ideal)),
        cell(record.gflops, ".0f"),
        cell(record.peak_fraction, ".0%"),
    ]
