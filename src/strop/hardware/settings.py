"""Networks with their batch, steps and dropout; among them the five of Sarma et al. (NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from strop.hardware.checks import check_count, check_text
from strop.hardware.layers import Drop, Layer, Linear

Dropout = Literal["nr-st", "nr-rh-st"]


@dataclass(frozen=True)
class Setting:
    """A network as it is trained.

    Args:
        name: what tables call it.
        layers: from the input on.
        batch: rows of a time step.
        steps: time steps of a sequence.
    """

    name: str
    layers: tuple[Layer | Linear, ...]
    batch: int
    steps: int

    def __post_init__(self) -> None:
        check_text("name", self.name)
        if not self.layers:
            raise ValueError("layers: there are none; at least one is needed")
        check_count("batch", self.batch)
        check_count("steps", self.steps)

    def dropping(self, **changes: float | int | None) -> Setting:
        """The same with other values of ``Drop``'s fields wherever something is dropped."""
        return replace(self, layers=tuple(_changed(layer, changes) for layer in self.layers))


def _changed(layer: Layer | Linear, changes: dict[str, float | int | None]) -> Layer | Linear:
    names = ("drop",) if isinstance(layer, Linear) else ("input_drop", "recurrent_drop")
    drops = {name: getattr(layer, name) for name in names}
    return replace(
        layer, **{name: None if drop is None else replace(drop, **changes) for name, drop in drops.items()}
    )


@dataclass(frozen=True)
class Layers:
    """Equal layers in one LSTM.

    Args:
        input: units of the first one's input.
        hidden: units of each direction.
        count: how many there are.
        bidirectional: whether each has two directions.
    """

    input: int
    hidden: int
    count: int = 1
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def output(self) -> int:
        """Units of every layer's output, directions side by side."""
        return self.directions * self.hidden

    @property
    def inputs(self) -> list[int]:
        """Units of every layer's input."""
        return [self.input, *[self.output] * (self.count - 1)]


@dataclass(frozen=True)
class Stack:
    """A stack of LSTMs with its batch, steps and dropout.

    Args:
        name: what tables call it.
        stack: LSTMs of one layer or of several equal ones, from the input on.
        batch: rows of a time step.
        steps: time steps of a sequence.
        nr: share that is dropped of every layer's input.
        rh: share that is dropped of hidden states.
    """

    name: str
    stack: tuple[Layers, ...]
    batch: int
    steps: int
    nr: float
    rh: float

    def setting(self, dropout: Dropout = "nr-rh-st", block: int = 1) -> Setting:
        """It with masks shared by the batch: of every layer's input, and of hidden states too."""
        return self.dropping(self.nr, self.rh if dropout == "nr-rh-st" else 0.0, block)

    def dropping(self, nr: float, rh: float, block: int = 1) -> Setting:
        """It with these shares dropped."""
        layers = tuple(
            Layer(
                units,
                part.hidden,
                directions=part.directions,
                input_drop=Drop(nr, block) if nr else None,
                recurrent_drop=Drop(rh, block) if rh else None,
            )
            for part in self.stack
            for units in part.inputs
        )
        return Setting(self.name, layers, self.batch, self.steps)


#: Sarma et al. (NeurIPS 2021), §4: Zaremba et al.'s language models, AWD-LSTM, Luong et al.'s translation
#: model, Ma and Hovy's tagger (a word's vector of 100 and its characters' of 30). AWD-LSTM drops 0.25 of a
#: layer's output and half of the recurrent weights.
PAPER = {
    stack.name: stack
    for stack in (
        Stack("zaremba-medium", (Layers(650, 650, 2),), batch=20, steps=35, nr=0.5, rh=0.5),
        Stack("zaremba-large", (Layers(1500, 1500, 2),), batch=20, steps=35, nr=0.65, rh=0.65),
        Stack(
            "awd-lstm",
            (Layers(400, 1150), Layers(1150, 1150), Layers(1150, 400)),
            batch=80,
            steps=70,
            nr=0.25,
            rh=0.5,
        ),
        Stack("nmt-luong", (Layers(512, 512, 2),), batch=64, steps=30, nr=0.3, rh=0.3),
        Stack("ner-bilstm", (Layers(130, 200, bidirectional=True),), batch=10, steps=40, nr=0.5, rh=0.5),
    )
}
PaperName = Literal["zaremba-medium", "zaremba-large", "awd-lstm", "nmt-luong", "ner-bilstm"]
