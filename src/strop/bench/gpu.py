"""`python -m strop.bench gpu`: everything that is worth knowing of a GPU, in one bounded run.

First whether the results are right there, then the stacks of all presets and a sweep against `torch.nn.LSTM`
on cuDNN. It needs torch and Triton alone, and runs from a checkout without an installation.
"""

from __future__ import annotations

import csv
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from strop.bench import gpu_check
from strop.bench.baselines import EagerLoop
from strop.bench.gpu_machine import Gpu, describe
from strop.bench.gpu_points import CUDNN, OURS, PRECISIONS, Point, points, precision
from strop.bench.measure import Percentiles
from strop.bench.presets import Preset
from strop.bench.side_by_side import Apart, Here, run_parts
from strop.bench.stack import build, inputs
from strop.graphs import capturing
from strop.ops import choice, dispatch

_INPUT_SETS, _REPLAYS = 3, 5
_WORKERS, _AHEAD_SECONDS = 12, 120.0  # compiling 500 variants of kernels takes one process some 500 s
_POINT_SECONDS, _CHECK_SECONDS = 60.0, 120.0  # a kernel that never ends must not cost more


@dataclass(frozen=True)
class Options:
    """Check and measure a GPU: correctness first, then all presets and a sweep against cuDNN."""

    out: Path
    """Write a row for each measurement to this CSV file, with the device and versions."""

    device: str = "cuda"
    """Which GPU."""

    minutes: float = 7.5
    """Stop measuring after that many minutes; what was left out is said."""

    tiny: bool = False
    """Tiny sizes, also in Triton's interpreter without a GPU: a trial of the suite itself."""


@dataclass(frozen=True)
class Row:
    """One implementation at one point, forward and backward together.

    `mode` is `calls` where every kernel is launched from Python, `graph` where a CUDA graph is replayed.
    """

    stage: str
    preset: str
    layers: str
    batch: int
    steps: int
    nr: float
    rh: float
    precision: str
    mode: str
    impl: str
    rounds: int
    ms_p20: float
    ms_p50: float
    ms_p80: float
    speedup_vs_cudnn: float | None


def run(options: Options, calls: Here | None = None) -> int:
    """Checks, measures, writes and shows; the exit status.

    Args:
        calls: where to check and measure; by default in another process, which errors on a GPU may end.
    """
    # A kernel that never ends would say nothing: where it is called is told on stderr, and the run ends.
    faulthandler.dump_traceback_later(60 * options.minutes + 45, exit=True, file=2)
    try:
        with calls or Apart() as calls:
            return _run(options, calls)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _run(options: Options, calls: Here) -> int:
    start = perf_counter()
    device = torch.device(options.device)
    interpreted = device.type == "cpu"
    reason = dispatch.why_not("triton", torch.empty(0, device=device) if _exists(device) else None)
    if reason is not None:
        raise ValueError(f"device: {options.device!r} cannot be measured: {reason}")
    if not options.out.parent.is_dir():
        raise ValueError(f"out: the folder {options.out.parent} does not exist")
    where = describe(device)
    print(where.line(), flush=True)
    names = ("fp32", "fp16") if interpreted else tuple(PRECISIONS)
    workers = min(_WORKERS, (os.cpu_count() or 1) - 1)
    if not (interpreted or options.tiny) and workers > 1:
        done = run_parts(_compile, options.device, options.tiny, names, parts=workers, seconds=_AHEAD_SECONDS)
        print(f"compiled by {done} of {workers} processes in {perf_counter() - start:.0f} s", flush=True)
    faults = {}
    for name in names:
        try:
            found = calls.call(_check, options.device, name, options.tiny, seconds=_CHECK_SECONDS)
        except (RuntimeError, TimeoutError) as error:
            found = [f"checking it failed: {error}"]
        if found:
            faults[name] = found
    print(f"checked in {perf_counter() - start:.0f} s", flush=True)
    for name, said in faults.items():
        print(f"strop is wrong in {name} here, so that is not timed:", *said, sep="\n  ", file=sys.stderr)
    right = [name for name in names if name not in faults]
    if not right:
        return 1
    rows: list[Row] = []
    notes: list[str] = []
    chosen: list[str] = []
    deadline = start + 60 * options.minutes
    todo = points(options.tiny, right)
    for number, point in enumerate(todo):
        if perf_counter() > deadline:
            left = ", ".join(f"{each.preset.name} {each.precision}" for each in todo[number:])
            notes.append(f"left out after {options.minutes:g} minutes: {left}")
            break
        try:
            found = calls.call(_measure, options.device, point, seconds=_POINT_SECONDS)
        except (RuntimeError, TimeoutError) as error:
            found = [], [f"failed: {point.preset.name} {point.precision}: {error}"], []
        measured, said, taken = found
        rows += measured
        notes += said
        chosen += (each for each in taken if each not in chosen)
        write(options.out, where, rows)
        told = ", ".join(f"{row.impl} in {row.mode} {row.ms_p50:.3f} ms" for row in measured)
        name = f"{number + 1} of {len(todo)}: {point.preset.name} {point.precision}"
        print(f"{name}: {told}", file=sys.stderr, flush=True)  # a run that is cut off has no table
    if chosen:
        print("What was taken, and why:", *chosen, sep="\n  ")
    show(rows, notes)
    return 1 if faults or any(note.startswith("failed") for note in notes) else 0


def _check(device: str, name: str, tiny: bool) -> list[str]:
    """What is wrong in a precision."""
    with dispatch.use("triton"):
        found = gpu_check.faults(torch.device(device), {name: PRECISIONS[name]}, precision, tiny)
    return found.get(name, [])


def _measure(device: str, point: Point) -> tuple[list[Row], list[str], list[str]]:
    """A point's rows, notes on it, and which ways were taken so far."""
    notes: list[str] = []
    place = torch.device(device)
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
        rows = measure(point, place, notes)
    return rows, notes, list(map(str, choice.choices()))


def _compile(device: str, tiny: bool, names: tuple[str, ...], part: int, parts: int) -> None:
    """Runs a part of all checks and points once: Triton keeps what it compiles on disk, for what comes after.

    What fails here fails there again, and is told there.
    """
    place = torch.device(device)
    with dispatch.use("triton"):
        gpu_check.faults(place, {name: PRECISIONS[name] for name in names}, precision, tiny, part, parts)
    for point in points(tiny, names)[part::parts]:
        with precision(point.precision) as dtype, suppress(Exception):
            x, grad = (tensor.detach().to(dtype) for tensor in inputs(point.preset, place))
            for impl in OURS:
                _pass(_model(point.preset, impl).to(place, dtype), x.requires_grad_(), grad, impl)()


def _exists(device: torch.device) -> bool:
    return device.type == "cpu" or torch.cuda.is_available()


def _model(preset: Preset, impl: str) -> nn.Module:
    if impl == "eager":
        return nn.Sequential(*(EagerLoop(replace(preset, stack=(layers,))) for layers in preset.stack))
    return build(preset, "torch" if impl == CUDNN else impl)  # pyright: ignore[reportArgumentType]


def measure(point: Point, device: torch.device, notes: list[str]) -> list[Row]:
    """All implementations at a point, in turn; what fails is noted."""
    torch.manual_seed(0)
    runs: dict[tuple[str, str], Callable[[int], float]] = {}
    with precision(point.precision) as dtype:
        sets = [tuple(t.to(dtype) for t in inputs(point.preset, device)) for _ in range(_INPUT_SETS)]
        sets = [(x.detach().requires_grad_(), grad) for x, grad in sets]
        for impl in point.impls:
            with _noting(notes, point, impl, device):
                model = _model(point.preset, impl).to(device, dtype)
                if impl == CUDNN and device.type == "cuda":
                    _say_what_ran(model(sets[0][0]), point, notes)
                passes = [_pass(model, x, grad, impl) for x, grad in sets]
                passes[0]()  # compiles
                runs[impl, "calls"] = _timed(passes, device, 1)
                if device.type == "cuda":
                    replays = [_captured(each, device) for each in passes]
                    runs[impl, "graph"] = _timed(replays, device, _REPLAYS)
        samples = _interleave(runs, point, notes, device)
    return _rows(point, samples)


@contextmanager
def _noting(notes: list[str], point: Point, impl: str, device: torch.device) -> Iterator[None]:
    """One failure must not cost the rest of a run that may be hard to repeat.

    Raises:
        RuntimeError: the device answers nothing any more.
    """
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        said = (str(error).splitlines() or [""])[0]
        notes.append(
            f"failed: {impl} at {point.preset.name} {point.precision}: {type(error).__name__} {said}"
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _say_what_ran(y: Tensor, point: Point, notes: list[str]) -> None:
    """Torch has an LSTM of its own for what it does not give to cuDNN."""
    ran = y.grad_fn.name() if y.grad_fn is not None else ""
    if not ran.startswith("Cudnn"):
        notes.append(f"not cuDNN but torch's own LSTM at {point.preset.name} {point.precision}: {ran}")


def _pass(model: nn.Module, x: Tensor, grad: Tensor, impl: str) -> Callable[[], object]:
    wanted = (x, *model.parameters())

    def once() -> object:
        # What strop is compared with runs as torch does; strop's own dense paths choose for themselves.
        with dispatch.use("triton") if impl in OURS else nullcontext():
            return torch.autograd.grad(model(x), wanted, grad)

    return once


def _captured(once: Callable[[], object], device: torch.device) -> Callable[[], object]:
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph, side):
        kept = once()

    def replay() -> object:
        graph.replay()
        return kept  # the graph writes there

    return replay


def _timed(passes: list[Callable[[], object]], device: torch.device, times: int) -> Callable[[int], float]:
    """Milliseconds of a pass, on the device's clock; inputs by turns."""

    def milliseconds(repetition: int) -> float:
        once = passes[repetition % len(passes)]
        if device.type != "cuda":
            start = perf_counter()
            once()
            return 1e3 * (perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        for _ in range(times):
            once()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    return milliseconds


def _interleave(
    runs: dict[tuple[str, str], Callable[[int], float]],
    point: Point,
    notes: list[str],
    device: torch.device,
) -> dict[tuple[str, str], list[float]]:
    """Rounds of all cases; the first does not count."""
    samples: dict[tuple[str, str], list[float]] = {case: [] for case in runs}
    start, repetition = perf_counter(), 0
    while repetition <= point.rounds or perf_counter() - start < point.seconds:
        for case, milliseconds in list(runs.items()):
            with _noting(notes, point, case[0], device):
                taken = milliseconds(repetition)
                if repetition:
                    samples[case].append(taken)
                continue
            del runs[case], samples[case]
        repetition += 1
    return samples


def _rows(point: Point, samples: dict[tuple[str, str], list[float]]) -> list[Row]:
    preset = point.preset
    timed = {case: Percentiles.of(values) for case, values in samples.items()}
    rows = []
    for (impl, mode), ms in timed.items():
        base = timed.get((CUDNN, mode))
        rows.append(
            Row(
                stage=point.stage,
                preset=preset.name,
                layers="-".join(map(str, preset.sizes)),
                batch=preset.batch,
                steps=preset.steps,
                nr=preset.nr if impl != CUDNN or len(preset.sizes) > 2 or preset.torch_drops_input else 0.0,
                rh=preset.rh if impl in ("nr-rh-st", "eager") else 0.0,
                precision=point.precision,
                mode=mode,
                impl=impl,
                rounds=len(samples[impl, mode]),
                ms_p20=ms.p20,
                ms_p50=ms.p50,
                ms_p80=ms.p80,
                speedup_vs_cudnn=base.p50 / ms.p50 if base else None,
            )
        )
    return rows


def write(file: Path, where: Gpu, rows: Sequence[Row]) -> None:
    """All rows so far, whole or not at all: a run may be cut off."""
    partial = file.with_name(file.name + ".part")
    with partial.open("w", newline="") as stream:
        names = [field.name for kind in (Gpu, Row) for field in fields(kind)]
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(where) | asdict(row)
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()})
    os.replace(partial, file)


def show(rows: Sequence[Row], notes: Sequence[str]) -> None:
    """A short table: the faster of calls and graph of each, over the faster of cuDNN's."""
    best: dict[tuple[str, str, str, str], float] = {}
    for row in rows:
        key = (row.stage, row.preset, row.precision, row.impl)
        best[key] = min(best.get(key, row.ms_p50), row.ms_p50)
    print(f"{'':24}{'':6}{'impl':>10}{'p50 ms':>10}{'vs cudnn':>10}")
    for (stage, preset, name, impl), ms in best.items():
        base = best.get((stage, preset, name, CUDNN))
        ratio = f"{base / ms:.2f}x" if base else "-"
        print(f"{preset:24}{name:6}{impl:>10}{ms:>10.3f}{ratio:>10}")
    for note in notes:
        print(note)
