"""`strop bench train`: whole training steps of a recipe, against the same model on torch."""

from dataclasses import dataclass
from typing import Protocol

import torch

from strop import tables
from strop.bench import command, machine, records
from strop.bench.command import Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, interleave
from strop.bench.options import CommonOptions
from strop.bench.presets import IMPLS, RECIPE_PRESETS, TRAIN_PRESETS, Impl, TrainName
from strop.bench.records import Work
from strop.bench.train_language import LanguageSteps
from strop.bench.train_recipe import TaggingSteps, TranslationSteps


class Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def tokens(self) -> int:
        """Words in a step, on average."""
        ...


class Workload(Protocol):
    """What takes training steps."""

    @property
    def preset(self) -> Named: ...

    def describe(self) -> str: ...

    def operations(self, impl: Impl) -> int | None:
        """Floating-point operations of a step's matrix products, if known."""
        ...

    def check(self, device: torch.device) -> list[str]:
        """What strop computes wrongly."""
        ...

    def case(self, impl: Impl, device: torch.device) -> tuple[Case, str]:
        """A training step, and a note on how it is taken or nothing."""
        ...


WORKLOADS: dict[str, Workload] = {
    **{name: LanguageSteps(preset) for name, preset in TRAIN_PRESETS.items()},
    "ner-targer": TaggingSteps(RECIPE_PRESETS["ner-targer"]),
    "nmt-luong": TranslationSteps(RECIPE_PRESETS["nmt-luong"]),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time whole training steps of a recipe, embedding to optimiser, against torch."""

    preset: TrainName = "zaremba-medium"
    """Whose sizes and dropout: language models, the tagger of strop train ner, the translation model of strop
    train nmt."""

    seconds: float = 60.0
    """How long to measure, roughly; at least 5 rounds are run."""


def run(options: Options) -> int:
    workload = WORKLOADS[options.preset]
    return command.run(
        options,
        workload.check,
        lambda device: [measure(workload, device, options.seconds)],
        lambda timings, where, notes: show(workload, timings[0], where, notes),
    )


def measure(workload: Workload, device: torch.device, seconds: float) -> Timing:
    made = {impl: workload.case(impl, device) for impl in IMPLS}
    cases: dict[str, Case] = {impl: case for impl, (case, _) in made.items()}
    cases["peak"] = lambda _: {"gflops": machine.peak_gflops(device)}
    samples = interleave(cases, seconds)
    peak = Percentiles.of(samples.pop("peak")["gflops"]).p50
    work = {}
    dense = workload.operations("dense")
    for impl in IMPLS:
        own = workload.operations(impl)
        ideal = dense / own if dense and own and impl != "torch" else None
        work[impl, "overall"] = Work(own, ideal)
    summary = records.summarise("train", workload.preset.name, device.type, samples, work, peak)
    notes = tuple(dict.fromkeys(note for _, note in made.values() if note))
    return Timing(summary, len(samples["torch"]["overall"]), peak, notes)


def show(workload: Workload, timing: Timing, where: Provenance, notes: list[str]) -> None:
    header = [
        "",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "tokens/s",
        "vs torch",
        "vs dense",
        "ideal",
        "GFLOP/s",
        "of peak",
    ]
    rows = []
    for record in timing.records:
        if record.ms_p50 is not None:
            rows.append(
                [
                    record.impl,
                    *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
                    f"{workload.preset.tokens / record.ms_p50 * 1e3:,.0f}",
                    records.cell(record.speedup_vs_torch, ".2f", "x"),
                    records.cell(record.speedup_vs_dense, ".2f", "x"),
                    records.cell(record.ideal, ".2f", "x"),
                    records.cell(record.gflops, ".0f"),
                    records.cell(record.peak_fraction, ".0%"),
                ]
            )
    title = f"strop bench train: {workload.preset.name} on {where.cpu}"
    tables.show(title, header, [rows], [workload.describe(), *notes])
