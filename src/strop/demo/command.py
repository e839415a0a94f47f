"""`strop demo`: a small language model with three kinds of dropout, side by side, within minutes."""

import time

from strop.bench import machine
from strop.data.text import load_corpus, naming
from strop.demo import report
from strop.demo.options import Options
from strop.demo.racers import choose_threads, race
from strop.limits import check_duration, check_sizes, use_threads
from strop.tasks.language.presets import ZAREMBA
from strop.training import for_stdout


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
        progress.say(f"at most {options.minutes:g} minutes, then a table and {options.out / 'report.md'}")
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
