"""The options of the command that trains: nothing here needs PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from strop.data.errors import DataError
from strop.tasks.language.presets import Dropout
from strop.tasks.options import OfPresets, TrainOptions, groups_of, with_given
from strop.tasks.translation.presets import DATA_SETS, PRESETS, Preset, PresetName

_TASK = ("preset", "dropout", "src", "tgt", "data", "source", "target")
# Every preset's hyper-parameters are options of the same names.
_HYPER_PARAMETERS = tuple(each.name for each in fields(Preset))


@dataclass(frozen=True)
class Options(OfPresets, TrainOptions):
    """Train a translation model on parallel text, with one of three kinds of dropout.

    The model is that of Luong et al. (2015): an LSTM encoder and decoder with global attention and input
    feeding. Reports the perplexity per word and the BLEU score of greedy translations of the valid text
    while training, and both of the test text, translated by beam search with the best weights, at the
    end. The run's folder receives the vocabularies, curve.csv, curve.png, TensorBoard events, result.json
    and checkpoints; strop translate uses it. A run that was stopped in any way goes on exactly where it
    was with --resume.

    Several processes, each with its part of the batch:
    torchrun --standalone --nproc-per-node 2 -m strop train nmt ...

    Attributes:
        preset: Model and training. luong: on your own text, --src and --tgt. multi30k, iwslt15-en-vi,
            iwslt14-de-en: the data set of that name, prepared by those who publish it, in --data.
        dropout: nr-random: torch's layers, single elements dropped. nr-st: structured, the same units
            for all sentences of the batch. nr-rh-st: hidden states too, on their way to the next step,
            and what the attention reads.
        src: Three files in the language to translate from: train, valid and test. Plain text or .gz,
            UTF-8, a sentence per line, words parted by white space. Training pairs with an empty side are
            left out and counted; empty lines in valid and test are refused.
        tgt: The same in the language to translate into, line by line.
        data: Folder with the preset's data set.
        source: Language to translate from, e.g. en, if not the data set's.
        target: Language to translate into, e.g. fr, if not the data set's.
        units: Size of embeddings, layers and attention.
        layers: LSTM layers of the encoder, and of the decoder.
        batch: Sentence pairs per step.
        p: Share of units dropped.
        init: Bound of the uniform initial weights.
        rate: Learning rate.
        decay: What the rate is divided by.
        decay_after: The last epoch, counted from 0, at the full rate.
        decay_every: Epochs from one division to the next.
        clip: Largest norm of the gradients.
        max_length: Words; training pairs with a longer side are left out.
        max_size: Entries of each vocabulary at most.
        min_count: Words rarer in the training text are unknown.
        beam: Hypotheses side by side for the test text; 1 is greedy.
    """

    command: ClassVar[str] = "train nmt"
    presets: ClassVar[Mapping[Any, Any]] = PRESETS
    groups: ClassVar[Mapping[str, Sequence[str]]] = groups_of(_TASK, _HYPER_PARAMETERS)

    preset: PresetName = "luong"
    dropout: Dropout = "nr-rh-st"
    src: tuple[Path, ...] | None = None
    tgt: tuple[Path, ...] | None = None
    data: Path | None = None
    source: str | None = None
    target: str | None = None
    units: int | None = None
    layers: int | None = None
    batch: int | None = None
    p: float | None = None
    init: float | None = None
    rate: float | None = None
    decay: float | None = None
    decay_after: int | None = None
    decay_every: int | None = None
    clip: float | None = None
    max_length: int | None = None
    max_size: int | None = None
    min_count: int | None = None
    beam: int | None = None

    def resolved(self) -> Preset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        return with_given(PRESETS[self.preset], self)

    def texts(self) -> tuple[list[Path], list[Path]]:
        """The source and target files. Raises DataError where none or too many are named."""
        for name in ("source", "target"):
            if self.data is None and getattr(self, name) is not None:
                raise DataError(
                    f"{name}: {getattr(self, name)!r} names a language of a data set (--data); files of your "
                    "own are named by --src and --tgt alone"
                )
        if self.src is not None and self.tgt is not None and self.data is None:
            return list(self.src), list(self.tgt)
        if self.src is not None or self.tgt is not None:
            raise DataError("src, tgt: name both, three files each (train, valid, test), and no --data")
        data_set = DATA_SETS.get(self.preset)
        if data_set is None:
            raise DataError(
                f"src, tgt: the preset {self.preset} is for your own text: name the train, valid and test "
                "files of both languages, --src F F F --tgt F F F"
            )
        if self.data is None:
            raise DataError(f"data: name the folder that holds the data set. {data_set.where}")
        return data_set.find(self.data, self.source, self.target)
