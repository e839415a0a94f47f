"""`strop bench load`: how steady are forward and backward beside other work on the same cores?"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import sleep

import torch

from strop import tables
from strop.bench import command, machine, records
from strop.bench.check import stack_discrepancies
from strop.bench.command import CommonOptions, Timing
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, interleave, one_pass
from strop.bench.presets import LAYER_PRESETS, LayerPreset, Preset
from strop.bench.records import Record, Work
from strop.bench.stack import build, inputs
from strop.limits import check_ranges

_IMPLS = ("torch", "nr-rh-st")
_BUSY = "while True: pass"
_MOST_OTHERS = 64
_START = 0.5  # seconds until the other processes are at work


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time forward and backward of a stack of LSTMs beside processes that keep a core busy each."""

    preset: LayerPreset = "zaremba-medium"
    """Whose sizes and dropout."""

    others: int = 2
    """Busy processes at most: measured is beside none, one and so on."""

    seconds: float = 20.0
    """How long to measure beside each number of them, roughly; at least 5 rounds are run."""


@dataclass(frozen=True)
class LoadRecord(Record):
    """One implementation beside a number of busy processes.

    Attributes:
        others: busy processes.
        times_idle: the median over that beside none.
        fair: the same if all threads had equal shares of the cores.
    """

    others: int
    times_idle: float
    fair: float


def run(options: Options) -> int:
    preset = LAYER_PRESETS[options.preset]
    check_ranges(options, shares=(), least={"others": 0, "seconds": 0})
    if options.others > _MOST_OTHERS:
        raise ValueError(f"others: {options.others}; at most {_MOST_OTHERS} busy processes are started")
    return command.run(
        options,
        lambda device: stack_discrepancies(preset, _IMPLS[1:], device),
        lambda device: measure(preset, device, options),
        show,
        LoadRecord,
    )


@contextmanager
def _busy(others: int) -> Iterator[None]:
    """Keeps that many processes at work."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(others)]
    try:
        if processes:
            sleep(_START)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(preset: Preset, device: torch.device, options: Options) -> list[Timing]:
    torch.manual_seed(0)
    sets = [inputs(preset, device)]
    cases: dict[str, Case] = {impl: one_pass(build(preset, impl).to(device), sets, device) for impl in _IMPLS}
    peak = machine.peak_gflops(device)  # beside nothing
    work = {(impl, "overall"): Work(3 * preset.operations(impl)) for impl in _IMPLS}
    timings, idle = [], dict[str, float]()
    for others in range(options.others + 1):
        with _busy(others):
            samples = interleave(cases, options.seconds, title=f"measuring beside {others}")
        seconds = {impl: {"overall": samples[impl]["overall"]} for impl in _IMPLS}
        made = records.summarise("load", preset.name, device.type, seconds, work, peak)
        own = [_compared(record, others, idle) for record in made if record.ms_p50 is not None]
        timings.append(Timing(own, len(samples["torch"]["overall"]), peak))
    return timings


def _compared(record: Record, others: int, idle: dict[str, float]) -> Record:
    assert record.ms_p50 is not None
    times_idle = record.ms_p50 / idle.setdefault(record.impl, record.ms_p50)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fair = max(1.0, (threads + others) / max(cores, threads))
    return LoadRecord(**asdict(record), others=others, times_idle=times_idle, fair=fair)


def show(timings: Sequence[Timing], where: Provenance, notes: list[str]) -> None:
    header = ["", "busy processes", "p20 ms", "p50 ms", "p80 ms", "times idle", "fair share", "vs torch"]
    groups = [
        [_row(record) for timing in timings for record in timing.records if record.impl == impl]
        for impl in _IMPLS
    ]
    tables.show(f"strop bench load: {timings[0].records[0].preset} on {where.cpu}", header, groups, notes)


def _row(record: Record) -> list[str]:
    assert isinstance(record, LoadRecord)
    times = Percentiles(*(ms or 0.0 for ms in (record.ms_p20, record.ms_p50, record.ms_p80)))
    return [
        record.impl,
        str(record.others),
        *(records.milliseconds(ms) for ms in (times.p20, times.p50, times.p80)),
        f"{record.times_idle:.2f}x",
        f"{record.fair:.2f}x",
        records.cell(record.speedup_vs_torch, ".2f", "x"),
    ]
