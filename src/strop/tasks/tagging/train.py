"""Training a tagger: from Python by `train_tagger`, from the command line by `run`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Unpack

import torch

from strop.data.conll import TaggedCorpus, load_tagged
from strop.data.schemes import Scheme
from strop.data.vectors import read_vectors
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.options import TrainOptions, loop_options, with_given
from strop.tasks.tagging.predict import VOCABULARIES
from strop.tasks.tagging.presets import PRESETS, Dropout, Preset, PresetName
from strop.tasks.tagging.task import TaggingTask
from strop.training import LoopSettings, Progress, Result, World, train


@dataclass(frozen=True)
class Options(TrainOptions):
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
        word_units: In place of the preset's: size of a word's embedding.
        char_units: In place of the preset's: size of a character's embedding.
        char_filters: In place of the preset's: filters over a word's characters.
        char_groups: In place of the preset's: parts of the character embedding convolved apart.
        char_width: In place of the preset's: characters that a filter spans.
        units: In place of the preset's: of the LSTM in each direction.
        p: In place of the preset's: share dropped.
        output_p: In place of the preset's: share dropped of the LSTM's output.
        scheme: In place of the preset's: the tags that the model predicts.
        batch: In place of the preset's: sentences in a batch.
        rate: In place of the preset's: learning rate.
        momentum: In place of the preset's: of SGD.
        decay: In place of the preset's: the rate in epoch t, counted from 0, is rate / (1 + decay t).
        clip: In place of the preset's: largest norm of the gradients.
    """

    command: ClassVar[str] = "train ner"

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

    @property
    def default_folder(self) -> Path:
        return Path("runs") / f"ner-{self.preset}-{self.dropout}"

    def resolved(self) -> Preset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        return with_given(PRESETS[self.preset], self)


def train_tagger(
    corpus: TaggedCorpus,
    preset: Preset,
    dropout: Dropout,
    out: Path,
    *,
    vectors: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    world: World | None = None,
    progress: Progress | None = None,
    **settings: Unpack[LoopSettings],
) -> Result:
    """Trains for `preset.epochs` and tests the best weights; the run's files are in the folder `out`.

    Further `settings` are those of `strop.training.LoopOptions`, e.g. `patience` and `resume`.

    Rows of the result (and of `out/curve.csv`) hold `train_loss`, the negative log-likelihood per word, and
    `valid_f1`, `valid_precision`, `valid_recall` and `valid_accuracy` in percent; its `test` the same of the
    test split. Raises `strop.training.RunError` and `ValueError`.
    """
    task = TaggingTask(corpus, preset, dropout, vectors=vectors, seed=seed, device=device, world=world)
    options = loop_options(out, preset, seed, {VOCABULARIES: task.vocabularies.to_json()}, settings)
    return train(task, options, world, progress)


def run(options: Options) -> int:
    """The command `strop train ner`: 0 when the run is complete."""
    preset = options.resolved()
    if options.data is None:
        raise ValueError("data: None; name a folder of tagged text in CoNLL-2003's format (--data DIR)")
    if options.max_length is not None and options.max_length < 1:
        raise ValueError(f"max_length: {options.max_length}; at least 1 is needed")
    data = options.data
    return command.run(options, options.dropout, lambda session: _train(options, data, preset, session))


def _train(options: Options, data: Path, preset: Preset, session: Session) -> Result:
    corpus = load_tagged(data)
    session.say(corpus.describe())
    if options.max_length is not None:
        kept = tuple(sentence for sentence in corpus.train if len(sentence) <= options.max_length)
        skipped = len(corpus.train) - len(kept)
        session.say(f"{skipped:,} training sentences of more than {options.max_length} words left out")
        corpus = replace(corpus, train=kept)
    vectors: dict[str, list[float]] = {}
    if options.vectors is not None:
        wanted = corpus.words()
        vectors = read_vectors(options.vectors, wanted, preset.word_units)
        session.say(f"{options.vectors}: vectors of {len(vectors):,} of the {len(wanted):,} distinct words")
    task = TaggingTask(
        corpus,
        preset,
        options.dropout,
        vectors=vectors,
        seed=options.seed,
        device=session.device,
        world=session.world,
    )
    session.say(
        f"{options.preset} · {options.dropout} · p {preset.p} · {preset.units} units in each direction · "
        f"{torch.get_num_threads()} threads · {options.folder}"
    )
    files = {VOCABULARIES: task.vocabularies.to_json()}
    result = session.train(task, epochs=preset.epochs, clip=preset.clip, files=files)
    if "test" in task.evaluations:
        session.say(task.evaluations["test"].table())
    return result
