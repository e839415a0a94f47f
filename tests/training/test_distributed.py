"""Two gloo processes started by torchrun, against one process on the joined batch and against themselves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import ToyTask

from strop.training import CheckpointError, LoopOptions, RunError, World, read_curve, train
from strop.training.checkpoint import CheckpointStore
from strop.training.distributed import stream_seed

PROGRAM = Path(__file__).with_name("toy_run.py")


def run_two(**arguments) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, str(PROGRAM), json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def last(out: Path):
    store = CheckpointStore(out / "checkpoints")
    return store.load(store.latest())


def assert_same(a, b):
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in b.weights)


def test_two_processes_learn_what_one_learns_on_the_joined_batch(tmp_path):
    options = LoopOptions(tmp_path / "1", epochs=1, clip=0.5, tensorboard=False, plot=False)
    train(ToyTask(dropout=0.0), options)
    done = run_two(out=str(tmp_path / "2"), dropout=0.0, epochs=1, clip=0.5)
    assert done.returncode == 0, done.stderr
    one, two = last(tmp_path / "1"), last(tmp_path / "2")
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, rtol=1e-4, atol=1e-5)
    rows = [read_curve(tmp_path / name / "curve.csv")[-1] for name in "12"]
    assert rows[0]["words"] == rows[1]["words"]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)
    assert [state["carry"][0].shape for state in two.ranks] == [(2, 2, 8), (2, 2, 8)]


def test_two_processes_draw_other_masks_the_same_ones_every_time_and_resume_exactly(tmp_path):
    done = run_two(out=str(tmp_path / "a"), epochs=2)
    assert done.returncode == 0, done.stderr
    whole = last(tmp_path / "a")
    states = [state["generators"]["torch"] for state in whole.ranks]
    assert not torch.equal(*states)
    done = run_two(out=str(tmp_path / "b"), epochs=2, signal_at=15)
    assert done.returncode != 0
    assert "InterruptedRunError: stopped at step 16" in done.stderr
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    alone = LoopOptions(tmp_path / "c", epochs=2, resume=True, tensorboard=False, plot=False)
    with pytest.raises(CheckpointError, match=r"written by 2 processes, now there are 1.*nproc-per-node 2"):
        train(ToyTask(), alone)
    done = run_two(out=str(tmp_path / "b"), epochs=2, resume=True)
    assert done.returncode == 0, done.stderr
    assert_same(last(tmp_path / "b"), whole)


def test_columns_are_parted_evenly_or_not_at_all():
    assert [World(rank, 2).share(6) for rank in (0, 1)] == [slice(0, 3), slice(3, 6)]
    with pytest.raises(RunError, match=r"5 columns.* 2 processes"):
        World(0, 2).share(5)


def test_every_seed_and_rank_has_its_own_stream():
    seeds = {stream_seed(seed, rank) for seed in range(50) for rank in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, 2) == stream_seed(1, 2)
