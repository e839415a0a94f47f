"""What a command says before it works, how it stops, and what it does where a stream is missing."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strop.training.checkpoint import CheckpointStore

STROP = [sys.executable, "-m", "strop"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    lines = ["the cat sat on the mat", "a dog ate the cat", "the mat is flat", "dogs sat"]
    for split, times in (("train", 60), ("valid", 4), ("test", 4)):
        (folder / f"toy.{split}.txt").write_text("\n".join(lines * times) + "\n")
    return folder


def words(text: Path, out: Path, epochs: int = 1) -> list[str]:
    small = ["--units", "8", "--steps", "5", "--batch", "4", "--threads", "1", "--no-tensorboard"]
    return [*STROP, "train", "lm", "--data", str(text), "--out", str(out), "--epochs", str(epochs), *small]


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))
    }
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def started(command: list[str], until: str) -> subprocess.Popen[str]:
    """A process that has printed a line beginning with `until`."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until):
            return process
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_keep_no_command_from_its_work(closed, text, tmp_path):
    for command in ([*STROP, "--version"], [*STROP, "train", "lm", "--help"], words(text, tmp_path / "run")):
        done = subprocess.run(
            ["bash", "-c", f"{shlex.join(command)} {closed}"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done
        assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_outputs_that_are_not_utf8_get_question_marks(encoding, text, tmp_path):
    for command in ([*STROP, "train", "lm", "--help"], words(text, tmp_path / "run")):
        done = subprocess.run(
            command,
            capture_output=True,
            env=environment(PYTHONIOENCODING=encoding, LC_ALL="C", PYTHONUTF8="0"),
        )
        assert done.returncode == 0, done
        assert b"Traceback" not in done.stderr


def test_ctrl_c_while_pytorch_loads_is_one_line(text, tmp_path):
    process = started(words(text, tmp_path / "run"), "strop train lm: loading PyTorch")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "strop: interrupted"
    assert "Traceback" not in errors


def test_a_terminal_that_hangs_up_has_the_run_saved(text, tmp_path):
    out = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        process = started(words(text, out, 100_000), "epoch 1.00")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP, errors
    store = CheckpointStore(out / "checkpoints")
    assert f"stopped at step {store.load(store.latest()).step} of" in errors


def test_nohup_outlives_its_terminal(text, tmp_path):
    process = started(["nohup", *words(text, tmp_path / "run", 100_000)], "epoch 1.00")
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_a_second_ctrl_c_leaves_at_once_and_says_what_is_lost(tmp_path):
    program = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(Path(__file__).parent / "training")!r})
from toy_run import ToyTask
from strop import cli
from strop.training import LoopOptions, train
class Long(ToyTask):
    def loss(self, model, batch, carry):
        if self.optimizer.state_dict() and (n := getattr(self, "n", 0)) == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        self.n = getattr(self, "n", 0) + 1
        return super().loss(model, batch, carry)
out = pathlib.Path({str(tmp_path / "run")!r})
options = LoopOptions(out, epochs=9, tensorboard=False, plot=False, resume_hint="type this")
cli._command = lambda words: train(Long(), options)
sys.exit(cli.main([]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert done.returncode == 130, done
    first, last = [line for line in done.stderr.splitlines() if line]
    assert "finishing the step and saving; Ctrl-C again leaves at once" in first
    assert last.startswith("strop: left at step 20; lost since the last checkpoint: ")
    assert last.endswith("to go on from there: type this")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "passive None"),
        ({"OMP_WAIT_POLICY": "active"}, "active None"),
        ({"GOMP_SPINCOUNT": "9"}, "None 9"),
    ],
)
def test_how_threads_wait_is_chosen_before_pytorch_loads_unless_the_user_did(given, chosen, text, tmp_path):
    program = """
import os, sys
from strop import cli
import importlib
def seen(name):
    if name == "strop.tasks.language":
        assert "torch" not in sys.modules
        print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
        sys.exit(0)
    return load(name)
load, cli.importlib.import_module = cli.importlib.import_module, seen
cli.main(["train", "lm"])
"""
    kept = {name: value for name, value in environment().items() if name not in cli_waiting()}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=kept | given)
    assert done.stdout.splitlines()[-1] == chosen, done


def cli_waiting() -> tuple[str, ...]:
    from strop import cli

    return cli._WAITING
