"""Training a translation model: from Python by `train_translation`, from the command line by `run`."""

from pathlib import Path
from typing import Unpack

import torch

from strop.data.parallel import ParallelCorpus, load_parallel
from strop.data.text import DataError
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.files import loop_options
from strop.tasks.language.presets import Dropout
from strop.tasks.translation.options import Options
from strop.tasks.translation.presets import DATA_SETS, Preset
from strop.tasks.translation.task import TranslationTask, bleu
from strop.training import LoopSettings, Progress, Result, World, train
from strop.training.progress import counted


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
        f"{preset.units} units · {counted(torch.get_num_threads(), 'thread')} · {options.folder}"
    )
    task = TranslationTask(
        corpus, preset, options.dropout, seed=options.seed, device=session.device, world=session.world
    )
    return session.train(task, epochs=preset.epochs, clip=preset.clip, files=task.files)
