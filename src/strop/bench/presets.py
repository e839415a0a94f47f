"""The shapes that are measured, and how many operations their products need."""

from dataclasses import dataclass
from typing import Literal

from strop.pattern import Pattern
from strop.tasks.language import presets as language

Impl = Literal["torch", "dense", "nr-st", "nr-rh-st"]
IMPLS: tuple[Impl, ...] = ("torch", "dense", "nr-st", "nr-rh-st")
PHASES = ("fp", "bp", "wg")
#: The recipes' kind of dropout; "dense" is with nothing dropped.
DROPOUTS: dict[Impl, language.Dropout] = {
    "torch": "nr-random",
    "dense": "nr-st",
    "nr-st": "nr-st",
    "nr-rh-st": "nr-rh-st",
}


@dataclass(frozen=True)
class Layers:
    """`count` equal layers in one LSTM, in one direction or in both."""

    input: int
    hidden: int
    count: int = 1
    bidirectional: bool = False

    @property
    def directions(self) -> int:
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
class Preset:
    """A stack of LSTMs with its batch, steps and dropout: of inputs (NR) and of hidden states (RH).

    strop drops the input of every layer, torch's side what goes from one layer to the next. The first one's
    input it drops only if `torch_drops_input`: little of a stack's time, but a single layer's only dropout.
    """

    name: str
    stack: tuple[Layers, ...]
    batch: int
    steps: int
    nr: float
    rh: float
    torch_drops_input: bool = False

    @property
    def sizes(self) -> list[int]:
        """Units of the input and of every layer's output."""
        return [self.stack[0].input, *(layers.output for layers in self.stack for _ in range(layers.count))]

    def dropout(self, impl: Impl) -> tuple[float, float]:
        """The NR and RH dropout whose products `impl` runs on kept columns only."""
        return (self.nr if impl.startswith("nr") else 0.0, self.rh if impl == "nr-rh-st" else 0.0)

    def operations(self, impl: Impl) -> int:
        """Floating-point operations of one phase: FP, BP and WG each multiply by the same kept columns."""
        nr, rh = self.dropout(impl)
        total = 0
        for layers in self.stack:
            for units in layers.inputs:
                columns = _kept(nr, units) + _kept(rh, layers.hidden)
                total += layers.directions * 2 * self.steps * self.batch * 4 * layers.hidden * columns
        return total

    def ideal(self, impl: Impl) -> float:
        """How many times fewer operations `impl` needs than with nothing dropped, in every phase."""
        return self.operations("dense") / self.operations(impl)


def _kept(p: float, units: int) -> int:
    return Pattern.named("structured", p).kept(units)


LAYER_PRESETS = {
    preset.name: preset
    for preset in (
        # Sarma et al. (NeurIPS 2021), §4: Zaremba et al.'s language models, AWD-LSTM, Luong et al.'s
        # translation model. AWD-LSTM drops 0.25 of a layer's output and half of the recurrent weights.
        Preset("zaremba-medium", (Layers(650, 650, 2),), batch=20, steps=35, nr=0.5, rh=0.5),
        Preset("zaremba-large", (Layers(1500, 1500, 2),), batch=20, steps=35, nr=0.65, rh=0.65),
        Preset(
            "awd-lstm",
            (Layers(400, 1150), Layers(1150, 1150), Layers(1150, 400)),
            batch=80,
            steps=70,
            nr=0.25,
            rh=0.5,
        ),
        Preset("nmt-luong", (Layers(512, 512, 2),), batch=64, steps=30, nr=0.3, rh=0.3),
        # Ma and Hovy's tagger: a word's vector of 100 and its characters' of 30.
        Preset(
            "ner-bilstm",
            (Layers(130, 200, bidirectional=True),),
            batch=10,
            steps=40,
            nr=0.5,
            rh=0.5,
            torch_drops_input=True,
        ),
    )
}
LayerPreset = Literal["zaremba-medium", "zaremba-large", "awd-lstm", "nmt-luong", "ner-bilstm"]

# One layer of the language models' sizes.
PEER_PRESETS = {
    preset.name: preset
    for preset in (
        Preset("lstm-650", (Layers(650, 650),), batch=20, steps=35, nr=0.5, rh=0.5),
        Preset("lstm-1500", (Layers(1500, 1500),), batch=20, steps=35, nr=0.65, rh=0.65),
    )
}
PeerPreset = Literal["lstm-650", "lstm-1500"]


@dataclass(frozen=True)
class TrainPreset:
    """A language model with a vocabulary of `words`, and how it is trained."""

    name: str
    model: language.Preset
    words: int

    @property
    def layers(self) -> Preset:
        """Its LSTM stack."""
        model = self.model
        stack = (Layers(model.units, model.units, model.layers),)
        return Preset(self.name, stack, model.batch, model.steps, nr=model.p, rh=model.p)

    @property
    def tokens(self) -> int:
        """Words in a step."""
        return self.model.batch * self.model.steps

    def operations(self, impl: Impl) -> int:
        """Floating-point operations of a step's matrix products."""
        model = self.model
        nr, _ = self.layers.dropout(impl)
        projection = 2 * model.batch * model.steps * self.words * _kept(nr, model.units)
        return len(PHASES) * (self.layers.operations(impl) + projection)


_WORDS: dict[language.ZarembaName, int] = {
    "small": 5_000,  # about those of the embedded text
    "zaremba-medium": 10_000,  # Penn Treebank's
    "zaremba-large": 10_000,
}
TRAIN_PRESETS = {name: TrainPreset(name, language.ZAREMBA[name], words) for name, words in _WORDS.items()}


@dataclass(frozen=True)
class RecipePreset:
    """A recipe that reads sentences, and what those of its data are like.

    Attributes:
        command: that trains it.
        model: the command's preset.
        words: sizes of the vocabularies.
        batch: sentences.
        length, deviation: words of a sentence, mean and standard deviation.
    """

    name: str
    command: Literal["train ner", "train nmt"]
    model: str
    words: tuple[int, ...]
    batch: int
    length: float
    deviation: float

    @property
    def tokens(self) -> int:
        """Words in a step, on average."""
        return round(self.batch * self.length)


RECIPE_PRESETS = {
    preset.name: preset
    for preset in (
        # CoNLL-2003; Multi30k en-de without words that occur once.
        RecipePreset("ner-targer", "train ner", "targer", (21_010,), 10, 14.5, 11.6),
        RecipePreset("nmt-luong", "train nmt", "luong", (5_921, 7_859), 64, 13.0, 4.0),
    )
}
TrainName = Literal["small", "zaremba-medium", "zaremba-large", "ner-targer", "nmt-luong"]
