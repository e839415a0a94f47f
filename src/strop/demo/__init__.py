"""`strop demo`: a small language model with three kinds of dropout, side by side, within minutes."""

import time
from dataclasses import dataclass
from pathlib import Path

from strop.bench import machine
from strop.data.text import load_corpus, naming
from strop.demo import report
from strop.demo.racers import choose_threads, race
from strop.limits import check_duration, check_sizes, use_threads
from strop.tasks.language.presets import ZAREMBA
from strop.training import for_stdout


@dataclass(frozen=True)
class Options:
    """Train a small language model with three kinds of dropout side by side, and compare them.

    All three begin with the same weights, read the same text in the same order and have the same
    hyper-parameters. They take turns every few steps, so that whatever else the machine does slows all of
    them alike.

    Attributes:
        data: Folder with one file each with train, valid and test in its name, plain text or .gz.
            Without it: the English documentation that comes with Python.
        out: Folder of the report. The report of an earlier demo there is replaced.
        minutes: What all of it may take, at most. On a slow machine fewer epochs are trained.
        seed: Of the initial weights and of the dropout masks.
        threads: CPU threads. By default torch's choice, or one if that is faster on a busy machine.
    """

    data: Path | None = None
    out: Path = Path("runs/demo")
    minutes: float = 5.5
    seed: int = 0
    threads: int | None = None


def run(options: Options) -> int:
    """The command `strop demo`: 0 once the report is written."""
    start, load = time.monotonic(), machine.load()
    check_duration("minutes", options.minutes)
    if options.minutes == 0:
        raise ValueError(f"minutes: {options.minutes}; a time above 0 is needed")
    check_sizes(options)
    use_threads(options.threads)
    report.prepare(options.out)
    preset = ZAREMBA["small"]
    progress = for_stdout("demo")
    try:
        corpus = load_corpus(options.data)
        progress.say(corpus.describe())
        with naming(f"{corpus.name}, training text"):
            if options.threads is None:
                choose_threads(corpus, preset)
            racers = race(corpus, preset, options.seed, start + 60 * options.minutes, progress)
    finally:
        progress.close()
    notes = machine.load_note(load)
    made = report.Report.of(racers, preset, corpus.describe(), time.monotonic() - start, notes)
    made.write(options.out)
    made.show(options.out)
    return 0
