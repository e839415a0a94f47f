"""The table of what the kernels give without dropout, over the sizes that `benchmarks/routes.py` measured."""

from collections.abc import Sequence

from strop.bench.machines import ISAS, Row
from strop.bench.measure import Percentiles

_CELLS = {"LSTM": "LSTM", "GRU": "GRU", "RNN_TANH": "RNN"}
_PHASES = {"training": "forward + backward", "inference": "inference"}


def lines(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: torch's time over the kernels', for each kind of layer and phase.

    Raises:
        LookupError: no row has nothing dropped and both times.
    """
    dense = [row for row in rows if _ratio(row) is not None]
    if not dense:
        raise LookupError("routes.csv: no row in which nothing is dropped")
    isas = [isa for isa in reversed(ISAS) if any(row["isa"] == isa for row in dense)]
    header = ["layer", "", "times measured", *(f"{ISAS[isa]}: over torch's" for isa in isas)]
    found = []
    for cell, name in _CELLS.items():
        for phase, what in _PHASES.items():
            own = [row for row in dense if (row["cell"], row["phase"]) == (cell, phase)]
            cells = [[_ratio(row) or 0.0 for row in own if row["isa"] == isa] for isa in isas]
            if own:
                found.append([f"`nn.{name}`", what, str(len(own)), *map(_spread, cells)])
    return header, found


def _ratio(row: Row) -> float | None:
    drops = float(row["input_p"]) or float(row["recurrent_p"])
    if drops or not row["operator_ms"] or not row["kernels_ms"]:
        return None
    return float(row["operator_ms"]) / float(row["kernels_ms"])


def _spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    found = Percentiles.of(ratios)
    return f"**{found.p50:.2f}x** ({found.p20:.2f} to {found.p80:.2f})"
