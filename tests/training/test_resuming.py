"""What `resume` keeps of a finished run, and what it refuses."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from toy_run import ToyTask

from strop.training import CheckpointError, LoopOptions, RunError, RunFolderError, Silent, train
from strop.training.checkpoint import CheckpointStore

resource = pytest.importorskip("resource")


def options(out: Path, **changes) -> LoopOptions:
    return LoopOptions(out, **{"epochs": 1, "tensorboard": False, "plot": False, **changes})


class Heard(Silent):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def test_resuming_a_finished_run_keeps_its_result(tmp_path):
    train(ToyTask(), options(tmp_path))
    first = json.loads((tmp_path / "result.json").read_text())
    assert first["phase_ms"]["step"] > 0
    train(ToyTask(), options(tmp_path, resume=True))
    assert json.loads((tmp_path / "result.json").read_text()) == first


def test_a_run_without_a_checkpoint_says_that_it_begins(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    heard = Heard()
    train(ToyTask(), options(tmp_path, resume=True), progress=heard)
    assert heard.lines[0] == f"no checkpoint yet in {tmp_path}: starting at step 0"


@pytest.mark.parametrize("gone", ["result.json", "curve.csv"])
def test_a_run_that_lost_its_checkpoints_does_not_begin_again(tmp_path, gone):
    train(ToyTask(), options(tmp_path, evaluations=2))
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / gone).unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != ".lock")
    with pytest.raises(CheckpointError, match=r"no checkpoint there, but the run was trained; .*--out"):
        train(ToyTask(), options(tmp_path, resume=True, evaluations=2))
    after = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.name != ".lock")
    assert before == after


def test_a_curve_of_two_rows_has_a_checkpoint(tmp_path):
    class Looks(ToyTask):
        def evaluate(self, split):
            if self.evaluations == 1:
                assert CheckpointStore(tmp_path / "checkpoints").latest().name == "000000-step-4"
            return super().evaluate(split)

    train(Looks(), options(tmp_path, evaluations=3))


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-5]), Path.unlink])
def test_damaged_best_weights_are_found_before_training(tmp_path, damage):
    train(ToyTask(), options(tmp_path))
    damage(tmp_path / "checkpoints" / "best-step-12" / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"best-step-12: damaged \(weights.safetensors.*restore it"):
        train(ToyTask(signal_at=12), options(tmp_path, epochs=2, resume=True))


def test_only_what_differs_is_named(tmp_path):
    class Described(ToyTask):
        def __init__(self, data="aa", **preset):
            super().__init__()
            self.identity = {"data": data, "preset": {"rate": 1.0, "clip": 2.0, **preset}}

    train(Described(), options(tmp_path))

    def refusal(task) -> str:
        description = {"options": {"data": "/texts/wiki", "src": ["/a.en"], "seed": 0}}
        with pytest.raises(CheckpointError) as caught:
            train(task, options(tmp_path, resume=True, description=description))
        return str(caught.value).partition("of another run ")[2]

    end = "or start afresh in another folder (--out)"
    assert refusal(Described(rate=0.5)) == (
        f"(rate: 1.0 there, 0.5 now); nothing was changed; give these settings as there, {end}"
    )
    longer = Described(data="bb")
    longer.steps_per_epoch = 11
    assert refusal(longer) == (
        "(data: not what the run was trained on: /texts/wiki, /a.en); nothing was changed; "
        f"bring that data back, {end}"
    )


@contextmanager
def small_disk(bytes_left: int):
    """Files end there, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_run_goes_on_with_as_many_threads_as_it_had(tmp_path):
    train(ToyTask(), options(tmp_path))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        other = rf"threads: {before} there, {before + 1} now\); nothing was changed; give these settings as"
        with pytest.raises(CheckpointError, match=other):
            train(ToyTask(), options(tmp_path, epochs=2, resume=True))
    finally:
        torch.set_num_threads(before)
    assert train(ToyTask(), options(tmp_path, epochs=2, resume=True)).steps == 24


@pytest.mark.parametrize(
    ("bytes_left", "kind", "place"),
    [(10, RunFolderError, "run"), (1000, CheckpointError, "run/checkpoints")],  # run.json, then weights
)
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on(tmp_path, bytes_left, kind, place):
    out = tmp_path / "run"
    with (
        small_disk(bytes_left),
        pytest.raises(RunError, match=r"cannot be written .*[Tt]oo large.*free space.*--resume") as caught,
    ):
        train(ToyTask(), options(out))
    assert caught.type is kind
    assert str(caught.value).startswith(f"{tmp_path / place}: ")
    assert not [path for path in out.rglob("*") if "partial" in path.name or "writing" in path.name]
    assert train(ToyTask(), options(out, resume=True)).steps == 12


@pytest.mark.parametrize("name", ["curve.csv", "curve.png", "result.json"])
def test_whatever_file_cannot_be_written_the_run_ends_clearly(tmp_path, name):
    pytest.importorskip("matplotlib")

    class Blocked(ToyTask):
        def evaluate(self, split):
            if not (tmp_path / name).exists() or split == "test":
                (tmp_path / name).mkdir(exist_ok=True)
            return super().evaluate(split)

    with pytest.raises(RunFolderError, match=r"cannot be written .*directory"):
        train(Blocked(), options(tmp_path, plot=name == "curve.png"))
    assert not list(tmp_path.glob("*.partial"))
