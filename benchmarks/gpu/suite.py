"""All that a GPU can tell within 8 minutes, from a bare checkout: `make gpu`.

Tests run side by side, since most of their time they compile; then `strop.bench gpu` has the machine for
itself. What fails is told, the rest is done all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from time import monotonic

from commands import ROOT, run_all, with_sources

MINUTES = 7.25  # the rest of 8 is for what was begun before that
_SECONDS = 150  # for the tests


def checks(python: str = sys.executable) -> dict[str, list[str]]:
    """Commands by name, as far as what they need is there."""
    found: dict[str, list[str]] = {}
    if all(map(find_spec, ("pytest", "pytest_timeout", "hypothesis"))):
        files = [ROOT / "tests/test_graphs.py", *sorted((ROOT / "tests/ops").glob("test_triton_*.py"))]
        files = [file for file in files if file.stem != "test_triton_compile"]  # needs no GPU
        if find_spec("safetensors"):
            files.append(ROOT / "tests/training/test_captured.py")
        options = ["-q", "-W", "default", "-o", "faulthandler_timeout=45", "-p", "no:cacheprovider"]
        found = {file.stem: [python, "-m", "pytest", *options, str(file)] for file in files}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="gpu.csv", help="the CSV file to write")
    parser.add_argument("--no-tests", action="store_true", help="leave all the time to measuring")
    given = parser.parse_args()
    out, start = given.out, monotonic()
    with_sources()
    well = given.no_tests or run_all(checks(), _SECONDS)
    minutes = f"{MINUTES - (monotonic() - start) / 60:.2f}"
    bench = [sys.executable, "-m", "strop.bench", "gpu", "--minutes", minutes, "--out", out]
    status = subprocess.run(bench).returncode
    return status or int(not well)


if __name__ == "__main__":
    sys.exit(main())
