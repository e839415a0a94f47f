"""The shapes that are measured, and how many operations their products need."""

from dataclasses import dataclass
from typing import Literal

from strop.hardware import PAPER, Drop, Linear, Stack, operations
from strop.hardware.settings import Layers, PaperName
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
class Preset(Stack):
    """A stack of LSTMs with its batch, steps and dropout: of inputs (NR) and of hidden states (RH).

    strop drops the input of every layer, torch's side what goes from one layer to the next. The first one's
    input it drops only if `torch_drops_input`: little of a stack's time, but a single layer's only dropout.
    """

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
        setting = self.dropping(*self.dropout(impl))
        return operations(setting.layers, self.batch, self.steps, phase="fp")

    def ideal(self, impl: Impl) -> float:
        """How many times fewer operations `impl` needs than with nothing dropped, in every phase."""
        return self.operations("dense") / self.operations(impl)


# The five of Sarma et al. (NeurIPS 2021). A tagger's single layer has no dropout but that of its input.
LAYER_PRESETS = {
    name: Preset(**vars(stack), torch_drops_input=name == "ner-bilstm") for name, stack in PAPER.items()
}
LayerPreset = PaperName

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
        stack = self.layers
        nr, rh = stack.dropout(impl)
        projection = Linear(self.model.units, self.words, Drop(nr) if nr else None)
        layers = (*stack.dropping(nr, rh).layers, projection)
        return operations(layers, stack.batch, stack.steps)


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
