"""What `strop hardware --json` writes: numbers and names."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from strop.hardware import paper
from strop.hardware.analysis import Analysis
from strop.hardware.arrays import Array
from strop.hardware.gpu_report import Case
from strop.hardware.gpus import Gpu, speedup
from strop.hardware.products import PHASES
from strop.hardware.remedies import Remedy
from strop.hardware.settings import Dropout, Setting


def array_file(
    array: Array, dataflow: str, made: Sequence[tuple[Analysis, Sequence[Remedy]]]
) -> dict[str, Any]:
    """Several analyses on one array with what helps each."""
    settings = [array_record(analysis, found) for analysis, found in made]
    return {"array": asdict(array), "dataflow": dataflow, "settings": settings}


def gpu_file(gpu: Gpu, cases: Sequence[Case]) -> dict[str, Any]:
    """Several settings on one GPU."""
    return {"gpu": asdict(gpu), "settings": [gpu_record(setting, gpu, dropout) for setting, dropout in cases]}


def array_record(analysis: Analysis, found: Sequence[Remedy] = ()) -> dict[str, Any]:
    """An analysis as numbers and names for JSON."""
    setting = analysis.setting
    return {
        "setting": setting.name,
        "batch": setting.batch,
        "steps": setting.steps,
        "array": analysis.array.name,
        "energy_unit": analysis.array.energy.unit,
        "products": [
            {
                "layer": cost.work.layer,
                "matrix": cost.work.matrix.name,
                "phase": cost.work.phase,
                "schedule": cost.work.schedule,
                "dataflow": cost.dataflow,
                "macs": cost.macs,
                "cycles": cost.cycles,
                "stalls": cost.stalls,
                "utilisation": _short(cost.utilisation),
                "sram_words": cost.sram.total,
                "dram_words": cost.dram.total,
                "energy": _short(cost.energy),
            }
            for cost in analysis.costs
        ],
        "step": [
            {
                "plan": plan,
                "cycles": total.cycles,
                "stalls": total.stalls,
                "utilisation": _short(total.utilisation),
                "sram_words": total.sram,
                "dram_words": total.dram,
                "energy": _short(total.energy),
                "over_batched": _short(analysis.speedup(plan)),
                "over_stepwise": _short(analysis.speedup(plan, "stepwise")),
            }
            for plan in analysis.plans
            for total in (analysis.sum(plan),)
        ],
        "remedies": [
            {
                "name": each.name,
                "schedule": each.schedule,
                "over_batched": {phase: _short(each.over_batched(phase)) for phase in PHASES},
                "over_stepwise": {phase: _short(each.over_stepwise(phase)) for phase in PHASES},
                "best_over_batched": _short(each.best),
                "best_cycles": each.analysis.sum("best").total,
                "best_energy": _short(each.analysis.sum("best").energy),
            }
            for each in found
        ],
    }


def gpu_record(setting: Setting, gpu: Gpu, dropout: Dropout | None) -> dict[str, Any]:
    """A setting on a GPU as numbers and names for JSON."""
    phases = (*PHASES, None)
    return {
        "setting": setting.name,
        "dropout": dropout,
        "gpu": gpu.name,
        "over_stepwise": {
            phase or "overall": _short(speedup(setting, gpu, "stepwise", phase)) for phase in phases
        },
        "over_batched": {
            phase or "overall": _short(speedup(setting, gpu, "batched", phase)) for phase in phases
        },
        "measured": None
        if dropout is None or (setting.name, dropout) not in paper.MEASURED
        else {**paper.MEASURED[setting.name, dropout], "overall": paper.OVERALL[setting.name, dropout]},
    }


def _short(value: float) -> float:
    """Six figures, so that the same numbers make the same file everywhere."""
    return float(f"{value:.6g}")
