"""The tables of `strop hardware` for GPUs."""

from collections.abc import Sequence

from strop import tables
from strop.hardware import paper
from strop.hardware.counts import works
from strop.hardware.gpus import Gpu, seconds, speedup, tiling
from strop.hardware.products import PHASES, Schedule
from strop.hardware.report import PLANS, describe
from strop.hardware.settings import Dropout, Setting

#: A setting, and the dropout of the paper's that it has; None if it is none of the paper's.
Case = tuple[Setting, Dropout | None]


def show_gpu(setting: Setting, gpu: Gpu, dropout: Dropout | None) -> None:
    """Prints how products are cut into tiles, the times that follow, and what was measured, if it was."""
    groups = []
    for phase in PHASES:
        group = []
        for schedule in ("batched", "stepwise", "kept"):
            chosen = [
                each
                for each in works(setting.layers, setting.batch, setting.steps, schedule)
                if each.phase == phase
            ]
            for each in chosen[: len(setting.layers[0].matrices())]:
                product = each.products[0]
                cut = tiling(product, gpu)
                group.append(
                    [
                        f"{phase.upper()} {each.matrix.name}",
                        PLANS[schedule],
                        f"{each.matrix.copies * sum(product.times for product in each.products)}",
                        f"{product.m} x {product.k} x {product.n}",
                        *(str(value) for value in (cut.tiles, cut.waves, cut.loop)),
                        *(f"{value / 1e6:.2f}" for value in (cut.loads, cut.stores)),
                        f"{seconds(each, gpu) * 1e3:.3f}",
                    ]
                )
        groups.append(sorted(group, key=lambda row: row[0]))
    header = ["layer 1", "schedule", "times", "M x K x N", "tiles", "waves", "loop"]
    header += ["loads, M", "stores, M", "ms"]
    title = f"strop hardware: {describe(setting)} on {gpu.name}, {gpu.multiprocessors} multiprocessors"
    tile = " x ".join(map(str, gpu.tile))
    tables.show(f"{title}, tiles of {tile}, {gpu.bits} bits", header, groups, [])
    print()
    show_gpu_comparison([(setting, dropout)], gpu)


def show_gpu_comparison(settings: Sequence[Case], gpu: Gpu) -> None:
    """Prints a GPU's speed-ups of each setting by phase, beside those of Sarma et al.'s Tables 1 to 3."""
    header = ["setting", "over", "FP", "BP", "WG", "whole"]
    overs: tuple[tuple[Schedule, str], ...] = (("stepwise", "by step"), ("batched", "at once"))
    groups = []
    for setting, dropout in settings:
        label = setting.name if dropout is None else f"{setting.name} {dropout.upper().replace('-', '+')}"
        group = [
            [
                label,
                f"dense, {name}",
                *(f"{speedup(setting, gpu, over, phase):.2f}x" for phase in (*PHASES, None)),
            ]
            for over, name in overs
        ]
        measured = None if dropout is None else paper.MEASURED.get((setting.name, dropout))
        if dropout is not None and measured is not None:
            figures = [measured[phase] for phase in PHASES] + [paper.OVERALL[setting.name, dropout]]
            group.append([label, "measured (TITAN V)", *(f"{value:.2f}x" for value in figures)])
        groups.append(group)
    notes = [
        "At once: all time steps in one product, where steps need not wait. Measured: Sarma et al. (2021)."
    ]
    tables.show(f"Skipping over dense on {gpu.name}, as tiles have it", header, groups, notes)
