"""All that a GPU can tell within 8 minutes, from a bare checkout: `make gpu`.

Tests and compute-sanitizer run side by side, since most of their time they compile; then `strop.bench gpu`
has the machine for itself. What fails is told, the rest is done all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]
MINUTES = 7.25  # the rest of 8 is for what was begun before that
_SECONDS = 150  # for the tests and the sanitizer
_PATIENCE = 10.0  # seconds for what is interrupted
_LINES = 40  # of what failed


def checks(scratch: Path, python: str = sys.executable) -> dict[str, list[str]]:
    """Commands by name, as far as what they need is there; `scratch` is a folder for what they write."""
    found: dict[str, list[str]] = {}
    if all(map(find_spec, ("pytest", "pytest_timeout", "hypothesis"))):
        files = [ROOT / "tests/test_graphs.py", *sorted((ROOT / "tests/ops").glob("test_triton_*.py"))]
        files = [file for file in files if file.stem != "test_triton_compile"]  # needs no GPU
        if find_spec("safetensors"):
            files.append(ROOT / "tests/training/test_captured.py")
        options = ["-q", "-W", "default", "-o", "faulthandler_timeout=45", "-p", "no:cacheprovider"]
        found = {file.stem: [python, "-m", "pytest", *options, str(file)] for file in files}
    if shutil.which("compute-sanitizer"):
        tiny = [python, "-m", "strop.bench", "gpu", "--tiny", "--out", str(scratch / "tiny.csv")]
        # Triton and torch make calls that fail, and go on otherwise.
        found["compute-sanitizer"] = [
            *("compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "1"),
            *tiny,
        ]
    return found


def run_all(commands: Mapping[str, Sequence[str]], seconds: float) -> bool:
    """Runs all of them at once; whether none failed. One that takes too long is told, and is no failure."""
    # Started in the background by a shell this ignores interruptions, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: Path(folder) / name for name in commands}
        running: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in commands.items():
            with logs[name].open("wb") as log:
                running[name] = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        deadline, well = monotonic() + seconds, True
        for name, process in running.items():
            late = not _ends(process, deadline - monotonic())
            text = logs[name].read_text(errors="replace").rstrip().splitlines()
            if process.returncode == 0:
                print(f"gpu: {name}: {text[-1] if text else 'done'}", flush=True)
                continue
            print(f"gpu: {name} {f'was cut off after {seconds:g} seconds' if late else 'failed'}:")
            print(*text[-_LINES:], sep="\n", flush=True)
            well &= late
    return well


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends in that time; if not it is interrupted, so that it tells what failed, then killed."""
    for how, patience in ((None, max(0.0, seconds)), (signal.SIGINT, _PATIENCE), (signal.SIGKILL, None)):
        try:
            if how is not None:
                os.killpg(process.pid, how)
            process.wait(patience)
            return how is None
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return False
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="gpu.csv", help="the CSV file to write")
    out = parser.parse_args().out
    start = monotonic()
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    with tempfile.TemporaryDirectory() as scratch:
        well = run_all(checks(Path(scratch)), _SECONDS)
    minutes = f"{MINUTES - (monotonic() - start) / 60:.2f}"
    bench = [sys.executable, "-m", "strop.bench", "gpu", "--minutes", minutes, "--out", out]
    status = subprocess.run(bench).returncode
    return status or int(not well)


if __name__ == "__main__":
    sys.exit(main())
