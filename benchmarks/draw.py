"""Learning curves as pictures: a metric over training time beside the same over epochs, a training each."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from strop.training.files import write_atomically

Row = Mapping[str, float]
#: By kind of dropout, seeds of it: the rows of their curves.
Curves = Mapping[str, Sequence[Sequence[Row]]]

LABELS = {
    "nr-random": "torch.nn.LSTM, random (nr-random)",
    "nr-st": "structured inputs (nr-st)",
    "nr-rh-st": "structured inputs and hidden states (nr-rh-st)",
}
_COLOURS = {"nr-random": "#777777", "nr-st": "#1f77b4", "nr-rh-st": "#d62728"}


def draw(title: str, metric: str, curves: Curves, path: Path) -> None:
    """Draws `valid_<metric>` into the PNG `path`: the mean of the seeds and the band that several span."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    values = []
    for dropout, seeds in curves.items():
        epochs, hours, mean, low, high = _over_seeds(seeds, f"valid_{metric}")
        values += mean
        for axes, x in zip(panels, (hours, epochs), strict=True):
            colour = _COLOURS[dropout]
            marker = "." if len(x) <= 20 else ""
            axes.plot(x, mean, marker=marker, color=colour, label=LABELS[dropout])
            if len(seeds) > 1:
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    for axes, label in zip(panels, ("hours of training, evaluation excluded", "epochs"), strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    _frame(panels[0], values)
    if panels[0].get_yscale() == "log":
        for axis in (panels[0].yaxis, panels[1].yaxis):
            for place in (axis.set_major_formatter, axis.set_minor_formatter):
                place(ScalarFormatter())
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"valid {_name(metric)}")
    count = max(len(seeds) for seeds in curves.values())
    figure.suptitle(title + (f", mean and range of {count} seeds" if count > 1 else ""))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _over_seeds(seeds: Sequence[Sequence[Row]], column: str) -> tuple[list[float], ...]:
    """Epochs, mean hours, and mean, least and greatest `column` of the evaluations that all seeds have."""
    together = list(zip(*seeds, strict=False))
    values = [[row[column] for row in rows] for rows in together]
    return (
        [rows[0]["epoch"] for rows in together],
        [sum(row["train_seconds"] for row in rows) / len(rows) / 3600 for rows in together],
        [sum(each) / len(each) for each in values],
        [min(each) for each in values],
        [max(each) for each in values],
    )


def _frame(axes: object, values: Sequence[float]) -> None:
    """Shows the end of training in detail: a perplexity begins far above it, a score far below."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if low > 0 and high > 3 * low and ordered[len(ordered) // 2] < (low + high) / 2:
        axes.set_yscale("log")  # pyright: ignore[reportAttributeAccessIssue]
    elif ordered[len(ordered) // 2] > (low + high) / 2:
        middle = ordered[len(ordered) // 2]
        margin = 0.1 * (high - middle) + 0.5
        axes.set_ylim(max(low - margin, middle - 4 * (high - middle)), high + margin)  # pyright: ignore[reportAttributeAccessIssue]


def _name(metric: str) -> str:
    return {"bleu": "BLEU", "f1": "F1"}.get(metric, metric)
