"""Thirty minutes with a GPU, as four calls of less than ten minutes each, in this order.

python benchmarks/gpu/call.py 1 --out FOLDER                             # does it work, what does cuDNN take
python benchmarks/gpu/call.py 2 --out FOLDER --decisions DECISIONS       # all presets against cuDNN
python benchmarks/gpu/call.py 3 --out FOLDER --decisions DECISIONS --ptb FOLDER   # training to the last epoch
python benchmarks/gpu/call.py 4 --out FOLDER --decisions DECISIONS       # profiler, sanitizer

DECISIONS is the decisions.json that the call before left in its folder. A call writes at most eight files.
What it finds decides what the next ones do; nothing has to be typed but these lines. Without a GPU a call
rehearses: the same commands at tiny sizes, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from csv import DictReader
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from commands import ROOT, ends, with_sources

HERE = Path(__file__).parent
SECONDS = {1: 290.0, 2: 560.0, 3: 575.0, 4: 200.0}
_FAST = 3.0  # µs a step: below that the persistent kernels here have nothing to win


class Day:
    """One call: its folder, its time, and what was decided so far."""

    def __init__(self, out: Path, decisions: dict[str, Any], seconds: float, rehearses: bool) -> None:
        self.out, self.decisions, self.rehearses = out, decisions, rehearses
        self._deadline = monotonic() + seconds

    @property
    def left(self) -> float:
        return self._deadline - monotonic()

    def run(self, name: str, command: Sequence[str | Path], seconds: float) -> bool:
        """Runs a command; whether it did well. Its output is in NAME.log, its end is printed."""
        seconds = min(seconds, self.left)
        if seconds < 5:
            print(f"call: {name}: no time left", flush=True)
            return False
        log = self.out / f"{name}.log"
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if way := self.decisions.get("recurrence"):
            environment["STROP_RECURRENCE"] = way
        with log.open("wb") as stream:
            try:
                process = subprocess.Popen(
                    list(map(str, command)),
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                    cwd=ROOT,
                )
            except OSError as error:
                print(f"call: {name}: not there ({error.strerror})", flush=True)
                return False
            in_time = ends(process, seconds)
        well = in_time and process.returncode == 0
        told = log.read_text(errors="replace").rstrip().splitlines()[-12:]
        how = "well" if well else f"failed with {process.returncode}" if in_time else f"over {seconds:.0f} s"
        print(f"call: {name}: {how}", *told, sep="\n", flush=True)
        return well

    def decide(self, what: str, value: object, why: str) -> None:
        self.decisions[what] = value
        self.decisions.setdefault("why", {})[what] = why
        print(f"call: decided: {what} = {value} ({why})", flush=True)


def _pytest(*what: str) -> list[str | Path]:
    options = ["-q", "-W", "default", "-o", "faulthandler_timeout=45", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *options, *what]


def first(day: Day, given: argparse.Namespace) -> None:
    """Does a barrier of the grid return, is everything captured, and what does a step of cuDNN's take?"""
    tools = ("make", "gcc", "nvcc", "ncu", "compute-sanitizer")
    found = {name: shutil.which(name) or "missing" for name in tools}
    print("call:", torch.__version__, torch.version.cuda, torch.backends.cudnn.version(), found, flush=True)
    kernels = ROOT / "tests/ops/test_triton_recurrence.py"
    few = "and GRU" if day.rehearses else ""
    persistent = day.run("persistent", _pytest(str(kernels), "-k", f"one_launch and persistent {few}"), 60)
    on_chip = day.run("on-chip", _pytest(str(kernels), "-k", f"one_launch and chip {few}"), 60)
    if not persistent:
        day.decide("recurrence", "steps", "one launch for all steps hangs or is wrong")
    elif not on_chip:
        day.decide("recurrence", "persistent", "weights on the chip are wrong")
    graphs = ("tests/test_graphs.py", "tests/ops/test_triton_capture.py")
    captures = day.run("capture", _pytest(*graphs), 60)
    day.decide("capture", captures, "what tests/ops/test_triton_capture.py says")
    steps = day.out / "steps.csv"
    well = day.run("steps", [sys.executable, HERE / "steps.py", "--out", steps], 80)
    rows = list(DictReader(steps.read_text().splitlines())) if steps.exists() else []
    times = [float(row["fp_us"]) for row in rows if row["impl"] == "torch" and row["fp_us"]]
    if times:
        fast = min(times) <= _FAST
        day.decide("cudnn_is_fast", fast, f"cuDNN's FP takes {min(times):.2f} to {max(times):.2f} us a step")
    if not (persistent or captures or well):
        day.decide("only_cudnn", True, "nothing of strop's works: the rest of the time is cuDNN's")


def second(day: Day, given: argparse.Namespace) -> None:
    """All presets against cuDNN."""
    if day.decisions.get("only_cudnn"):
        for name in ("bf16", "tf32"):
            out = day.out / f"cudnn-{name}.csv"
            line = [sys.executable, HERE / "steps.py", "--only", "torch", "--precision", name, "--out", out]
            day.run(f"cudnn-{name}", line, 120)
        return
    line: list[str | Path] = [sys.executable, "-m", "strop.bench", "gpu", "--out", day.out / "gpu.csv"]
    if day.rehearses:
        day.run("gpu", [*line, "--tiny", "--device", "cpu"], 300)
    else:
        day.run("gpu", [*line, "--minutes", f"{(day.left - 50) / 60:.2f}"], day.left)


def third(day: Day, given: argparse.Namespace) -> None:
    """The language models of the Penn Treebank, as far as they come; again with the same runs to go on."""
    if given.ptb is None:
        raise SystemExit("call: 3 needs --ptb FOLDER, the texts of the Penn Treebank")
    runs = given.runs or day.out / "runs"
    captures = day.decisions.get("capture", True)
    only = "zaremba-" if captures and not day.rehearses else "zaremba-medium-nr-rh-st"
    line = [sys.executable, ROOT / "benchmarks/train.py", f"ptb={given.ptb}", "--only", only]
    line += ["--dropouts", "nr-rh-st", "nr-random", "--runs", runs, "--archive", day.out / "runs.tgz"]
    line += ["--epochs", "1", "--device", "cpu"] if day.rehearses else ["--device", "cuda"]
    day.run("train", line, day.left - 15)


def fourth(day: Day, given: argparse.Namespace) -> None:
    """Why it is as slow as it is, and whether it reads what it must not."""
    steps = [sys.executable, HERE / "steps.py", "--out", day.out / "profiled.csv"]
    if shutil.which("ncu"):
        select = ["--clock-control", "none", "--set", "full", "-k", "regex:^(forward|backward)$", "-c", "4"]
        day.run("ncu", ["ncu", *select, *steps], 90)
    if shutil.which("compute-sanitizer"):
        day.decisions["recurrence"] = "persistent"
        tiny = [sys.executable, "-m", "strop.bench", "gpu", "--tiny", "--out", day.out / "tiny.csv"]
        for tool in ("memcheck", "racecheck"):
            checked = [
                "compute-sanitizer",
                "--tool",
                tool,
                "--report-api-errors",
                "no",
                "--error-exitcode",
                "1",
            ]
            day.run(tool, [*checked, *tiny], 60)


CALLS: dict[int, Callable[[Day, argparse.Namespace], None]] = {1: first, 2: second, 3: third, 4: fourth}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("number", type=int, choices=CALLS, help="which of the calls")
    parser.add_argument("--out", type=Path, required=True, help="folder of what it writes")
    parser.add_argument("--decisions", type=Path, help="decisions.json of the call before")
    parser.add_argument("--ptb", type=Path, help="folder of the texts, for call 3")
    parser.add_argument("--runs", type=Path, help="folder of the runs, for call 3; by default in --out")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    decisions = json.loads(given.decisions.read_text()) if given.decisions else {}
    with_sources()
    rehearses = not torch.cuda.is_available()
    if rehearses:
        os.environ["TRITON_INTERPRET"] = "1"
    day = Day(given.out, decisions, SECONDS[given.number], rehearses)
    try:
        CALLS[given.number](day, given)
    finally:
        (given.out / "decisions.json").write_text(json.dumps(day.decisions, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
