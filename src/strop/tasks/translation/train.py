"""Training a translation model: from Python by `train_translation`, from the command line by `run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

import torch

from strop.data.parallel import ParallelCorpus, load_parallel
from strop.data.text import DataError
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.language.presets import Dropout
from strop.tasks.options import TrainOptions, loop_options, with_given
from strop.tasks.translation.presets import DATA_SETS, PRESETS, Preset, PresetName
from strop.tasks.translation.task import TranslationTask, bleu
from strop.training import LoopSettings, Progress, Result, World, train


@dataclass(frozen=True)
class Options(TrainOptions):
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
        source: In place of the preset's: language to translate from, e.g. en.
        target: In place of the preset's: language to translate into, e.g. fr.
        units: In place of the preset's: size of embeddings, layers and attention.
        layers: In place of the preset's: LSTM layers of the encoder, and of the decoder.
        batch: In place of the preset's: sentence pairs per step.
        p: In place of the preset's: share of units dropped.
        init: In place of the preset's: bound of the uniform initial weights.
        rate: In place of the preset's: learning rate.
        decay: In place of the preset's: what the rate is divided by.
        decay_after: In place of the preset's: the last epoch, counted from 0, at the full rate.
        decay_every: In place of the preset's: epochs from one division to the next.
        clip: In place of the preset's: largest norm of the gradients.
        max_length: In place of the preset's: words; training pairs with a longer side are left out.
        max_size: In place of the preset's: entries of each vocabulary at most.
        min_count: In place of the preset's: words rarer in the training text are unknown.
        beam: In place of the preset's: hypotheses side by side for the test text; 1 is greedy.
    """

    command: ClassVar[str] = "train nmt"

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

    @property
    def default_folder(self) -> Path:
        return Path("runs") / f"nmt-{self.preset}-{self.dropout}"

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


def train_translation(
    corpus: ParallelCorpus,
    preset: Preset,
    dropout: Dropout,
    out: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    world: World | None = None,
    progress: Progress | None = None,
    **settings: Unpack[LoopSettings],
) -> Result:
    """Trains for `preset.epochs` and tests the best weights; the run's files are in the folder `out`.

    Further `settings` are those of `strop.training.LoopOptions`, e.g. `patience` and `resume`.

    Rows of the result (and of `out/curve.csv`) hold `train_perplexity`, `valid_perplexity` and
    `valid_bleu`, its `test` holds `perplexity` and `bleu`. Raises `strop.training.RunError` and
    `ValueError`.
    """
    task = TranslationTask(corpus, preset, dropout, seed=seed, device=device, world=world)
    options = loop_options(out, preset, seed, task.files, settings)
    return train(task, options, world, progress)


def run(options: Options) -> int:
    """The command `strop train nmt`: 0 when the run is complete."""
    preset = options.resolved()
    texts = options.texts()
    return command.run(options, options.dropout, lambda session: _train(options, preset, texts, session))


def _train(
    options: Options, preset: Preset, texts: tuple[list[Path], list[Path]], session: Session
) -> Result:
    corpus = load_parallel(
        *texts, max_size=preset.max_size, min_count=preset.min_count, max_length=preset.max_length
    )
    if corpus.pieces:
        pieces = "the text is in pieces of words (BPE, ending in @@)"
        if options.data is not None:
            raise DataError(
                f"data: {texts[0][0]}: {pieces}, but BLEU of the preset {options.preset} is that of words; "
                f"name the folder with the words. {DATA_SETS[options.preset].where}"
            )
        session.say(f"{pieces}: BLEU and perplexity are of these, not comparable with those of words")
    session.say(corpus.describe())
    _, signature = bleu(["a"], ["a"])
    session.say(f"BLEU by sacrebleu: {signature}; valid: greedy, test: beam of {preset.beam}")
    session.say(
        f"{options.preset} · {options.dropout} · p {preset.p} · {preset.layers} + {preset.layers} layers of "
        f"{preset.units} units · {torch.get_num_threads()} threads · {options.folder}"
    )
    task = TranslationTask(
        corpus, preset, options.dropout, seed=options.seed, device=session.device, world=session.world
    )
    return session.train(task, epochs=preset.epochs, clip=preset.clip, files=task.files)
