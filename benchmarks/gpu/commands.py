"""Commands that may fail or hang, each with its time and its log."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
_PATIENCE = 10.0  # seconds for what is interrupted
_LINES = 40  # of what failed


def with_sources() -> None:
    """Lets every command from here on import strop from the checkout, before what is on the path already."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *([before] if before else [])])


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
            late = not ends(process, deadline - monotonic())
            text = logs[name].read_text(errors="replace").rstrip().splitlines()
            if process.returncode == 0:
                print(f"gpu: {name}: {text[-1] if text else 'done'}", flush=True)
                continue
            print(f"gpu: {name} {f'was cut off after {seconds:g} seconds' if late else 'failed'}:")
            print(*text[-_LINES:], sep="\n", flush=True)
            well &= late
    return well


def ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process; past the time interrupt it, so that it tells what failed, then kill it.

    Returns whether it ended in time.
    """
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
