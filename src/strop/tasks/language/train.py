"""Training a language model: from Python by `train_language`, from the command line by `run`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Unpack

import torch

from strop.data.text import Corpus, Vocabulary, load_corpus, naming
from strop.tasks import command
from strop.tasks.command import Session
from strop.tasks.language.awd import AwdModel
from strop.tasks.language.model import LanguageModel
from strop.tasks.language.presets import PRESETS, AwdPreset, Dropout, Preset, PresetName, preset_of
from strop.tasks.language.task import VOCABULARY, LanguageTask, build_model
from strop.tasks.options import TrainOptions, check_files, loop_options, with_given
from strop.training import LoopSettings, Progress, Result, RunFolderError, World, read_trained, train

# Every preset's hyper-parameters are options of the same names.
_HYPER_PARAMETERS = tuple(dict.fromkeys(field.name for kind in (Preset, AwdPreset) for field in fields(kind)))


@dataclass(frozen=True)
class Options(TrainOptions):
    """Train a word-level LSTM language model on text, with one of three kinds of dropout.

    Reports the perplexity per word on the valid text while training, and on the test text with the best
    weights at the end. The run's folder receives curve.csv, curve.png, TensorBoard events, result.json
    and checkpoints. A run that was stopped in any way goes on exactly where it was with --resume.

    Several processes, each with its part of the batch:
    torchrun --standalone --nproc-per-node 2 -m strop train lm ...

    Attributes:
        preset: Model and training. small: 256 units, minutes; zaremba-medium: 650 units, zaremba-large:
            1500 units, both exactly as in Zaremba et al. (2014); awd-lstm: 3 layers of up to 1150 units as in
            Merity et al. (2017).
        dropout: nr-random: as published, on torch's layers. nr-st: structured, the same units for all rows
            of the batch. nr-rh-st: hidden states too, on their way to the next step.
        data: Folder with one file each with train, valid and test in its name, plain text or .gz.
            Without it: the English documentation that comes with Python.
        tied: Let the softmax use the embedding's weights; awd-lstm always does.
        units: In place of the preset's: size of the layers; but in awd-lstm the last, of the embedding too.
        layers: In place of the preset's: LSTM layers.
        steps: In place of the preset's: words that back-propagation through time spans.
        batch: In place of the preset's: columns of text read side by side.
        p: In place of the preset's: share of units dropped. Not of awd-lstm.
        init: In place of the preset's: bound of the uniform initial weights.
        rate: In place of the preset's: learning rate.
        decay: In place of the preset's: what the rate is divided by after every epoch. Not of awd-lstm.
        decay_after: In place of the preset's: the last epoch, counted from 0, at the full rate. Not of
            awd-lstm.
        clip: In place of the preset's: largest norm of the gradients.
        embedding: In place of awd-lstm's: size of the embedding and of the last layer.
        input_dropout: In place of awd-lstm's: share of the embedding's units dropped.
        layer_dropout: In place of awd-lstm's: share of units dropped between the layers.
        output_dropout: In place of awd-lstm's: share of units dropped before the softmax.
        word_dropout: In place of awd-lstm's: share of words dropped whole.
        recurrent_dropout: In place of awd-lstm's: share dropped of recurrent weights or hidden states.
        ar: In place of awd-lstm's: weight of the penalty on activations.
        tar: In place of awd-lstm's: weight of the penalty on their change over time.
        weight_decay: In place of awd-lstm's: weight decay.
        trigger: In place of awd-lstm's: looks at the valid text without a better one before the weights are
            averaged.
    """

    command: ClassVar[str] = "train lm"

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

    @property
    def default_folder(self) -> Path:
        return Path("runs") / f"lm-{self.preset}-{self.dropout}"

    def resolved(self) -> Preset | AwdPreset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        preset = PRESETS[self.preset]
        own = [field.name for field in fields(preset)]
        for name in _HYPER_PARAMETERS:
            if name not in own and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: the preset {self.preset} has no such setting, but {', '.join(own)}"
                )
        return with_given(preset, self)


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
        f"{options.preset} · {options.dropout} · {preset.describe()} · {torch.get_num_threads()} threads · "
        f"{options.folder}"
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
