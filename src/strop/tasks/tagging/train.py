"""Training a tagger: from Python by `train_tagger`, from the command line by `run`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from strop.data.conll import TaggedCorpus, load_tagged
from strop.data.vectors import read_vectors
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.files import loop_options
from strop.tasks.tagging.options import Options
from strop.tasks.tagging.predicting import VOCABULARIES
from strop.tasks.tagging.presets import Dropout, Preset
from strop.tasks.tagging.task import TaggingTask
from strop.training import LoopSettings, Progress, Result, World, train
from strop.training.progress import counted


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
        raise ValueError(
            "data: no folder was given; name one of tagged text in CoNLL-2003's format (--data DIR)"
        )
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
        f"{counted(torch.get_num_threads(), 'thread')} · {options.folder}"
    )
    files = {VOCABULARIES: task.vocabularies.to_json()}
    result = session.train(task, epochs=preset.epochs, clip=preset.clip, files=files)
    if "test" in task.evaluations:
        session.say(task.evaluations["test"].table())
    return result
