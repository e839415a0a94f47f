"""Training a language model: from Python by `train_language`, from the command line by `run`."""

import json
import os
import shlex
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from strop.data.text import Corpus, load_corpus
from strop.tasks.language.presets import PRESETS, Dropout, Preset, PresetName
from strop.tasks.language.task import LanguageTask
from strop.training import (
    LoopOptions,
    Progress,
    Result,
    RunFolderError,
    Silent,
    World,
    for_stdout,
    read_description,
    train,
    world,
)

_HYPER_PARAMETERS = tuple(field.name for field in fields(Preset))


@dataclass(frozen=True)
class Options:
    """Train a word-level LSTM language model on text, with one of three kinds of dropout.

    Reports the perplexity per word on the valid text while training, and on the test text with the best
    weights at the end. The run's folder receives curve.csv, curve.png, TensorBoard events, result.json
    and checkpoints. A run that was stopped in any way goes on exactly where it was with --resume.

    Several processes, each with its part of the batch:
    torchrun --standalone --nproc-per-node 2 -m strop train lm ...

    Attributes:
        preset: Model and training. small: 256 units, minutes; zaremba-medium: 650 units, zaremba-large:
            1500 units, both exactly as in Zaremba et al. (2014).
        dropout: nr-random: torch's layers, single elements dropped. nr-st: structured, the same units
            for all rows of the batch. nr-rh-st: hidden states too, on their way to the next step.
        data: Folder with one file each with train, valid and test in its name, plain text or .gz.
            Without it: the English documentation that comes with Python.
        out: Folder of the run, new or empty. By default runs/lm-PRESET-DROPOUT.
        resume: Go on with the run in --out; its other options need not be repeated.
        epochs: Passes over the training text, if not the preset's. A finished run resumed with more
            goes on.
        seed: Of the initial weights and of the dropout masks.
        device: Where to train, e.g. cpu or cuda.
        threads: CPU threads, if not torch's choice.
        tied: Let the softmax use the embedding's weights.
        evaluations: Looks at the valid text per epoch.
        checkpoint_seconds: Time between checkpoints, beside those at the end of every epoch.
        tensorboard: Write TensorBoard events.
        units: In place of the preset's: size of embedding and layers.
        layers: In place of the preset's: LSTM layers.
        steps: In place of the preset's: words that back-propagation through time spans.
        batch: In place of the preset's: columns of text read side by side.
        p: In place of the preset's: share of units dropped.
        init: In place of the preset's: bound of the uniform initial weights.
        rate: In place of the preset's: learning rate.
        decay: In place of the preset's: what the rate is divided by after every epoch.
        decay_after: In place of the preset's: the last epoch, counted from 0, at the full rate.
        clip: In place of the preset's: largest norm of the gradients.
    """

    preset: PresetName = "small"
    dropout: Dropout = "nr-rh-st"
    data: Path | None = None
    out: Path | None = None
    resume: bool = False
    epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    tied: bool = False
    evaluations: int = 1
    checkpoint_seconds: float = 60.0
    tensorboard: bool = True
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

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"lm-{self.preset}-{self.dropout}"

    def resolved(self) -> Preset:
        """The preset with what was given in its place. Raises ValueError, naming the option."""
        given = {name: getattr(self, name) for name in _HYPER_PARAMETERS}
        return replace(PRESETS[self.preset], **{name: v for name, v in given.items() if v is not None})


def train_language(
    corpus: Corpus,
    preset: Preset,
    dropout: Dropout,
    out: Path,
    *,
    tied: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    evaluations: int = 1,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    tensorboard: bool = True,
    world: World | None = None,
    progress: Progress | None = None,
    description: dict[str, Any] | None = None,
    resume_hint: str = "train the same again with resume",
) -> Result:
    """Trains for `preset.epochs` and tests the best weights; the run's files are in the folder `out`.

    Rows of the result (and of `out/curve.csv`) hold `train_perplexity` and `valid_perplexity`, its
    `test` holds `perplexity`. Raises `strop.training.RunError` and `ValueError`.
    """
    task = LanguageTask(corpus, preset, dropout, tied=tied, seed=seed, device=device, world=world)
    options = LoopOptions(
        out,
        epochs=preset.epochs,
        seed=seed,
        clip=preset.clip,
        evaluations=evaluations,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
        tensorboard=tensorboard,
        description=description or {},
        resume_hint=resume_hint,
    )
    return train(task, options, world, progress)


def run(options: Options) -> int:
    """The command `strop train lm`: 0 when the run is complete."""
    preset = options.resolved()
    device = _device(options.device)
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads: {options.threads}; at least 1 is needed")
        torch.set_num_threads(options.threads)
    with world() as processes:
        progress = for_stdout(options.dropout) if processes.leads else Silent()
        try:
            corpus = load_corpus(options.data)
            progress.say(corpus.describe())
            progress.say(
                f"{options.preset} · {options.dropout} · p {preset.p} · {preset.layers} layers of "
                f"{preset.units} units · {torch.get_num_threads()} threads · {options.folder}"
            )
            result = train_language(
                corpus,
                preset,
                options.dropout,
                options.folder,
                tied=options.tied,
                seed=options.seed,
                device=device,
                evaluations=options.evaluations,
                checkpoint_seconds=options.checkpoint_seconds,
                resume=options.resume,
                tensorboard=options.tensorboard,
                world=processes,
                progress=progress,
                description={"command": "train lm", "options": _to_json(options)},
                resume_hint=_command(options, processes),
            )
        finally:
            progress.close()
        if processes.leads:
            print(_report(result))
    return 0


def stored(options: Options) -> Options:
    """The options that the run in `options.folder` was started with. Raises RunFolderError."""
    description = read_description(options.folder)
    saved = description.get("options")
    known = {field.name for field in fields(Options)}
    if description.get("command") != "train lm" or not isinstance(saved, dict) or not saved.keys() <= known:
        raise RunFolderError(f"{options.folder}: not a run of strop train lm")
    data = saved.pop("data", None)
    return Options(**{**saved, "data": Path(data) if data else None, "out": options.folder, "resume": True})


def _to_json(options: Options) -> dict[str, Any]:
    data = options.data and str(options.data.resolve())
    return json.loads(
        json.dumps({**asdict(options), "data": data, "out": None, "resume": False}, default=str)
    )


def _command(options: Options, processes: World) -> str:
    launcher = f"torchrun --standalone --nproc-per-node {processes.size} -m " if processes.size > 1 else ""
    return f"{launcher}strop train lm --out {shlex.quote(str(options.folder))} --resume"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: {name!r} cannot be used here ({reason}); cpu always can") from error
    return device


def _report(result: Result) -> str:
    best = result.best
    lines = [
        f"best after epoch {best['epoch']:.2f}: valid perplexity {best['valid_perplexity']:.2f}, "
        f"test perplexity {result.test['perplexity']:.2f}",
        f"{result.steps:,} steps in {result.train_seconds:,.1f} s of training, "
        f"{result.items_per_second:,.0f} words/s",
    ]
    if result.phase_ms:
        phases = ", ".join(f"{name} {ms:.1f}" for name, ms in result.phase_ms.items())
        lines.append(f"median ms per step: {phases}")
    lines.append(f"all files in {result.folder}")
    return "\n".join(lines)
