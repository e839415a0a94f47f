"""`strop bench peers`: an LSTM layer whose hidden states are dropped, against what else can compute it."""

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import torch

from strop import tables
from strop.bench import command, machine, records
from strop.bench.command import Timing
from strop.bench.contestants import OURS, PEERS, Entry, Peer, Verdict
from strop.bench.machine import Provenance
from strop.bench.measure import Case, Percentiles, Sample, interleave, progress
from strop.bench.options import CommonOptions
from strop.bench.presets import PEER_PRESETS, PHASES, PeerPreset, Preset
from strop.bench.process import Remote
from strop.bench.records import Record, Work
from strop.extras import installing

# Both have threads of their own, and compiling may have to be stopped.
_REMOTE = ("compile", "jax")


@dataclass(frozen=True)
class Options(CommonOptions):
    """Time a layer whose hidden states are dropped anew at every step against others that can compute it.

    That is strop, with the input dropped too (NR+RH+ST) and without (RH+ST); a loop over the steps in torch;
    torch.compile of that loop; and lax.scan in JAX (pip install 'jax[cpu]'). Forward and backward on a
    CPU, each compared with the float64 reference first.
    """

    presets: tuple[PeerPreset, ...] = ("lstm-650", "lstm-1500")
    """Whose sizes and dropout."""

    peers: tuple[Peer, ...] = PEERS
    """Which others: eager, compile (a minute or two of compiling for each size), jax."""

    compile_limit: float = 300.0
    """Leave out what took more seconds to compile and check."""

    seconds: float = 30.0
    """How long to measure each size, roughly; at least 5 rounds are run."""


@dataclass(frozen=True)
class PeerRecord(Record):
    """One implementation at one size, beside the fastest peer's time there."""

    software: str
    first_seconds: float
    best: str
    speedup_vs_best: float | None


def run(options: Options) -> int:
    if options.device != "cpu":
        raise ValueError(f"device: {options.device!r}; peers are compared on the CPU alone, leave it out")
    if not options.presets or not options.peers:
        raise ValueError(f"{'peers' if options.presets else 'presets'}: at least one is needed")
    with Contest(options) as contest:
        return command.run(options, contest.check, contest.measure, show, PeerRecord)


class Contest:
    """All that are measured, some in processes of their own, which leaving the context ends."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack = ExitStack()
        self._entries: dict[str, dict[str, Case]] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._notes: list[str] = []

    def __enter__(self) -> "Contest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def check(self, device: torch.device) -> list[str]:
        """What anyone computes wrongly. Who cannot be had is noted."""
        peers = [peer for peer in PEERS if peer in self._options.peers]
        if "jax" in peers and importlib.util.find_spec("jax") is None:
            peers.remove("jax")
            self._notes.append(f"JAX is not installed: {installing('peers')} adds its row.")
        for name in dict.fromkeys(self._options.presets):
            self._entries[name] = {}
            for impl in (*OURS, *peers):
                progress(f"checking: {impl} at {name}")
                try:
                    self._enter(impl, PEER_PRESETS[name])
                except (RuntimeError, TimeoutError) as error:
                    if impl not in _REMOTE:
                        raise
                    self._notes.append(f"{impl} at {name} is left out: {error}")
        progress("")
        return [fault for verdict in self._verdicts.values() for fault in verdict.faults]

    def _enter(self, impl: str, preset: Preset) -> None:
        if impl in _REMOTE:
            remote = Remote(Entry, impl, preset, threads=torch.get_num_threads())
            self._stack.callback(remote.close)
            verdict = remote.call("judge", limit=self._options.compile_limit)

            def once(_: int) -> Sample:
                return {"overall": remote.call("seconds")}
        else:
            entry = Entry(impl, _dropped(preset, impl))
            verdict = entry.judge()

            def once(_: int) -> Sample:
                return {"overall": entry.seconds()}

        self._verdicts[preset.name, impl] = verdict
        self._entries[preset.name][impl] = once

    def measure(self, device: torch.device) -> list[Timing]:
        timings = [
            self._timing(PEER_PRESETS[name], cases, device) for name, cases in self._entries.items() if cases
        ]
        return [replace(timings[0], notes=tuple(self._notes)), *timings[1:]]

    def _timing(self, preset: Preset, cases: Mapping[str, Case], device: torch.device) -> Timing:
        peak: Case = lambda _: {"gflops": machine.peak_gflops(device)}  # noqa: E731
        # After ours: the threads of a peer's process may not be at rest at once.
        ours = {impl: cases[impl] for impl in OURS if impl in cases}
        samples = interleave({**ours, "peak": peak, **cases}, self._options.seconds, title=preset.name)
        gflops = Percentiles.of(samples.pop("peak")["gflops"]).p50
        work = {(impl, "overall"): _work(preset, impl) for impl in cases}
        made = records.summarise("peers", preset.name, device.type, samples, work, gflops)
        overall = {record.impl: record for record in made if record.ms_p50 is not None}
        peers = [record for impl, record in overall.items() if impl in PEERS]
        best = min(peers, key=_p50, default=None)
        compared: list[Record] = [
            PeerRecord(
                **asdict(record),
                software=self._verdicts[preset.name, impl].software,
                first_seconds=self._verdicts[preset.name, impl].first_seconds,
                best=best.impl if best else "",
                speedup_vs_best=_p50(best) / _p50(record) if best else None,
            )
            for impl, record in overall.items()
        ]
        return Timing(compared, len(samples[OURS[0]]["overall"]), gflops)


def _dropped(preset: Preset, impl: str) -> Preset:
    return replace(preset, nr=0.0) if impl == "rh-st" else preset


def _work(preset: Preset, impl: str) -> Work:
    """Peers multiply by what is dropped, too."""
    if impl in PEERS:
        return Work(len(PHASES) * preset.operations("dense"))
    own = _dropped(preset, impl)
    return Work(len(PHASES) * own.operations("nr-rh-st"), own.ideal("nr-rh-st"))


def _p50(record: Record) -> float:
    assert record.ms_p50 is not None
    return record.ms_p50


def show(timings: Sequence[Timing], where: Provenance, notes: list[str]) -> None:
    header = [
        "",
        "layer",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "first, s",
        "vs best peer",
        "ideal",
        "GFLOP/s",
        "of peak",
    ]
    groups = [
        [_row(record) for record in timing.records if isinstance(record, PeerRecord)] for timing in timings
    ]
    legend = (
        "eager: a loop over the steps; compile: torch.compile of it; jax: a jitted lax.scan. They and "
        "nr-rh-st drop inputs and hidden states, rh-st hidden states alone. first: seconds until the first "
        "result, compilation included."
    )
    tables.show(f"strop bench peers: forward and backward on {where.cpu}", header, groups, [legend, *notes])


def _row(record: PeerRecord) -> list[str]:
    return [
        record.impl,
        record.preset,
        *(records.milliseconds(ms) for ms in (record.ms_p20, record.ms_p50, record.ms_p80)),
        f"{record.first_seconds:.1f}",
        records.cell(record.speedup_vs_best, ".2f", "x"),
        records.cell(record.ideal, ".2f", "x"),
        records.cell(record.gflops, ".0f"),
        records.cell(record.peak_fraction, ".0%"),
    ]
