"""The options that every training command shares, and how a run remembers those it was started with.

PyTorch is not needed to read them from a command line.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

Preset = TypeVar("Preset", bound=Any)  # a dataclass of settings

# Where a run is and how it was asked for: no part of what it is, so not stored with it.
_PLACE: dict[str, Any] = {"out": None, "resume": False, "config": None}


# Of every training: where and how far, and with what.
_RUN = ("out", "resume", "config", "epochs", "patience", "seed", "evaluations", "log_steps")
_MACHINE = ("device", "threads", "bf16", "capture")
_KEPT = ("checkpoint_seconds", "tensorboard")


def groups_of(task: Sequence[str], preset: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The options in the order in which help shows them: the task's own, those that override values of its
    preset, and those of every training."""
    overriding = tuple(name for name in preset if name not in _RUN)
    return {"task": tuple(task), "run": (*_RUN, *_KEPT), "machine": _MACHINE, "preset": overriding}


def preset_table(presets: Mapping[Any, Any]) -> str:
    """The values of presets, a column for each; `-` where one has no such setting."""
    settings = dict.fromkeys(each.name for preset in presets.values() for each in fields(preset))
    rows = [["", *map(str, presets)]]
    for name in settings:
        values = (getattr(preset, name, "-") for preset in presets.values())
        shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        rows.append([name.replace("_", "-"), *shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(
        ["The presets. Each value has an option that overrides it:", *(f"  {line}" for line in lines)]
    )


class OfPresets:
    """What options share that override the values of a preset."""

    command: ClassVar[str]
    presets: ClassVar[Mapping[Any, Any]]
    preset: Any
    dropout: Any

    @classmethod
    def table(cls) -> str:
        return preset_table(cls.presets)

    @property
    def default_folder(self) -> Path:
        return Path("runs") / f"{self.command.removeprefix('train ')}-{self.preset}-{self.dropout}"


@dataclass(frozen=True)
class TrainOptions:
    """Base of a training command's options; a command adds its own fields, and says where its runs go.

    Fields may be numbers, strings, paths, literals, None and tuples of these: a run's folder keeps them as
    JSON.

    Attributes:
        out: Folder of the run, new or empty. By default one in runs/, named after what is trained.
        resume: Go on with the run in --out; its other options need not be repeated.
        config: The folder or the run.json of an earlier run, to train the same again. Other options given
            here override those that stand there.
        epochs: Passes over the training data. A finished run resumed with more goes on.
        patience: Evaluations in a row without a better result that end the training early.
        seed: Seed of the initial weights, of the order of the data and of the dropout masks.
        device: Where to train, e.g. cpu or cuda. On a GPU float32 is multiplied in tf32, as torch's LSTM
            does.
        threads: CPU threads. By default torch's choice.
        bf16: Multiply in bfloat16, under torch's autocast; weights, sums and the optimiser stay in float32.
            Up to twice as fast where the CPU has AVX512-BF16.
        evaluations: Evaluations on the valid data per epoch.
        log_steps: Steps from one row of the training loss to the next in curve.csv and TensorBoard; 0 for
            none between evaluations.
        checkpoint_seconds: Seconds between checkpoints, beside those at the end of every epoch.
        capture: On a GPU, record a step's work as a CUDA graph where the task allows it: faster, and the
            same but for rounding.
        tensorboard: Write TensorBoard events.
    """

    command: ClassVar[str]  # e.g. train lm

    out: Path | None = None
    resume: bool = False
    config: Path | None = None
    epochs: int | None = None
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    bf16: bool = False
    evaluations: int = 1
    log_steps: int = 100
    checkpoint_seconds: float = 60.0
    capture: bool = True
    tensorboard: bool = True

    @property
    def default_folder(self) -> Path:
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        return self.out or self.default_folder

    def describe(self) -> dict[str, Any]:
        """What `run.json` keeps: the command and its options as JSON, paths made absolute."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | _PLACE
        return {
            "command": self.command,
            "options": json.loads(json.dumps(values, default=lambda path: str(path.resolve()))),
        }

    def stored(self) -> Self:
        """The options of the run that `resume` or `config` names. Raises RunFolderError, ValueError."""
        if not self.resume:
            assert self.config is not None
            return type(self)(**self._read(self.config), out=self.out)
        if self.config is not None:
            raise ValueError(f"config: {self.config}; a run resumes with its own options, leave it out")
        return type(self)(**self._read(self.folder), out=self.folder, resume=True)

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """The options that a command's words stand for, where no parser of command lines is installed.

        Only `--name value` is known, and `--name` of what is otherwise off. Raises ValueError.
        """
        hints, values, left = get_type_hints(cls), {}, list(words)
        while left:
            word = left.pop(0)
            name = word.removeprefix("--").replace("-", "_")
            if not word.startswith("--") or name not in hints or (hints[name] is not bool and not left):
                raise ValueError(f"{word}: no option of strop {cls.command}, or without its value")
            values[name] = hints[name] is bool or _from_word(name, left.pop(0), hints[name])
        given = cls(**values)
        return replace(given.stored(), **values) if given.resume else given

    @classmethod
    def _read(cls, place: Path) -> dict[str, Any]:
        from strop.training import DESCRIPTION, RunFolderError, read_description

        description = read_description(place)
        saved = description.get("options")
        hints = get_type_hints(cls)
        known = {field.name for field in fields(cls)}
        if (
            description.get("command") != cls.command
            or not isinstance(saved, dict)
            or not saved.keys() <= known
        ):
            raise RunFolderError(f"{place}: not a run of strop {cls.command}")
        try:
            return {
                name: _from_json(name, value, hints[name])
                for name, value in saved.items()
                if name not in _PLACE
            }
        except TypeError as error:
            where = place / DESCRIPTION if place.is_dir() else place
            raise RunFolderError(f"{where}: {error}") from None


def _from_word(name: str, word: str, hint: Any) -> Any:
    """A word as the annotation `hint` wants it. Raises ValueError, naming the option."""
    error: TypeError | None = None
    for value in (word, *_numbers(word)):
        try:
            return _from_json(name, value, hint)
        except TypeError as wrong:
            error = wrong
    raise ValueError(str(error))


def _numbers(word: str) -> list[int | float]:
    found = []
    for kind in (int, float):
        with suppress(ValueError):
            found.append(kind(word))
    return found


def _from_json(name: str, value: Any, hint: Any) -> Any:
    """`value` as the annotation `hint` wants it. Raises TypeError, naming the option."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        for alternative in get_args(hint):
            try:
                return _from_json(name, value, alternative)
            except TypeError:
                continue
    elif kind is Literal and value in get_args(hint):
        return value
    elif kind is tuple and isinstance(value, list):
        of, *rest = get_args(hint)
        kinds = [of] * len(value) if rest == [...] else [of, *rest]
        if len(kinds) == len(value):
            return tuple(_from_json(name, item, each) for item, each in zip(value, kinds, strict=True))
    elif kind is Path and type(value) is str:
        return Path(value)
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif kind in (bool, int, str, NoneType) and type(value) is kind:
        return value
    wanted = hint.__name__ if isinstance(hint, type) else hint
    raise TypeError(f"option {name}: {value!r}; it must be {str(wanted).replace('typing.', '')}")


def with_given(preset: Preset, options: TrainOptions) -> Preset:
    """`preset` with the options of its fields' names that were given (are not None) in place of its own."""
    given = {field.name: getattr(options, field.name) for field in fields(preset)}
    return replace(preset, **{name: value for name, value in given.items() if value is not None})
