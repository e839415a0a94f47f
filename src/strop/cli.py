"""The command `strop`. A command's modules are imported when it is called, and they alone.

`_Command.options` is the module of a dataclass `Options`, which needs no PyTorch where `--help` shall be
quick, and `_Command.run`, by default the same, that of `run(options) -> exit status`. Options that know
`--resume` or `--config` have `stored()`: the options of the run that these name, which those on the line
override. Options with an `environment` want a process that has these variables.
"""

import difflib
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from strop import streams


@dataclass(frozen=True)
class _Command:
    options: str
    summary: str
    run: str | None = None
    trains: bool = False


_COMMANDS: dict[tuple[str, ...], _Command] = {
    ("demo",): _Command(
        "strop.demo.options",
        "three kinds of dropout side by side, on real text, in minutes",
        "strop.demo",
        True,
    ),
    ("train", "lm"): _Command(
        "strop.tasks.language.options", "train a language model", "strop.tasks.language", True
    ),
    ("train", "nmt"): _Command(
        "strop.tasks.translation.options", "train a translation model", "strop.tasks.translation", True
    ),
    ("translate",): _Command(
        "strop.tasks.translation.translate_options",
        "translate stdin with a trained model",
        "strop.tasks.translation.translate",
    ),
    ("train", "ner"): _Command(
        "strop.tasks.tagging.options", "train a tagger for named entities", "strop.tasks.tagging", True
    ),
    ("tag",): _Command(
        "strop.tasks.tagging.tag_options", "label stdin with a trained tagger", "strop.tasks.tagging.tag"
    ),
    ("report",): _Command("strop.bench.runs_options", "compare training runs", "strop.bench.runs"),
    ("advise",): _Command(
        "strop.bench.advise_options",
        "which dropout is fastest for your sizes, on this machine",
        "strop.bench.advise",
    ),
    ("convert-check",): _Command(
        "strop.bench.convert_check_options",
        "what strop.convert makes of your model, and how fast",
        "strop.bench.convert_check",
    ),
    ("bench", "layer"): _Command("strop.bench.layer", "time the LSTM layers of a preset, by phase"),
    ("bench", "train"): _Command("strop.bench.train", "time whole training steps of a preset"),
    ("bench", "sweep"): _Command("strop.bench.sweep", "time many shapes against the best alternative"),
    ("bench", "peers"): _Command("strop.bench.peers", "time a layer against torch.compile and JAX"),
    ("bench", "load"): _Command("strop.bench.load", "time a layer beside other work on the same cores"),
    ("bench", "keep"): _Command("strop.bench.keep", "time over the kept share, over steps and over batch"),
    ("hardware",): _Command(
        "strop.hardware.command", "what dropout is worth on a systolic array or a GPU, predicted"
    ),
    ("bench", "gpu"): _Command("strop.bench.gpu", "check and time a GPU against cuDNN, within 8 minutes"),
    ("bench", "tables"): _Command("strop.bench.report", "write measured tables into a Markdown file"),
}
# What the extra `recipes` adds.
_RECIPES = {"matplotlib", "numpy", "rich", "sacrebleu", "safetensors", "tensorboard", "tyro"}
# What torch's RuntimeError says where there is no memory for a tensor, or no number for its bytes.
_TORCH_LACKS_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "calculation overflowed",
    "multiplication overflow",
)
_HELP = {"-h", "--help"}
# How OpenMP's threads wait for each other: whoever has set one of these has chosen.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status. 2 for what the user can put right, 130 after Ctrl-C, 141 where who
    reads the output has had enough of it."""
    streams.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _command(words))


def guarded(work: Callable[[], int]) -> int:
    """The exit status of ``work``, or that of its error, of which one line is told."""
    try:
        status = work()
        sys.stdout.flush()
        return status
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _RECIPES:
            raise
        from strop.extras import installing

        return _fail(f"{missing} is not installed; the commands need: {installing('recipes')}")
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        streams.abandon_stdout()
        return 141
    except Exception as error:
        status = _status(error)
        if status is None or "STROP_DEBUG" in os.environ:
            raise
        if _lacks_memory(error):
            return _fail(f"not enough memory; smaller sizes, batches or beams need less ({_one_line(error)})")
        return _fail(_one_line(error), status)


def _command(words: list[str]) -> int:
    if words in (["--version"], ["-V"], ["version"]):
        from strop.version import __version__

        print(f"strop {__version__}")
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    name = next((name for name in _COMMANDS if tuple(words[: len(name)]) == name), None)
    return _overview(words) if name is None else _run(name, words[len(name) :])


def _run(name: tuple[str, ...], arguments: list[str]) -> int:
    command, prog = _COMMANDS[name], " ".join(("strop", *name))
    with _ends_at_once():
        from strop.parsing import parse

        kind = importlib.import_module(command.options).Options
        options = parse(kind, prog, arguments)
        environment = getattr(options, "environment", {})
        if not environment.items() <= os.environ.items():
            _start_anew([*name, *arguments], environment)
        if getattr(options, "resume", False) or getattr(options, "config", None) is not None:
            options = parse(kind, prog, arguments, options.stored())
        if command.trains:
            _choose_waiting()
            if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
                print(f"{prog}: loading PyTorch", flush=True)
        module: Any = importlib.import_module(command.run or command.options)
    return module.run(options)


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Ctrl-C inside ends the process with one line: nothing is lost yet, and an import that is broken off
    may end in a traceback of somebody else's code."""

    def end(*_: object) -> None:
        _fail("interrupted")
        os._exit(130)

    try:
        before = signal.signal(signal.SIGINT, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _choose_waiting() -> None:
    """Has OpenMP's threads sleep where they wait for each other, unless the user chose otherwise.

    By default they keep their core busy for a while. With other work beside them the thread that they wait
    for does not get a core then, and a step of two threads takes many times as long. The library reads this
    when it is loaded, with PyTorch."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _start_anew(words: list[str], environment: Mapping[str, str]) -> None:
    """Puts another process in the place of this one, as libraries read their environment when they load."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "strop", *words], {**os.environ, **environment})


def _overview(words: list[str]) -> int:
    """The commands, or those that begin with the words given; help if asked for, else a complaint."""
    asked = not words or not _HELP.isdisjoint(words)
    typed = shlex.join(words[:-1] if words[-1:] == ["--help"] else words)
    given = tuple(word for word in words if not word.startswith("-"))
    names = [name for name in _COMMANDS if name[: len(given)] == given]
    if not names or (given == () and not asked):
        what = f"no such command: strop {typed}"
        return _fail(f"{what}; {_suggestion(given)}strop --help lists the commands")
    lines = [
        "usage: strop COMMAND [options]",
        "",
        "Structured dropout that makes recurrent networks train faster.",
        "",
    ]
    lines += [f"  strop {' '.join(name):<14}{_COMMANDS[name].summary}" for name in names]
    lines += ["", "strop COMMAND --help tells a command's options, strop --version the version."]
    if asked:
        print("\n".join(lines))
        return 0
    print("\n".join(lines), file=sys.stderr)
    return _fail(f"incomplete command: strop {typed}")


def _suggestion(given: tuple[str, ...]) -> str:
    """What may have been meant, if anything is like it."""
    spelled = {" ".join(name): name for name in _COMMANDS}
    # What follows a command's name are its options.
    tries = (" ".join(given[:length]) for length in (2, 1) if len(given) >= length)
    likely = [found for each in tries for found in difflib.get_close_matches(each, spelled, 1, 0.7)]
    return f"did you mean: strop {likely[0]}? " if likely else ""


def _status(error: Exception) -> int | None:
    """The exit status for what the user can put right; None for what only strop's authors can."""
    if _lacks_memory(error):
        return 2
    # An error of a module that was never loaded has not been raised.
    if (dispatch := sys.modules.get("strop.ops.dispatch")) and isinstance(error, dispatch.BackendError):
        return 2
    try:
        from strop.training import InterruptedRunError, RunError
    except ImportError:
        return 2 if isinstance(error, ValueError | OSError) else None
    if isinstance(error, InterruptedRunError):
        return 128 + error.signal
    return 2 if isinstance(error, RunError | ValueError | OSError) else None


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_LACKS_MEMORY)
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str, status: int = 2) -> int:
    process = os.environ.get("RANK")
    where = f" (process {process})" if process else ""
    with suppress(OSError):  # a terminal that was closed
        print(f"strop{where}: {message}", file=sys.stderr, flush=True)
    return status
