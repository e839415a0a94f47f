"""Hyper-parameters of word-level language models."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from strop.limits import check_ranges

Dropout = Literal["nr-random", "nr-st", "nr-rh-st"]
DROPOUTS: tuple[Dropout, ...] = get_args(Dropout)

ZarembaName = Literal["small", "zaremba-medium", "zaremba-large"]
PresetName = Literal["small", "zaremba-medium", "zaremba-large", "awd-lstm"]


def check_dropout(dropout: str) -> None:
    """Raises ValueError, naming the choice."""
    if dropout not in DROPOUTS:
        raise ValueError(f"dropout: {dropout!r}; it must be one of {', '.join(DROPOUTS)}")


@dataclass(frozen=True)
class Preset:
    """A model of Zaremba et al. (2014) and how it is trained.

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
        check_ranges(self, shares={"p"}, least={"decay_after": 0, "decay": 1})

    def describe(self) -> str:
        return f"p {self.p} · {self.layers} layers of {self.units} units"


@dataclass(frozen=True)
class AwdPreset:
    """A model of Merity et al. (2017), AWD-LSTM, and how it is trained.

    Attributes:
        embedding: size of the embedding, which is the softmax too, and of the last layer.
        units: size of the other LSTM layers.
        layers: LSTM layers.
        steps: words that back-propagation through time usually spans; see `strop.data.bptt`.
        batch: columns of text read side by side, in all processes together.
        input_dropout, layer_dropout, output_dropout: share of units dropped of the embedding, between the
            layers, before the softmax, in [0, 1).
        word_dropout: share of words dropped whole, in [0, 1).
        recurrent_dropout: share dropped of recurrent weights, or of hidden states on their way to the next
            step, in [0, 1).
        ar, tar: weights of the penalties on the last layer's activations and on their change over time.
        init: the embedding starts uniform in [-init, init].
        rate: of SGD on the mean loss, for a window of `steps` words.
        weight_decay: as in `torch.optim.SGD`.
        trigger: validations that may pass without a better one before weights are averaged.
        clip: largest 2-norm of the gradients together.
        epochs: passes over the training text.
    """

    embedding: int
    units: int
    layers: int
    steps: int
    batch: int
    input_dropout: float
    layer_dropout: float
    output_dropout: float
    word_dropout: float
    recurrent_dropout: float
    ar: float
    tar: float
    init: float
    rate: float
    weight_decay: float
    trigger: int
    clip: float
    epochs: int

    def __post_init__(self) -> None:
        check_ranges(self, shares=[field.name for field in fields(self) if field.name.endswith("_dropout")])

    def describe(self) -> str:
        sizes = [self.embedding, *[self.units] * (self.layers - 1), self.embedding]
        return f"sizes {' → '.join(map(str, sizes))}"


#: `zaremba-*`: Zaremba, Sutskever and Vinyals 2014, section 4.1, with what only their program says (the
#: two biases per gate, the loss summed over steps, the epoch of the first decay).
ZAREMBA: dict[ZarembaName, Preset] = {
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

#: Merity, Keskar and Socher 2017 with the dropouts and epochs of Sarma et al. (NeurIPS 2021), section 4.1;
#: the rest as in the defaults of Merity et al.'s program.
AWD = AwdPreset(
    embedding=400,
    units=1150,
    layers=3,
    steps=70,
    batch=80,
    input_dropout=0.4,
    layer_dropout=0.25,
    output_dropout=0.4,
    word_dropout=0.1,
    recurrent_dropout=0.5,
    ar=2.0,
    tar=1.0,
    init=0.1,
    rate=30.0,
    weight_decay=1.2e-6,
    trigger=5,
    clip=0.25,
    epochs=100,
)

PRESETS: dict[PresetName, Preset | AwdPreset] = {**ZAREMBA, "awd-lstm": AWD}


def preset_of(values: Mapping[str, Any]) -> Preset | AwdPreset:
    """The preset whose `asdict` without `epochs`, which no model depends on, is `values`.

    Raises ValueError.
    """
    for kind in (Preset, AwdPreset):
        if values.keys() == {field.name for field in fields(kind)} - {"epochs"}:
            return kind(**values, epochs=1)
    raise ValueError(f"preset: unknown settings {', '.join(values)}")
