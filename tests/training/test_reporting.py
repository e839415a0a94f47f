import io
import math
import sys
from dataclasses import replace

import pytest
import torch
from toy_run import ToyTask

from strop.training import (
    Bar,
    Lines,
    LoopOptions,
    NonFiniteError,
    RunFolderError,
    Status,
    for_stdout,
    plot_curves,
    read_curve,
    train,
    value_at,
)
from strop.training.clock import StepClock
from strop.training.curves import CurveWriter
from strop.training.progress import duration


def row(step, loss):
    return {"step": step, "train_seconds": step / 10, "valid_loss": loss}


def test_a_curve_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "curve.csv"
    writer = CurveWriter(path, 0, tensorboard=False, plot=None)
    for step in (1, 2, 3):
        writer.append(row(step, 1 / step))
    with path.open("a") as file:
        file.write("4,0.")
    assert [r["step"] for r in read_curve(path)] == [1, 2, 3]
    writer = CurveWriter(path, 2, tensorboard=False, plot=None)
    writer.append(row(3, 0.1))
    assert read_curve(path) == [row(1, 1.0), row(2, 0.5), row(3, 0.1)]
    assert path.read_text().splitlines()[0] == "step,train_seconds,valid_loss"


def test_a_curve_that_was_read_is_written_as_it_was(tmp_path):
    path = tmp_path / "curve.csv"
    writer = CurveWriter(path, 0, tensorboard=False, plot=None)
    for step in (1, 2):
        writer.append({"step": step, "words": 700 * step, "epoch": float(step), "valid_loss": math.inf})
    text = path.read_text()
    CurveWriter(path, 2, tensorboard=False, plot=None)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,valid_loss\nx,y\n", "step,valid_loss\n1\n"])
def test_a_file_that_is_no_curve_is_refused(tmp_path, text):
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(RunFolderError, match="not a learning curve"):
        CurveWriter(path, 2, tensorboard=False, plot=None)
    assert path.read_text() == text


def test_a_value_is_read_off_between_evaluations():
    rows = [row(10, 4.0), row(20, 2.0), row(40, 1.0)]
    assert value_at(rows, 1.0, "valid_loss") == 4.0
    assert value_at(rows, 1.5, "valid_loss") == pytest.approx(3.0)
    assert value_at(rows, 3.0, "valid_loss") == pytest.approx(1.5)
    assert value_at(rows, 99.0, "valid_loss") == 1.0
    with pytest.raises(ValueError, match=r"first evaluation was at 1\.0"):
        value_at(rows, 0.5, "valid_loss")


def test_curves_are_drawn_and_events_written(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    train(ToyTask(), LoopOptions(tmp_path / "run", epochs=1, evaluations=2))
    assert (tmp_path / "run" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    rows = [row(1, 90.0), row(2, 9.0)]
    plot_curves({"a": rows, "b": rows}, "valid_loss", tmp_path / "two.png")
    assert (tmp_path / "two.png").stat().st_size > 1000


STATUS = Status(
    step=30,
    steps=100,
    epoch=1.5,
    epochs=5,
    metrics={"perplexity": 123.456},
    items="words",
    items_per_second=4321.0,
    seconds_left=3700.0,
)


def test_plain_lines_say_where_the_run_stands(capsys):
    lines = Lines(seconds=0.0)
    assert lines.due()
    lines.show(STATUS)
    assert capsys.readouterr().out == (
        "epoch 1.50/5 · step 30/100 · perplexity 123.46 · 4,321 words/s · 1:01:40 left\n"
    )
    assert not Lines(seconds=100.0).due()


def test_the_bar_shows_the_same(monkeypatch):
    pytest.importorskip("rich")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    bar = Bar("toy")
    assert bar.due()
    bar.show(STATUS)
    bar.say("a [bracket]")
    bar.close()
    assert "a [bracket]" in out.getvalue()
    assert "1.50/5" in out.getvalue()


def test_a_pipe_gets_lines(capsys):
    assert isinstance(for_stdout(), Lines)


def test_durations():
    assert [duration(s) for s in (5, 61, 3661, math.nan, -1)] == ["0:05", "1:01", "1:01:01", "?", "?"]


def test_the_clock_counts_phases_and_goes_on():
    clock = StepClock(torch.device("cpu"))
    assert clock.medians_ms() == {}
    clock.go_on_from({"data": 1.0, "forward": 2.0, "backward": 0.0, "optimiser": 0.0}, {"step": 1e9})
    assert clock.medians_ms() == {"step": 1e9}
    clock.start()
    for phase in ("data", "forward", "backward", "optimiser"):
        clock.lap(phase)
    clock.settle()
    assert 3.0 < clock.total() < 4.0
    medians = clock.medians_ms()
    assert 1e9 > medians["step"] >= medians["forward"] >= 0


def test_rows_of_training_come_between_evaluations(tmp_path):
    path = tmp_path / "curve.csv"
    writer = CurveWriter(path, 0, tensorboard=False, plot=None)
    writer.append({"step": 5, "train_seconds": 1.0, "train_loss": 3.0})
    writer.append({"step": 10, "train_seconds": 2.0, "train_loss": 2.0, "valid_loss": 2.5})
    writer.append({"step": 15, "train_seconds": 3.0, "train_loss": 1.5})
    assert path.read_text().splitlines() == [
        "step,train_seconds,train_loss,valid_loss",
        "5,1.0,3.0,",
        "10,2.0,2.0,2.5",
        "15,3.0,1.5,",
    ]
    assert [row["step"] for row in read_curve(path)] == [10]
    assert [row["step"] for row in read_curve(path, between=True)] == [5, 10, 15]
    # A run resumed at step 12 makes the last again; one at 10 that was not evaluated yet, that too.
    CurveWriter(path, 12, tensorboard=False, plot=None, evaluated_at=10)
    assert [row["step"] for row in read_curve(path, between=True)] == [5, 10]
    CurveWriter(path, 10, tensorboard=False, plot=None, evaluated_at=0)
    assert [row["step"] for row in read_curve(path, between=True)] == [5]


def test_events_are_tensorboards_own(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for step in (0, 10):  # resumed at step 10: what came later is withdrawn
        writer = CurveWriter(tmp_path / "curve.csv", step, tensorboard=True, plot=None)
        for at in (step + 5, step + 10, step + 15):
            writer.append({"step": at, "valid_loss": float(at + step)})
        writer.close()
    events = loading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("valid_loss")]
    assert found == [(5, 5.0), (10, 10.0), (15, 25.0), (20, 30.0), (25, 35.0)]


def test_a_full_disk_is_one_error_and_no_threads_traceback(tmp_path, monkeypatch, capfd):
    import errno

    writer = CurveWriter(tmp_path / "curve.csv", 0, tensorboard=True, plot=None)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(writer._events._records), "write", full)
    with pytest.raises(RunFolderError, match="No space left"):
        writer.append({"step": 1, "valid_loss": 1.0})
    assert capfd.readouterr() == ("", "")
    writer.close()


def test_a_loss_far_off_its_scale_ends_the_run_within_the_epoch(tmp_path):
    class Diverging(ToyTask):
        def loss(self, model, batch, carry):
            outcome = super().loss(model, batch, carry)
            self.n = getattr(self, "n", 0) + 1
            return replace(outcome, mean=outcome.mean * 0 + (2.0 if self.n < 20 else 1e6))

    task = Diverging()
    options = LoopOptions(tmp_path / "run", epochs=100, tensorboard=False, plot=False)
    with pytest.raises(NonFiniteError, match=r"step 19: the loss is .*, at the beginning it was 2, so"):
        train(task, options)
    assert task.n <= 21
