"""Hyper-parameters of word-level language models."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

Dropout = Literal["nr-random", "nr-st", "nr-rh-st"]
DROPOUTS: tuple[Dropout, ...] = get_args(Dropout)

PresetName = Literal["small", "zaremba-medium", "zaremba-large"]


@dataclass(frozen=True)
class Preset:
    """A model and how it is trained.

    Attributes:
        units: size of the embedding and of every LSTM layer.
        layers: LSTM layers.
        steps: words that back-propagation through time spans.
        batch: columns of text read side by side, in all processes together.
        p: share of units dropped, in [0, 1).
        init: every parameter, biases included, starts uniform in [-init, init].
        rate: of plain SGD on the loss summed over the steps and averaged over the batch.
        decay: the rate is divided by it after every epoch, from the end of epoch `decay_after + 1` on.
        clip: largest 2-norm of the gradients together.
        epochs: passes over the training text.
    """

    units: int
    layers: int
    steps: int
    batch: int
    p: float
    init: float
    rate: float
    decay: float
    decay_after: int
    clip: float
    epochs: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = {"p": 0, "decay_after": 0, "init": 0}.get(field.name, 1 if field.type is int else 0)
            if not value >= least or (field.name == "p" and not value < 1):
                allowed = "in [0, 1)" if field.name == "p" else f"at least {least}"
                raise ValueError(f"{field.name}: {value}; it must be {allowed}")


#: `zaremba-*`: Zaremba, Sutskever and Vinyals 2014, section 4.1, with what only their program says (the
#: two biases per gate, the loss summed over steps, the epoch of the first decay).
PRESETS: dict[PresetName, Preset] = {
    "small": Preset(
        units=256,
        layers=2,
        steps=20,
        batch=20,
        p=0.5,
        init=0.1,
        rate=1.0,
        decay=1.2,
        decay_after=6,
        clip=5.0,
        epochs=5,
    ),
    "zaremba-medium": Preset(
        units=650,
        layers=2,
        steps=35,
        batch=20,
        p=0.5,
        init=0.05,
        rate=1.0,
        decay=1.2,
        decay_after=6,
        clip=5.0,
        epochs=39,
    ),
    "zaremba-large": Preset(
        units=1500,
        layers=2,
        steps=35,
        batch=20,
        p=0.65,
        init=0.04,
        rate=1.0,
        decay=1.15,
        decay_after=14,
        clip=10.0,
        epochs=55,
    ),
}
