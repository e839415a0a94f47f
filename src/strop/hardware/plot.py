"""Pictures of `strop hardware`: cycles and energy over p, the roofline, and times on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from strop.hardware.analysis import Analysis, Plan, analyse
from strop.hardware.arrays import Array
from strop.hardware.gpus import Gpu, speedup
from strop.hardware.products import PHASES, SCHEDULES, Schedule
from strop.hardware.remedies import Remedy
from strop.hardware.settings import Setting
from strop.hardware.systolic import Dataflow

_SHARES = [share / 20 for share in range(1, 20)]
_STYLES: dict[Plan, tuple[str, str]] = {
    "batched": ("#808080", "-"),
    "stepwise": ("#808080", "--"),
    "kept": ("#d1495b", "-"),
    "blocks": ("#66a182", "-"),
    "best": ("#2e4057", ":"),
}
_COLOURS = {"fp": "#2e6f95", "bp": "#d1495b", "wg": "#66a182"}
_MARKS: dict[Schedule, str] = {"batched": "s", "stepwise": "^", "kept": "o", "blocks": "D"}


def draw_array(setting: Setting, array: Array, dataflow: Dataflow | Literal["best"], path: Path) -> None:
    """Draws cycles and energy of a training step over the dropped share, and the roofline of its products."""
    figure, (cycles, energy, roof) = _figure(3)
    swept = [(share, analyse(setting.dropping(p=share), array, dataflow)) for share in _SHARES]
    plans = swept[-1][1].plans
    curve(cycles, swept, plans, lambda analysis, plan: analysis.sum(plan).total / 1e6)
    cycles.set_ylabel("million cycles of a training step")
    cycles.legend(fontsize=8, loc="upper right")
    curve(energy, swept, plans, lambda analysis, plan: analysis.sum(plan).energy / 1e9)
    energy.set_ylabel("energy, mJ" if array.energy.unit == "pJ" else f"energy, G {array.energy.unit}")
    draw_roof(roof, analyse(setting, array, dataflow))
    figure.suptitle(f"{setting.name}, batch {setting.batch}, on {array.name}")
    _save(figure, path)


def draw_comparison(analyses: Sequence[Analysis], path: Path) -> None:
    """Draws how fast a step of each setting is over a dense one, skipping everywhere and where it pays."""
    figure, (axes,) = _figure(1, height=1 + 0.6 * len(analyses))
    plans: tuple[tuple[Plan, Schedule, str], ...] = (
        ("kept", "stepwise", "skipping everywhere, over dense step by step"),
        ("kept", "batched", "skipping everywhere, over dense at once"),
        ("best", "batched", "skipping where it pays, over dense at once"),
    )
    series = {label: [each.speedup(plan, over) for each in analyses] for plan, over, label in plans}
    _bars(axes, [each.setting.name for each in analyses], series)
    axes.set_xlabel("whole training step, times faster")
    axes.set_title(f"on {analyses[0].array.name}", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center")
    _save(figure, path)


def draw_gpu(settings: Sequence[Setting], gpu: Gpu, path: Path) -> None:
    """Draws how much faster each phase is than dense step by step, and than all steps at once, over p."""
    figure, grid = _grid(len(settings), 2)
    overs: tuple[tuple[Schedule, str], ...] = (("stepwise", "step by step"), ("batched", "all steps at once"))
    ideal = [1 / (1 - share) for share in _SHARES]
    for setting, panels in zip(settings, grid, strict=True):
        for axes, (over, name) in zip(panels, overs, strict=True):
            for phase in PHASES:
                ratios = [speedup(setting.dropping(p=share), gpu, over, phase) for share in _SHARES]
                axes.plot(_SHARES, ratios, color=_COLOURS[phase], label=phase.upper())
            axes.plot(_SHARES, ideal, color="#808080", linestyle=":", label="1 / kept")
            axes.axhline(1, color="#808080", linewidth=0.8)
            axes.set_ylim(0, 6)
            axes.set_xlabel("p, share dropped")
            axes.set_ylabel(f"over dense, {name}")
            axes.set_title(f"{setting.name}, batch {setting.batch}", fontsize=10)
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.suptitle(f"on {gpu.name}")
    _save(figure, path)


def draw_remedies(found: Sequence[Remedy], path: Path) -> None:
    """Draws how fast skipping is over dense products for the input, as it is and with each remedy."""
    figure, (axes,) = _figure(1, height=0.7 + 0.55 * len(found))
    series = {phase.upper(): [each.over_batched(phase) for each in found] for phase in PHASES}
    _bars(axes, [each.name for each in found], series)
    axes.set_xlabel("skipping over dense products of all steps at once, for the input")
    axes.legend(fontsize=8, loc="upper right")
    setting, array = found[0].analysis.setting, found[0].analysis.array
    axes.set_title(f"{setting.name}, batch {setting.batch}, on {array.name}", fontsize=10)
    _save(figure, path)


def curve(
    axes: Any,
    swept: Sequence[tuple[float, Analysis]],
    plans: Sequence[Plan],
    value: Callable[[Analysis, Plan], float],
) -> None:
    """Draws a line for each plan over the dropped share."""
    for plan in plans:
        colour, line = _STYLES[plan]
        label = "skipping where it pays" if plan == "best" else SCHEDULES[plan]
        width = 2.5 if plan == "best" else 1.5
        points = [value(analysis, plan) for _, analysis in swept]
        axes.plot(
            [share for share, _ in swept], points, color=colour, linestyle=line, linewidth=width, label=label
        )
    # Room for a legend above the curves.
    axes.set_ylim(0, 1.65 * max(value(analysis, plan) for plan in plans for _, analysis in swept))
    axes.set_xlabel("p, share dropped")
    axes.grid(alpha=0.3)


def draw_roof(axes: Any, analysis: Analysis) -> None:
    """Draws what products reach, in multiply-adds a cycle, over multiply-adds for each word from memory."""
    array = analysis.array
    points = []
    for cost in analysis.costs:
        if cost.work.schedule != "stepwise" and cost.work.layer == 0:
            points.append((cost.macs / max(1, cost.dram.total), cost.macs / cost.total, cost.work))
    knee = array.macs / array.words_per_cycle
    left, right = min(knee, *(x for x, _, _ in points)) / 4, max(knee, *(x for x, _, _ in points)) * 4
    axes.plot([left, knee, right], [left * array.words_per_cycle, array.macs, array.macs], color="#808080")
    seen = set()
    for x, y, work in points:
        label = f"{work.phase.upper()}, {SCHEDULES[work.schedule]}"
        axes.plot(
            x,
            y,
            _MARKS[work.schedule],
            color=_COLOURS[work.phase],
            fillstyle="none" if work.schedule == "batched" else "full",
            markersize=6,
            label=None if label in seen else label,
        )
        seen.add(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("multiply-adds for a word from memory")
    axes.set_ylabel("multiply-adds a cycle")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _bars(axes: Any, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draws a group of three bars for each name, with their numbers, and a line where nothing is gained."""
    for offset, (label, values), colour in zip(
        (0.27, 0, -0.27), series.items(), _COLOURS.values(), strict=True
    ):
        places = [offset - number for number in range(len(names))]
        axes.barh(places, values, height=0.25, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.02, place, f"{value:.2f}", va="center", fontsize=7)
    axes.set_xlim(0, 1.15 * max(max(values) for values in series.values()))
    axes.axvline(1, color="#808080", linewidth=1)
    axes.set_yticks([-number for number in range(len(names))], names)


def _figure(panels: int, height: float = 3.8) -> tuple[Any, Any]:
    figure, grid = _grid(1, panels, height)
    return figure, grid[0]


def _grid(lines: int, panels: int, height: float = 3.8) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 4.2 * panels), height * lines), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, panels, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    """As PNG or SVG, by the name's end; the same figures make the same file."""
    import matplotlib

    form = path.suffix[1:]
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    partial = path.with_name(f".{path.name}.partial")
    with matplotlib.rc_context({"svg.hashsalt": "strop", "svg.fonttype": "path"}):
        figure.savefig(partial, format=form, metadata=metadata)
    partial.replace(path)
