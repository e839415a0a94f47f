import io
import math
import sys

import pytest
import torch
from toy_run import ToyTask

from strop.training import (
    Bar,
    Lines,
    LoopOptions,
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
