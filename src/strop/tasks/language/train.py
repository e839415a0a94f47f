"""Training a language model: from Python by `train_language`, from the command line by `run`."""

from pathlib import Path
from typing import Unpack

import torch

from strop.data.text import Corpus, Vocabulary, load_corpus, naming
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.files import check_files, loop_options
from strop.tasks.language.awd import AwdModel
from strop.tasks.language.model import LanguageModel
from strop.tasks.language.options import Options
from strop.tasks.language.presets import AwdPreset, Dropout, Preset, preset_of
from strop.tasks.language.task import VOCABULARY, LanguageTask, build_model
from strop.training import LoopSettings, Progress, Result, RunFolderError, World, read_trained, train
from strop.training.progress import counted


def train_language(
    corpus: Corpus,
    preset: Preset | AwdPreset,
    dropout: Dropout,
    out: Path,
    *,
    tied: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    world: World | None = None,
    progress: Progress | None = None,
    **settings: Unpack[LoopSettings],
) -> Result:
    """Trains for `preset.epochs` and tests the best weights; the run's files are in the folder `out`.

    Further `settings` are those of `strop.training.LoopOptions`, e.g. `patience` and `resume`.

    Rows of the result (and of `out/curve.csv`) hold `train_perplexity` and `valid_perplexity`, its
    `test` holds `perplexity`. Raises `strop.training.RunError` and `ValueError`.
    """
    task = LanguageTask(corpus, preset, dropout, tied=tied, seed=seed, device=device, world=world)
    options = loop_options(out, preset, seed, task.files, settings)
    return train(task, options, world, progress)


def load(folder: Path | str) -> tuple[LanguageModel | AwdModel, Vocabulary]:
    """The best model of the run in `folder`, in evaluation mode on the CPU, and its vocabulary.

    Raises `strop.training.RunError` or `DataError`, naming what is missing or damaged.
    """
    folder = Path(folder)
    trained = read_trained(folder)
    check_files(folder)
    vocabulary = Vocabulary.read(folder / VOCABULARY)
    identity = trained.identity
    try:
        preset = preset_of(identity["preset"])
        model = build_model(len(vocabulary), preset, identity["dropout"], identity["tied"])
        model.load_state_dict(trained.weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunFolderError(f"{folder}: not a language model with its vocabulary ({error})") from error
    return model.eval(), vocabulary


def run(options: Options) -> int:
    """The command `strop train lm`: 0 when the run is complete."""
    preset = options.resolved()
    return command.run(options, options.dropout, lambda session: _train(options, preset, session))


def _train(options: Options, preset: Preset | AwdPreset, session: Session) -> Result:
    corpus = load_corpus(options.data)
    session.say(corpus.describe())
    session.say(
        f"{options.preset} · {options.dropout} · {preset.describe()} · "
        f"{counted(torch.get_num_threads(), 'thread')} · {options.folder}"
    )
    with naming(f"{corpus.name}, training text"):
        task = LanguageTask(
            corpus,
            preset,
            options.dropout,
            tied=options.tied,
            seed=options.seed,
            device=session.device,
            world=session.world,
        )
    return session.train(task, epochs=preset.epochs, clip=preset.clip, files=task.files)
