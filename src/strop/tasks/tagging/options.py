"""The options of the command that trains: nothing here needs PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from strop.data.schemes import Scheme
from strop.tasks.options import OfPresets, TrainOptions, groups_of, with_given
from strop.tasks.tagging.presets import PRESETS, Dropout, Preset, PresetName

_TASK = ("data", "preset", "dropout", "vectors", "max_length")
# Every preset's hyper-parameters are options of the same names.
_HYPER_PARAMETERS = tuple(each.name for each in fields(Preset))


@dataclass(frozen=True)
class Options(OfPresets, TrainOptions):
    """Train a tagger for named entities (BiLSTM-CNN-CRF), with one of three kinds of dropout.

    Reports F1 by entity, as conlleval counts it, on the valid sentences while training, and on the test
    sentences with the best weights at the end. The run's folder receives curve.csv, curve.png, TensorBoard
    events, result.json, vocabulary.json and checkpoints; strop tag labels text with it. A run that was
    stopped in any way goes on exactly where it was with --resume.

    Several processes, each with its part of the batch:
    torchrun --standalone --nproc-per-node 2 -m strop train ner ...

    Attributes:
        data: Folder with one file each with train, valid and test in its name, in CoNLL-2003's format,
            plain or .gz: a word a line with its tag in the last column, an empty line after a sentence. The
            scheme of the tags (IOB1, IOB2 or IOBES) is found out.
        preset: Model and training. targer: as the TARGER framework, which Sarma et al. (2021) took;
            ma-hovy: as Ma and Hovy (2016).
        dropout: nr-random: torch's layers, single elements of the characters' and the words' embeddings
            dropped. nr-st: structured, on the LSTM's whole input, the same units for all sentences of the
            batch. nr-rh-st: hidden states too, in both directions, on their way to the next word.
        vectors: File of pre-trained word vectors in GloVe's text format, as wide as --word-units.
        max_length: Leave out training sentences of more words; their number is told.
        word_units: Size of a word's embedding.
        char_units: Size of a character's embedding.
        char_filters: Filters over a word's characters.
        char_groups: Parts of the character embedding convolved apart.
        char_width: Characters that a filter spans.
        units: Of the LSTM in each direction.
        p: Share dropped.
        output_p: Share dropped of the LSTM's output.
        scheme: The tags that the model predicts.
        batch: Sentences in a batch.
        rate: Learning rate.
        momentum: Of SGD.
        decay: The rate in epoch t, counted from 0, is rate / (1 + decay t).
        clip: Largest norm of the gradients.
    """

    command: ClassVar[str] = "train ner"
    presets: ClassVar[Mapping[Any, Any]] = PRESETS
    groups: ClassVar[Mapping[str, Sequence[str]]] = groups_of(_TASK, _HYPER_PARAMETERS)

    data: Path | None = None
    preset: PresetName = "targer"
    dropout: Dropout = "nr-rh-st"
    vectors: Path | None = None
    max_length: int | None = None
    word_units: int | None = None
    char_units: int | None = None
    char_filters: int | None = None
    char_groups: int | None = None
    char_width: int | None = None
    units: int | None = None
    p: float | None = None
    output_p: float | None = None
    scheme: Scheme | None = None
    batch: int | None = None
    rate: float | None = None
    momentum: float | None = None
    decay: float | None = None
    clip: float | None = None

    def resolved(self) -> Preset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        return with_given(PRESETS[self.preset], self)
