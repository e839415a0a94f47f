"""What became of every layer, as data and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

Action = Literal["swapped", "changed", "taken over", "put back", "left"]


@dataclass(frozen=True)
class Entry:
    """What became of a layer.

    Attributes:
        name: as in ``model.named_modules()``; empty for the model itself.
        before: the name of its class before.
        after: the name of its class now.
        action: ``swapped`` for a layer that got another class, ``changed`` for one of
            strop's that got another share, ``taken over`` for a dropout that the layer
            behind it does from now on, ``put back`` for one that it did, ``left`` for what stays as it was.
        why: of a layer that was left, the reason; else what it drops now, or no longer.
        concerned: whether it is a recurrent layer, a dropout, or a layer that got another class; the table
            only counts the others.
        gain: how many times as fast as before a layer is expected to train at the sizes of the example
            inputs, by the rule by which layers choose how to run; None where nothing is known. What is gained
            by dropping hidden states is not counted.
    """

    name: str
    before: str
    after: str
    action: Action
    why: str
    concerned: bool = True
    gain: float | None = None


class Report(Sequence[Entry]):
    """Entries for all layers (modules without children, and recurrent ones), in the model's order.

    A sequence of ``Entry``, returned by ``convert`` and ``revert``; ``str`` makes a table of it.

    Args:
        entries: of all layers.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __repr__(self) -> str:
        counts = Counter(entry.action for entry in self)
        return f"Report({', '.join(f'{count} {action}' for action, count in counts.items())})"

    @property
    def swapped(self) -> tuple[Entry, ...]:
        """The layers that got another class."""
        return self._of("swapped")

    @property
    def changed(self) -> tuple[Entry, ...]:
        """The layers that were strop's already, and got another share."""
        return self._of("changed")

    @property
    def taken_over(self) -> tuple[Entry, ...]:
        """The dropouts that the layers behind them do now."""
        return self._of("taken over")

    @property
    def put_back(self) -> tuple[Entry, ...]:
        """The dropouts that do their own work again, after ``revert``."""
        return self._of("put back")

    @property
    def left(self) -> tuple[Entry, ...]:
        """What stays as it was, and why."""
        return self._of("left")

    def _of(self, action: Action) -> tuple[Entry, ...]:
        return tuple(entry for entry in self if entry.action == action)

    def __str__(self) -> str:
        shown = [entry for entry in self if entry.concerned]
        rows = [("layer", "was", "is", "", "expected gain", "")] if shown else []
        for entry in shown:
            gain = "" if entry.gain is None else f"{entry.gain:.2f}x"
            name = entry.name or "(the model)"
            rows.append((name, entry.before, entry.after, entry.action, gain, entry.why))
        if not any(entry.gain is not None for entry in shown):
            rows = [(*row[:4], row[5]) for row in rows]
        others = Counter(entry.before for entry in self if not entry.concerned)
        lines = _aligned(rows) if rows else ["No recurrent layer, no dropout."]
        if others:
            kinds = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in others.items())
            lines.append(f"Other layers, left as they were: {kinds}.")
        return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
