"""The tables of `strop hardware` for systolic arrays."""

from __future__ import annotations

from collections.abc import Sequence

from strop import tables
from strop.hardware.analysis import Analysis, Plan, Sum
from strop.hardware.arrays import Array
from strop.hardware.products import PHASES, Phase, Schedule
from strop.hardware.remedies import Remedy, is_trapped
from strop.hardware.settings import Setting
from strop.hardware.systolic import DATAFLOWS

#: What tables call the plans. At once: all time steps in one product.
PLANS: dict[Plan, str] = {
    "batched": "dense at once",
    "stepwise": "dense by step",
    "kept": "kept by mask",
    "blocks": "kept by block",
    "best": "where it pays",
}


def show_array(analysis: Analysis, found: Sequence[Remedy]) -> None:
    """Prints every product of a setting on an array, and what helps where skipping loses."""
    header = ["product", "schedule", "flow", "kcycles", "stalled", "of peak"]
    header += ["SRAM M", "DRAM M", _unit(analysis.array), "over dense"]
    groups = [
        [row for matrix in analysis.matrices for row in _product_rows(analysis, phase, matrix)]
        for phase in PHASES
    ]
    groups.append([_row(analysis, "whole step", plan) for plan in analysis.plans])
    legend = (
        "At once: all time steps in one product, where steps need not wait. SRAM, DRAM: million words. "
        "over dense: the cycles of dense at once over these."
    )
    tables.show(_title(analysis.setting, analysis.array), header, groups, [legend, *advice(analysis)])
    if len(found) > 1:
        print()
        show_remedies(found)


def show_remedies(found: Sequence[Remedy]) -> None:
    """Prints what each remedy does for the products of the input, and for the whole step."""
    header = [
        "what helps",
        "schedule",
        "FP",
        "BP",
        "WG",
        "whole step",
        "kcycles",
        _unit(found[0].analysis.array),
    ]
    rows = []
    for each in found:
        best = each.analysis.sum("best")
        ratios = (f"{each.over_batched(phase):.2f}x" for phase in PHASES)
        cells = (f"{each.best:.2f}x", _thousands(best.total), _energy(best))
        rows.append([each.name, PLANS[each.schedule], *ratios, *cells])
    note = (
        "FP, BP and WG: of the input, skipping over dense at once, both with what the line names. "
        "whole step: each product dense or skipping as pays, over all dense."
    )
    tables.show("Changes that help skipping", header, [rows], [note])


def show_comparison(analyses: Sequence[Analysis]) -> None:
    """Prints a line for each setting on one array."""
    header = ["setting", "skipping", "over dense", "FP", "BP", "WG", "whole", "kcycles", "of peak"]
    header.append(_unit(analyses[0].array))
    rows: tuple[tuple[Plan, str, Schedule, str], ...] = (
        ("kept", "everywhere", "stepwise", "step by step"),
        ("kept", "everywhere", "batched", "at once"),
        ("best", "where it pays", "batched", "at once"),
    )
    groups = []
    for analysis in analyses:
        group = []
        for plan, name, over, over_name in rows:
            ratios = (f"{analysis.speedup(plan, over, phase):.2f}x" for phase in (*PHASES, None))
            whole = analysis.sum(plan)
            cells = (_thousands(whole.total), f"{whole.utilisation:.0%}", _energy(whole))
            group.append([analysis.setting.name, name, over_name, *ratios, *cells])
        groups.append(group)
    tables.show(f"Skipping over dense on {_machine(analyses[0].array)}", header, groups, [])


def advice(analysis: Analysis) -> list[str]:
    """What a setting should do on an array."""
    kind, best = analysis.matrices[0], analysis.speedup("best")
    lines = []
    if is_trapped(analysis):
        forward = analysis.of("kept", "fp", kind)[0].work
        rows = max(product.m for product in forward.products)
        ratios = ", ".join(
            f"{phase.upper()} {analysis.speedup('kept', 'batched', phase, kind):.2f}x" for phase in PHASES
        )
        lines.append(
            f"The trap: the product of one mask has {rows} rows; dense products have all {forward.rows} at "
            f"once. Skipping loses there ({kind}: {ratios})."
        )
    costs = analysis.of("best")
    skipping = [cost.work for cost in costs if cost.work.schedule not in ("batched", "stepwise")]
    where = dict.fromkeys(f"{work.phase.upper()} {work.matrix.name}" for work in skipping)
    if not skipping:
        lines.append("Skip nowhere: dense products are faster in every phase.")
    elif len(skipping) == len(costs):
        lines.append(f"Skip everywhere: the step is {best:.2f}x as fast as all dense.")
    else:
        lines.append(
            f"Skip in {', '.join(where)}, run the rest dense over all steps: "
            f"the step is {best:.2f}x as fast as all dense."
        )
    return lines


def _product_rows(analysis: Analysis, phase: Phase, matrix: str) -> list[list[str]]:
    """The schedules of one product that differ."""
    rows: dict[tuple[int, float], list[str]] = {}
    for schedule in analysis.schedules:
        costs = analysis.of(schedule, phase, matrix)
        total = analysis.sum(schedule, phase, matrix)
        if any(cost.work.schedule == schedule for cost in costs):
            rows.setdefault(
                (total.total, total.energy),
                _row(analysis, f"{phase.upper()} {matrix}", schedule, phase, matrix),
            )
    return list(rows.values())


def _row(
    analysis: Analysis, name: str, plan: Plan, phase: Phase | None = None, matrix: str | None = None
) -> list[str]:
    total = analysis.sum(plan, phase, matrix)
    flows = dict.fromkeys(cost.dataflow for cost in analysis.of(plan, phase, matrix))
    return [
        name,
        PLANS[plan],
        "/".join(flow for flow in DATAFLOWS if flow in flows),
        _thousands(total.total),
        f"{total.stalls / total.total:.0%}",
        f"{total.utilisation:.0%}",
        f"{total.sram / 1e6:,.1f}",
        f"{total.dram / 1e6:,.1f}",
        _energy(total),
        f"{analysis.speedup(plan, 'batched', phase, matrix):.2f}x",
    ]


def _title(setting: Setting, array: Array) -> str:
    return f"strop hardware: {describe(setting)} on {_machine(array)}"


def describe(setting: Setting) -> str:
    """Its name and sizes in a few words."""
    return f"{setting.name}, batch {setting.batch}, {setting.steps} steps"


def _machine(array: Array) -> str:
    several = f"{array.count} arrays of " if array.count > 1 else ""
    size = f"{several}{array.rows}x{array.columns}"
    name = "" if array.name == f"{array.rows}x{array.columns}" else f" ({array.name})"
    buffered = ", double-buffered" if array.double_buffered else ""
    return (
        f"{size}{name} at {array.clock:g} GHz, {array.bits} bits, {array.bandwidth:g} GB/s{buffered}, "
        f"energy {array.energy.name}"
    )


def _unit(array: Array) -> str:
    return "mJ" if array.energy.unit == "pJ" else f"G {array.energy.unit}"


def _energy(total: Sum) -> str:
    """Of pJ mJ, else thousands of millions."""
    return f"{total.energy / 1e9:,.2f}"


def _thousands(cycles: int) -> str:
    return f"{cycles / 1e3:,.0f}"
