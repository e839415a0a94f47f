"""`strop bench layer`: forward and backward of a stack of LSTMs against `torch.nn.LSTM`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strop import tables
from strop.bench import command, machine, records
from strop.bench.check import stack_discrepancies
from strop.bench.command import Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, PhaseClock, interleave, one_pass
from strop.bench.options import CommonOptions
from strop.bench.presets import IMPLS, LAYER_PRESETS, PHASES, LayerPreset, Preset
from strop.bench.records import Record, Work
from strop.bench.stack import build, inputs
from strop.functional.trial import runs_under_autocast
from strop.limits import find_device
from strop.ops import dispatch

_INPUT_SETS = 3


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time forward and backward of a stack of LSTMs, phase by phase, against torch.nn.LSTM."""

    preset: LayerPreset = "zaremba-medium"
    """Whose sizes and dropout."""

    seconds: float = 30.0
    """How long to measure, roughly; at least 5 rounds are run."""

    bf16: bool = False
    """All under torch.autocast to bfloat16, where strop and torch multiply it."""


def run(options: Options) -> int:
    preset, bf16 = LAYER_PRESETS[options.preset], options.bf16
    if bf16:
        _check_bf16(find_device(options.device))
    return command.run(
        options,
        lambda device: stack_discrepancies(preset, IMPLS[1:], device, bf16),
        lambda device: [measure(preset, device, options.seconds, bf16)],
        lambda timings, where, notes: show(preset, timings[0], where, notes),
        precision="autocast to bfloat16" if bf16 else "fp32",
    )


def _check_bf16(device: torch.device) -> None:
    """Refuses to measure what nothing is gained by. Raises ValueError."""
    reason = dispatch.why_not_bf16(device)
    if reason is None and not runs_under_autocast("LSTM", 4, device.type, torch.bfloat16, True):
        reason = "torch.nn.LSTM cannot run in it"
    if reason is not None:
        raise ValueError(f"bf16: {reason}; leave it out")


class _Autocast(nn.Module):
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.model(x).float()


def measure(preset: Preset, device: torch.device, seconds: float, bf16: bool = False) -> Timing:
    torch.manual_seed(0)
    sets = [inputs(preset, device) for _ in range(_INPUT_SETS)]
    clock = PhaseClock(device)
    models: dict[str, nn.Module] = {impl: build(preset, impl).to(device) for impl in IMPLS}
    if bf16:
        models = {impl: _Autocast(model, device) for impl, model in models.items()}
    cases: dict[str, Case] = {impl: one_pass(models[impl], sets, device, clock) for impl in IMPLS}
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
    name = "layer-bf16" if bf16 else "layer"
    made = records.summarise(name, preset.name, device.type, samples, work, peak)
    notes = ("torch computes BP and WG in one call.",)
    if bf16:
        notes += ("The peak is that of float32.",)
    return Timing(made, len(samples["torch"]["overall"]), peak, notes)


def show(preset: Preset, timing: Timing, where: Provenance, notes: list[str]) -> None:
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
        [_row(record) for record in timing.records if record.impl == impl and record.ms_p50 is not None]
        for impl in IMPLS
    ]
    shape = (
        f"LSTM stack {' → '.join(map(str, preset.sizes))}, batch {preset.batch}, {preset.steps} steps, "
        f"dropout {preset.nr} (NR) and {preset.rh} (RH)."
    )
    tables.show(f"strop bench layer: {preset.name} on {where.cpu}", header, groups, [shape, *notes])


def _row(record: Record) -> list[str]:
    return [
        record.impl,
        record.phase.upper() if record.phase in PHASES else record.phase,
        *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
        *(
            records.cell(ratio, ".2f", "x")
            for ratio in (record.speedup_vs_torch, record.speedup_vs_dense, record.ideal)
        ),
        records.cell(record.gflops, ".0f"),
        records.cell(record.peak_fraction, ".0%"),
    ]
