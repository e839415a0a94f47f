"""The command `strop`. A command's module is imported when it is called, and it alone.

Such a module has a dataclass `Options` and `run(options) -> exit status`. Options that know `--resume` or
`--config` have `stored()`: the options of the run that these name, which those on the line go before. Options
with an `environment` want a process that has these variables.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True)
class _Command:
    module: str
    summary: str


_COMMANDS: dict[tuple[str, ...], _Command] = {
    ("demo",): _Command("strop.demo", "three kinds of dropout side by side, on real text, in minutes"),
    ("train", "lm"): _Command("strop.tasks.language", "train a language model"),
    ("train", "nmt"): _Command("strop.tasks.translation", "train a translation model"),
    ("translate",): _Command("strop.tasks.translation.translate", "translate stdin with a trained model"),
    ("train", "ner"): _Command("strop.tasks.tagging", "train a tagger for named entities"),
    ("tag",): _Command("strop.tasks.tagging.tag", "label stdin with a trained tagger"),
    ("bench", "layer"): _Command("strop.bench.layer", "time the LSTM layers of a preset, by phase"),
    ("bench", "train"): _Command("strop.bench.train", "time whole training steps of a preset"),
    ("bench", "sweep"): _Command("strop.bench.sweep", "time many shapes against the best alternative"),
    ("bench", "peers"): _Command("strop.bench.peers", "time a layer against torch.compile and JAX"),
    ("bench", "load"): _Command("strop.bench.load", "time a layer beside other work on the same cores"),
    ("bench", "keep"): _Command("strop.bench.keep", "time over the kept share, over steps and over batch"),
    ("report",): _Command("strop.bench.report", "compare training runs; or tables from what bench measured"),
    ("convert-check",): _Command(
        "strop.bench.convert_check", "what strop.convert makes of your model, and how fast"
    ),
    ("advise",): _Command("strop.bench.advise", "which dropout is fastest for your sizes, on this machine"),
    ("hardware",): _Command(
        "strop.hardware.command", "what dropout is worth on a systolic array or a GPU, predicted"
    ),
    ("bench", "gpu"): _Command("strop.bench.gpu", "check and time a GPU against cuDNN, within 8 minutes"),
}
# What `pip install strop[recipes]` adds.
_RECIPES = {"matplotlib", "numpy", "rich", "sacrebleu", "safetensors", "tensorboard", "tyro"}
# What torch's RuntimeError says where there is no memory for a tensor, or no number for its bytes.
_TORCH_LACKS_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "calculation overflowed",
    "multiplication overflow",
)
_HELP = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status. 2 for what the user can put right, 130 after Ctrl-C, 141 where who
    reads the output has had enough of it."""
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
        return _fail(f"{missing} is not installed; the commands need: pip install 'strop[recipes]'")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Else what is still in the buffer is tried once more, and complained of, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        status = _status(error)
        if status is None or "STROP_DEBUG" in os.environ:
            raise
        if _lacks_memory(error):
            return _fail(f"not enough memory; smaller sizes, batches or beams need less ({_one_line(error)})")
        return _fail(_one_line(error), status)


def _command(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"strop {_version()}")
        return 0
    name = next((name for name in _COMMANDS if tuple(words[: len(name)]) == name), None)
    return _overview(words) if name is None else _run(name, words[len(name) :])


def _run(name: tuple[str, ...], arguments: list[str]) -> int:
    import tyro

    module: Any = importlib.import_module(_COMMANDS[name].module)

    def parse(default: Any = None) -> Any:
        known = {} if default is None else {"default": default}
        prog = " ".join(("strop", *name))
        # None is the absence of an option: in usage and messages it would only puzzle.
        return tyro.cli(module.Options, prog=prog, args=arguments, config=(tyro.conf.DisallowNone,), **known)

    options = parse()
    environment = getattr(options, "environment", {})
    if not environment.items() <= os.environ.items():
        _start_anew([*name, *arguments], environment)
    if getattr(options, "resume", False) or getattr(options, "config", None) is not None:
        options = parse(options.stored())
    return module.run(options)


def _start_anew(words: list[str], environment: Mapping[str, str]) -> None:
    """Puts another process in the place of this one, as libraries read their environment when they load."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "strop", *words], {**os.environ, **environment})


def _overview(words: list[str]) -> int:
    """The commands, or those that begin with the words given; help if asked for, else a complaint."""
    asked = not words or not _HELP.isdisjoint(words)
    given = tuple(word for word in words if not word.startswith("-"))
    names = [name for name in _COMMANDS if name[: len(given)] == given]
    lines = [
        "usage: strop COMMAND [options]",
        "",
        "Structured dropout that makes recurrent networks train faster.",
        "",
    ]
    lines += [f"  strop {' '.join(name):<14}{_COMMANDS[name].summary}" for name in names or _COMMANDS]
    lines += ["", "strop COMMAND --help tells a command's options, strop --version the version."]
    if asked and names:
        print("\n".join(lines))
        return 0
    print("\n".join(lines), file=sys.stderr)
    what = "incomplete command" if names else "no such command"
    return _fail(f"{what}: strop {' '.join(words)}")


def _version() -> str:
    try:
        return version("strop")
    except PackageNotFoundError:
        return "(not installed: run from its sources)"


def _status(error: Exception) -> int | None:
    """The exit status for what the user can put right; None for what only strop's authors can."""
    if _lacks_memory(error):
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
    print(f"strop{where}: {message}", file=sys.stderr)
    return status
