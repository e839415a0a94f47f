import json
import math
import os
import random
import shutil
import sys

import pytest
import torch
from torch import nn
from toy_run import ToyTask

from strop.training import CheckpointError, LoopOptions, Silent, generators, train, tree
from strop.training.checkpoint import Checkpoint, CheckpointStore


def checkpoint(step=3, value=1.0, best_step=None):
    return Checkpoint(
        step=step,
        weights={"w": torch.full((2, 3), value)},
        optimizer={
            "state": {0: {"m": torch.full((3,), value)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        ranks=[tree.to_bytes({"carry": (torch.zeros(2), None)})],
        progress={"items": 5},
        identity={"seed": 0},
        best_step=best_step,
    )


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def test_a_checkpoint_reads_back_as_it_was(store):
    assert store.latest() is None
    path = store.save(checkpoint())
    assert store.latest() == path
    back = store.load(path)
    assert (back.step, back.progress, back.identity) == (3, {"items": 5}, {"seed": 0})
    assert torch.equal(back.weights["w"], torch.ones(2, 3))
    assert torch.equal(back.optimizer["state"][0]["m"], torch.ones(3))
    assert back.optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert back.ranks[0]["carry"][1] is None


def test_the_newest_checkpoint_and_the_best_weights_stay(store):
    store.save_best(2, {"w": torch.zeros(2)}, {"loss": 1.0})
    oldest = store.save(checkpoint(3, best_step=2))
    store.save_best(3, {"w": torch.ones(2)}, {"loss": 0.5})
    older = store.save(checkpoint(4, best_step=3))
    assert {entry.name[:6] for entry in store.folder.iterdir()} == {"best-s", oldest.name[:6], older.name[:6]}
    newest = store.save(checkpoint(5, best_step=3))
    assert {entry.name for entry in store.folder.iterdir()} == {"best-step-3", older.name, newest.name}
    assert torch.equal(store.load_best(3)["w"], torch.ones(2))


@pytest.mark.parametrize("file", ["manifest.json", "weights.safetensors", "rank-0.safetensors", "best"])
def test_a_damaged_newest_checkpoint_falls_back_by_one_and_says_so(tmp_path, file):
    class Told(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, message: str) -> None:
            self.lines.append(message)

    def options(name, epochs, resume=False):
        return LoopOptions(tmp_path / name, epochs=epochs, resume=resume, tensorboard=False, plot=False)

    train(ToyTask(), options("whole", 3))
    train(ToyTask(), options("run", 2))
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    newest = store.load(store.latest())
    older, latest = sorted(path for path in store.folder.iterdir() if path.name[0] == "0")
    best = store.folder / f"best-step-{newest.best_step}"
    _damage(best / "weights.safetensors" if file == "best" else latest / file, "flip")
    told = Told()
    if file == "best" and store.load(older).best_step == newest.best_step:
        with pytest.raises(CheckpointError, match="damaged"):
            train(ToyTask(), options("run", 3, resume=True), progress=told)
        return
    train(ToyTask(), options("run", 3, resume=True), progress=told)
    assert any(f"going on from the checkpoint before it, {older.name}" in line for line in told.lines)
    whole = CheckpointStore(tmp_path / "whole" / "checkpoints")
    ends = [each.load(each.latest()) for each in (whole, store)]
    assert all(torch.equal(a, b) for a, b in zip(*(end.weights.values() for end in ends), strict=True))


def test_the_weights_load_into_a_model_without_strop(store):
    safetensors = pytest.importorskip("safetensors.torch")
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    store.save_best(0, model.state_dict(), {})
    other = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    other.load_state_dict(safetensors.load_file(store.folder / "best-step-0" / "weights.safetensors"))
    assert torch.equal(other[1].weight, model[0].weight)


def _damage(path, how):
    if how == "flip":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
@pytest.mark.parametrize(
    "file", ["manifest.json", "weights.safetensors", "optimizer.safetensors", "rank-0.safetensors"]
)
def test_a_damaged_checkpoint_is_refused_and_nothing_overwritten(tmp_path, file, how):
    def options(resume):
        return LoopOptions(tmp_path / "run", epochs=1, resume=resume, tensorboard=False, plot=False)

    train(ToyTask(), options(False))
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    latest = store.latest()
    for path in store.folder.iterdir():
        if path != latest and path.name[0] == "0":
            shutil.rmtree(path)  # else the run goes on from there
    _damage(latest / file, how)
    contents = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=f"(?s){latest.name}.*({file}|damaged)"):
        train(ToyTask(), options(True))
    assert contents == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a strop checkpoint"),
        ('{"format": "other"}', "not a strop checkpoint"),
        ('{"format": "strop checkpoint", "version": 99}', "format 99"),
        ("\x80", "not JSON"),
    ],
)
def test_a_foreign_checkpoint_is_refused(store, text, message):
    path = store.save(checkpoint())
    (path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=message):
        store.load(path)


def test_a_pickle_in_a_checkpoints_place_is_not_run(store, tmp_path):
    import hashlib
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    path = store.save(checkpoint())
    bait = pickle.dumps(Trap())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "optimizer.safetensors").write_bytes(bait)
    manifest["files"]["optimizer.safetensors"] = hashlib.sha256(bait).hexdigest()
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        store.load(path)
    assert not (tmp_path / "sprung").exists()


class _Died(BaseException):
    pass


def test_dying_before_any_change_of_the_disk_leaves_a_loadable_checkpoint(tmp_path, monkeypatch):
    """Counts the calls by which a save changes the disk, and dies before each of them in turn."""
    calls = {"left": math.inf, "made": 0}

    def mortal(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            calls["left"] -= 1
            calls["made"] += 1
            if calls["left"] < 0:
                raise _Died
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (os, "rename"),
        (os, "fsync"),
        (os, "mkdir"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "open"),
    ):
        mortal(owner, name)

    def saves(store):
        store.save_best(6, {"w": torch.full((2,), 2.0)}, {})
        store.save(checkpoint(7, 2.0, best_step=6))

    def prepared(name):
        store = CheckpointStore(tmp_path / name)
        store.save_best(2, {"w": torch.ones(2)}, {})
        store.save(checkpoint(3, 1.0, best_step=2))
        return store

    store = prepared("count")
    calls["made"] = 0
    saves(store)
    total = calls["made"]
    assert total > 20
    seen = set()
    for death in range(total):
        calls["left"] = math.inf
        store = prepared(f"death-{death}")
        calls["left"] = death
        with pytest.raises(_Died):
            saves(store)
        calls["left"] = math.inf
        latest = store.latest()
        back = store.load(latest)
        value = {3: 1.0, 7: 2.0}[back.step]
        assert torch.equal(back.weights["w"], torch.full((2, 3), value))
        assert torch.equal(store.load_best(back.best_step)["w"], torch.full((2,), value))
        store.keep_only(latest)
        kept = {entry.name for entry in store.folder.iterdir()}
        assert {latest.name, f"best-step-{back.best_step}"} <= kept
        assert len(kept) <= 4
        for name in kept - {latest.name}:
            assert name.startswith("best-step-") or store.load(store.folder / name).step == 3
        seen.add(back.step)
        shutil.rmtree(store.folder)
    assert seen == {3, 7}


def test_nested_state_reads_back_as_it_was(tmp_path):
    state = {
        "a": [1, 2.5, None, True, "x", (torch.arange(3), {7: torch.zeros(0)})],
        "same": torch.ones(2, 2).t(),
        "infinite": math.inf,
    }
    (tmp_path / "state").write_bytes(tree.to_bytes(state))
    back = tree.from_file(tmp_path / "state")
    assert back["a"][:5] == state["a"][:5]
    assert isinstance(back["a"][5], tuple)
    assert torch.equal(back["a"][5][0], torch.arange(3))
    assert back["a"][5][1][7].shape == (0,)
    assert back["infinite"] == math.inf


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": [{1.5: 2}]}])
def test_state_that_cannot_be_saved_is_named(wrong):
    with pytest.raises(TypeError, match=r"state\.a"):
        tree.to_bytes(wrong)


def test_every_generator_goes_on_where_it_was(tmp_path):
    numpy = pytest.importorskip("numpy")
    assert "numpy" in sys.modules
    own = {"mine": torch.Generator().manual_seed(3)}
    cpu = torch.device("cpu")

    def draws():
        return [
            torch.rand(2).tolist(),
            random.random(),
            random.gauss(0, 1),
            numpy.random.rand(),
            torch.rand(2, generator=own["mine"]).tolist(),
        ]

    random.gauss(0, 1)
    (tmp_path / "state").write_bytes(tree.to_bytes(generators.capture(own, cpu)))
    first = draws()
    generators.restore(tree.from_file(tmp_path / "state"), own, cpu)
    assert draws() == first
    with pytest.raises(ValueError, match="mine"):
        generators.restore(tree.from_file(tmp_path / "state"), {}, cpu)
