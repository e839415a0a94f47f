"""Time a step of each preset's layers on a GPU, and count its kernels: torch's on cuDNN, then strop's.

python benchmarks/gpu/steps.py --out steps.csv

Forward, and forward with backward, as launched from Python and as a CUDA graph where it can be captured.
Without a GPU, in Triton's interpreter at a tiny size: a trial of this program, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from strop.bench.gpu_points import precision
from strop.bench.presets import LAYER_PRESETS, Layers, Preset
from strop.bench.stack import build, inputs
from strop.graphs import capturing
from strop.ops import dispatch
from strop.ops.triton import ways

COLUMNS = ("preset", "impl", "way", "steps", "eager_ms", "graph_ms", "fp_us", "bp_us", "kernels", "error")
_REPEATS = 10
_TINY = Preset("tiny", (Layers(6, 7),), batch=2, steps=2, nr=0.5, rh=0.5)


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int = _REPEATS) -> float:
    """The median of a few, each after the device is idle."""
    taken = []
    for _ in range(repeats):
        if device.type != "cuda":
            start = perf_counter()
            work()
            taken.append(1e3 * (perf_counter() - start))
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return sorted(taken)[len(taken) // 2]


def kernels(work: Callable[[], object], device: torch.device) -> int:
    """Kernels, copies and fills of one call; on a CPU operators."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as seen:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return sum(event.count for event in seen.key_averages())


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    with capturing(graph, stream):
        kept = work()
    return lambda: (graph.replay(), kept)


def measure(
    preset: Preset, impl: str, way: str | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """A row: what fails is its error."""
    row: dict[str, Any] = {"preset": preset.name, "impl": impl, "way": way or "", "steps": preset.steps}
    ways.forced = way
    try:
        model = build(preset, impl).to(device, dtype)
        x, grad = (each.detach().to(dtype) for each in inputs(preset, device))
        wanted = (x.requires_grad_(), *model.parameters())

        def forward() -> object:
            return model(x)

        def both() -> object:
            return torch.autograd.grad(model(x), wanted, grad)

        repeats = _REPEATS if device.type == "cuda" else 1
        for _ in range(3 if device.type == "cuda" else 1):
            both()
        row |= {"eager_ms": milliseconds(both, device, repeats), "kernels": kernels(both, device)}
        if device.type == "cuda":
            fp = milliseconds(captured(forward, device), device)
            row["graph_ms"] = milliseconds(captured(both, device), device)
            chain = preset.steps * sum(layers.count * layers.directions for layers in preset.stack)
            row |= {"fp_us": 1e3 * fp / chain, "bp_us": 1e3 * (row["graph_ms"] - fp) / chain}
    except Exception as error:
        row["error"] = f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}"
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # raises where the device answers nothing any more
    finally:
        ways.forced = None
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp16", help="fp16, bf16, tf32 or fp32")
    parser.add_argument("--only", help="torch: cuDNN's rows alone")
    given = parser.parse_args()
    device = torch.device(given.device)
    presets = LAYER_PRESETS.values() if device.type == "cuda" else [_TINY]
    cases = [(preset, "torch", None) for preset in presets]
    if given.only != "torch":
        strops = [way for way in ways.WAYS if device.type == "cuda" or way == "steps"]
        cases += [(preset, "nr-rh-st", way) for preset in presets for way in strops]
    rows = []
    name = given.precision if device.type == "cuda" else "fp32"
    with precision(name) as dtype:
        for preset, impl, way in cases:
            with dispatch.use("triton") if impl != "torch" else dispatch.wrapped(lambda backend: backend):
                rows.append(measure(replace(preset), impl, way, device, dtype))
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
            with given.out.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
                writer.writeheader()
                writer.writerows(rows)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
