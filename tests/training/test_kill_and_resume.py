"""Runs killed with SIGKILL and resumed end with the same bits as a run never killed."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strop.training import read_curve
from strop.training.checkpoint import CheckpointStore

PROGRAM = Path(__file__).with_name("toy_run.py")
STEPS = 36


def start(**arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1]) >= step:
            return


def kill_at(step: int, **arguments) -> None:
    """Runs, and sends SIGKILL as soon as `step` or a later one is announced, two steps later at most."""
    process = start(**arguments, say_steps=True, hold_at=step + 2)
    wait_for_step(process, step)
    process.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, (step, errors)


def last_checkpoint(out: Path):
    store = CheckpointStore(out / "checkpoints")
    return store.load(store.latest())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(out=str(out), evaluations=2))
    return out


def assert_same_end(out: Path, whole: Path) -> None:
    a, b = last_checkpoint(out), last_checkpoint(whole)
    assert a.step == b.step == STEPS
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in b.weights)
    assert a.best_step == b.best_step
    columns = ("step", "epoch", "words", "rate", "train_loss", "valid_loss")
    rows, expected = (read_curve(path / "curve.csv") for path in (out, whole))
    assert [[row[name] for name in columns] for row in rows] == [
        [row[name] for name in columns] for row in expected
    ]


# 0: a checkpoint after every step, so that kills fall into the writing. 1e9: at the ends of epochs only.
@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_a_run_killed_at_random_steps_ends_with_the_same_weights(tmp_path, whole, checkpoint_seconds):
    out = tmp_path / "run"
    arguments = {"out": str(out), "evaluations": 2, "checkpoint_seconds": checkpoint_seconds}
    # Other steps at every run of this test.
    steps = sorted(random.SystemRandom().sample(range(STEPS - 2), 2))
    for count, step in enumerate(steps):
        kill_at(step, **arguments, resume=count > 0)
    finish(start(**arguments, resume=True))
    assert_same_end(out, whole)


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path, whole):
    out = tmp_path / "run"
    kill_at(0, out=str(out), evaluations=2)
    finish(start(out=str(out), evaluations=2, resume=True))
    assert_same_end(out, whole)


def test_an_interrupt_from_the_terminal_saves(tmp_path, whole):
    out = tmp_path / "run"
    process = start(out=str(out), evaluations=2, say_steps=True, hold_at=14)
    wait_for_step(process, 13)
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "InterruptedRunError: stopped at step" in errors
    finish(start(out=str(out), evaluations=2, resume=True))
    assert_same_end(out, whole)
