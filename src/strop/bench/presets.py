"""The shapes that are measured, and how many operations their products need."""

from dataclasses import dataclass
from typing import Literal

from strop.pattern import Pattern

Impl = Literal["torch", "dense", "nr-st", "nr-rh-st"]
IMPLS: tuple[Impl, ...] = ("torch", "dense", "nr-st", "nr-rh-st")
PHASES = ("fp", "bp", "wg")


@dataclass(frozen=True)
class Layers:
    """`count` equal layers in one LSTM."""

    input: int
    hidden: int
    count: int = 1


@dataclass(frozen=True)
class Preset:
    """A stack of LSTMs with its batch, steps and dropout: of inputs (NR) and of hidden states (RH)."""

    name: str
    stack: tuple[Layers, ...]
    batch: int
    steps: int
    nr: float
    rh: float

    @property
    def sizes(self) -> list[int]:
        """Units of the input and of every layer."""
        return [self.stack[0].input, *(layers.hidden for layers in self.stack for _ in range(layers.count))]

    def dropout(self, impl: Impl) -> tuple[float, float]:
        """The NR and RH dropout whose products `impl` runs on kept columns only."""
        return (self.nr if impl.startswith("nr") else 0.0, self.rh if impl == "nr-rh-st" else 0.0)

    def operations(self, impl: Impl) -> int:
        """Floating-point operations of one phase: FP, BP and WG each multiply by the same kept columns."""
        nr, rh = self.dropout(impl)
        total = 0
        for layers in self.stack:
            for layer in range(layers.count):
                columns = _kept(nr, layers.hidden if layer else layers.input) + _kept(rh, layers.hidden)
                total += 2 * self.steps * self.batch * 4 * layers.hidden * columns
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
    )
}
LayerPreset = Literal["zaremba-medium", "zaremba-large", "awd-lstm", "nmt-luong"]


@dataclass(frozen=True)
class TrainPreset:
    """A language model: embedding, the LSTM stack, softmax over `words`; gradients clipped to norm `clip`."""

    name: str
    layers: Preset
    words: int
    clip: float
    init: float

    def operations(self, impl: Impl) -> int:
        """Floating-point operations of a step's matrix products."""
        nr, _ = self.layers.dropout(impl)
        tokens = self.layers.batch * self.layers.steps
        projection = 2 * tokens * self.words * _kept(nr, self.layers.stack[-1].hidden)
        return len(PHASES) * (self.layers.operations(impl) + projection)


_SMALL = Preset("small", (Layers(256, 256, 2),), batch=20, steps=35, nr=0.5, rh=0.5)
TRAIN_PRESETS = {
    preset.name: preset
    for preset in (
        TrainPreset("zaremba-medium", LAYER_PRESETS["zaremba-medium"], 10_000, clip=5.0, init=0.05),
        TrainPreset("zaremba-large", LAYER_PRESETS["zaremba-large"], 10_000, clip=10.0, init=0.04),
        TrainPreset("small", _SMALL, 5_000, clip=5.0, init=0.1),
    )
}
TrainPresetName = Literal["zaremba-medium", "zaremba-large", "small"]
