"""Gains expected of a conversion, by the rule by which layers choose how to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from strop.conversion.watch import Call
from strop.functional import routes
from strop.functional.linear_costs import Sizes
from strop.ops import dispatch


class Times(NamedTuple):
    """Milliseconds that training takes by a layer, as expected on this CPU with torch's threads.

    Attributes:
        torchs: by torch's layer, with the dropout in front of it.
        stays: by strop's layer, if the dropout in front of it stays.
        taken: by strop's layer, if it has taken the dropout over.
    """

    torchs: float
    stays: float
    taken: float

    @property
    def gain(self) -> float:
        """How many times as fast as torch's layer it is."""
        return self.torchs / self.taken


def without_kernels(layer: nn.Module) -> str | None:
    """Why a layer on a CPU gains nothing by dropping units; None if it may, or nobody knows."""
    weight = next(layer.parameters())
    if not weight.is_cpu or dispatch.asked():
        return None
    return dispatch.why_not("native", weight)


def expected(layer: nn.Module, calls: Iterable[Call], p: float, twin: Any) -> Times | None:
    """Of a layer whose input is dropped by p; None where nothing is known, as on a GPU.

    Args:
        calls: those that were seen.
        twin: strop's layer with its settings.
    """
    weight = next(layer.parameters(), None)
    if weight is None or not weight.is_cpu or dispatch.asked() or dispatch.why_not("native", weight):
        return None
    if twin.pattern.batch_extent is not None:
        p = 0.0  # masks that rows do not share leave out no column
    total = Times(0.0, 0.0, 0.0)
    for (steps, batch), count in Counter(_sizes(calls, twin)).items():
        if isinstance(layer, nn.Linear):
            found = _of_linear(layer, steps, batch, p)
        else:
            found = _of_recurrent(layer, steps, batch, p, twin)
        if found is None:
            return None
        total = Times(*(sum_ + count * each for sum_, each in zip(total, found, strict=True)))
    return total if total.taken else None


def ratio(times: Sequence[Times]) -> float:
    """How many times as fast layers are expected to train if they take over a dropout that they all read."""
    return sum(each.stays for each in times) / sum(each.taken for each in times)


def sizes_read(calls: Iterable[Call], twin: nn.Module) -> str:
    """The largest input that a layer was seen to read."""
    steps, batch = max(_sizes(calls, twin), key=lambda size: size[0] * size[1])
    rows = f"{batch} row{'s' if batch > 1 else ''}"
    return rows if steps == 1 else f"{steps} steps of {rows}"


def _sizes(calls: Iterable[Call], twin: nn.Module) -> list[tuple[int, int]]:
    """Steps and rows of what was read; of packed sequences their mean."""
    found = []
    for call in calls:
        rows = call.shape[:-1]
        if call.steps is not None:
            steps, batch = call.steps, round(rows[0] / call.steps)
        elif isinstance(twin, nn.RNNBase) and len(rows) == 1:
            steps, batch = rows[0], 1
        elif len(rows) == 2:
            steps, batch = rows[::-1] if getattr(twin, "batch_first", False) else rows
        else:
            steps, batch = 1, (rows or (1,))[0]
        if steps * batch:
            found.append((steps, batch))
    return found


def _of_linear(layer: nn.Linear, steps: int, batch: int, p: float) -> Times | None:
    if not p:
        return Times(1.0, 1.0, 1.0)
    times = routes.expected_linear_times(Sizes(layer.in_features, layer.out_features, steps, batch, 1 - p))
    return None if times is None else Times(times[0], *times)


def _of_recurrent(layer: Any, steps: int, batch: int, p: float, twin: Any) -> Times | None:
    drops_states = bool(twin.recurrent_dropout)
    how: dict[str, Any] = {"steps": steps, "batch": batch, "drops_states": drops_states}
    mode, layers, later = getattr(layer, "mode", None) or _mode(layer), 1, 0
    if isinstance(layer, nn.RNNBase):
        how |= {"proj_size": layer.proj_size, "bidirectional": layer.bidirectional}
        layers = layer.num_layers
        later = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
    total = Times(0.0, 0.0, 0.0)
    for number in range(layers):
        units, share = (later, layer.dropout if p else 0.0) if number else (layer.input_size, p)
        dropping = routes.expected_times(mode, units, layer.hidden_size, input_dropout=share, **how)
        plain = routes.expected_times(mode, units, layer.hidden_size, **how)
        if dropping is None or plain is None:
            return None
        torchs, taken = dropping
        # Where states are dropped the kernels run in any case, on all of the input if the dropout stays.
        stays = plain[1] if drops_states and not number else taken if number else torchs
        total = Times(*(a + b for a, b in zip(total, (torchs, stays, taken), strict=True)))
    return total


def _mode(cell: nn.Module) -> str:
    if isinstance(cell, nn.RNNCell):
        return f"RNN_{cell.nonlinearity.upper()}"
    return "LSTM" if isinstance(cell, nn.LSTMCell) else "GRU"
