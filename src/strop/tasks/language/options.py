"""The options of the command that trains: nothing here needs PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from strop.tasks.language.presets import PRESETS, AwdPreset, Dropout, Preset, PresetName
from strop.tasks.options import OfPresets, TrainOptions, groups_of, with_given

# Every preset's hyper-parameters are options of the same names.
_HYPER_PARAMETERS = tuple(dict.fromkeys(field.name for kind in (Preset, AwdPreset) for field in fields(kind)))
_TASK = ("preset", "dropout", "data", "tied")


@dataclass(frozen=True)
class Options(OfPresets, TrainOptions):
    """Train a word-level LSTM language model on text, with one of three kinds of dropout.

    Reports the perplexity per word on the valid text while training, and on the test text with the best
    weights at the end. The run's folder receives curve.csv, curve.png, TensorBoard events, result.json
    and checkpoints. A run that was stopped in any way goes on exactly where it was with --resume.

    Several processes, each with its part of the batch:
    torchrun --standalone --nproc-per-node 2 -m strop train lm ...

    Attributes:
        preset: Model and training, see the table. zaremba-medium and zaremba-large are exactly as in
            Zaremba et al. (2014), awd-lstm is as in Merity et al. (2017); small takes minutes.
        dropout: nr-random: as published, on torch's layers. nr-st: structured, the same units for all rows
            of the batch. nr-rh-st: hidden states too, on their way to the next step.
        data: Folder with one file each with train, valid and test in its name, plain text or .gz.
            Without it: the English documentation that comes with Python.
        tied: Let the softmax use the embedding's weights; awd-lstm always does.
        units: Size of the layers; in awd-lstm all but the last, which is as wide as the embedding.
        layers: LSTM layers.
        steps: Words that back-propagation through time spans.
        batch: Columns of text read side by side.
        p: Share of units dropped. Not in awd-lstm.
        init: Bound of the uniform initial weights.
        rate: Learning rate.
        decay: Factor that divides the rate after every epoch. Not in awd-lstm.
        decay_after: The last epoch, counted from 0, at the full rate. Not in awd-lstm.
        clip: Largest norm of the gradients.
        embedding: Size of the embedding and of the last layer. awd-lstm only.
        input_dropout: Share of the embedding's units dropped. awd-lstm only.
        layer_dropout: Share of units dropped between the layers. awd-lstm only.
        output_dropout: Share of units dropped before the softmax. awd-lstm only.
        word_dropout: Share of words dropped whole. awd-lstm only.
        recurrent_dropout: Share dropped of recurrent weights or hidden states. awd-lstm only.
        ar: Weight of the penalty on activations. awd-lstm only.
        tar: Weight of the penalty on their change over time. awd-lstm only.
        weight_decay: Weight decay. awd-lstm only.
        trigger: Evaluations without a better one before the weights are averaged. awd-lstm only.
    """

    command: ClassVar[str] = "train lm"
    presets: ClassVar[Mapping[Any, Any]] = PRESETS
    groups: ClassVar[Mapping[str, Sequence[str]]] = groups_of(_TASK, _HYPER_PARAMETERS)

    preset: PresetName = "small"
    dropout: Dropout = "nr-rh-st"
    data: Path | None = None
    tied: bool = False
    units: int | None = None
    layers: int | None = None
    steps: int | None = None
    batch: int | None = None
    p: float | None = None
    init: float | None = None
    rate: float | None = None
    decay: float | None = None
    decay_after: int | None = None
    clip: float | None = None
    embedding: int | None = None
    input_dropout: float | None = None
    layer_dropout: float | None = None
    output_dropout: float | None = None
    word_dropout: float | None = None
    recurrent_dropout: float | None = None
    ar: float | None = None
    tar: float | None = None
    weight_decay: float | None = None
    trigger: int | None = None

    def resolved(self) -> Preset | AwdPreset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        preset = PRESETS[self.preset]
        own = [field.name for field in fields(preset)]
        for name in _HYPER_PARAMETERS:
            if name not in own and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: {getattr(self, name)}; the preset {self.preset} has no such setting. "
                    f"Its settings are {', '.join(own)}"
                )
        return with_given(preset, self)
