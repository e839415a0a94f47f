"""The picture of what `strop bench keep` measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from strop.bench.presets import PHASES

_SERIES = {"keep": "kept share", "steps": "time steps", "batch": "batch"}


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draws time over kept share, steps and batch into the PNG `path`, with a row for each preset.

    Args:
        rows: of one machine, as in the CSV.
        path: replaced whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    presets = list(dict.fromkeys(row["preset"] for row in rows))
    figure = Figure(figsize=(12, 3.6 * len(presets)), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(presets), len(_SERIES), squeeze=False)
    for preset, line in zip(presets, grid, strict=True):
        for (series, label), axes in zip(_SERIES.items(), line, strict=True):
            for number, phase in enumerate(PHASES):
                wanted = (preset, series, phase)
                points = sorted(
                    (float(row[series]), float(row["ms_p50"]), float(row["ideal_ms"]))
                    for row in rows
                    if (row["preset"], row["series"], row["phase"]) == wanted
                )
                x, measured, ideal = zip(*points, strict=True) if points else ((), (), ())
                axes.plot(x, measured, f"C{number}o-", markersize=3, label=phase.upper())
                axes.plot(x, ideal, f"C{number}--", alpha=0.6)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.set_title(preset)
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
        line[0].set_ylabel("ms, p50; dashed: in proportion")
    grid[0][0].legend()
    partial = path.with_name(f".{path.name}.partial")
    # Neither date nor version, so that the same figures make the same file.
    figure.savefig(partial, format="png", metadata={"Software": None})
    partial.replace(path)
