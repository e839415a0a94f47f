"""The GPU suite, at tiny sizes: in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import csv
import importlib.util
import os
import time

import pytest
import torch

from strop.bench import gpu, gpu_check
from strop.bench.gpu_points import PRECISIONS, points, precision
from strop.bench.presets import LAYER_PRESETS
from strop.bench.side_by_side import Apart, Here, run_parts
from strop.ops import dispatch
from strop.ops.products import Keep

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_checks_measures_and_writes(tmp_path, capsys):
    out = tmp_path / "gpu.csv"
    assert gpu.run(gpu.Options(out, device=DEVICE, tiny=True), Here()) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {(row["stage"], row["impl"]) for row in rows} == {
        *(("layer", impl) for impl in ("cudnn", "eager", "nr-st", "nr-rh-st")),
        *(("sweep", impl) for impl in ("cudnn", "nr-rh-st")),
    }
    for row in rows:
        assert float(row["ms_p20"]) <= float(row["ms_p50"]) <= float(row["ms_p80"])
        assert int(row["rounds"]) >= 1
        assert row["torch"] == torch.__version__
        base = next(
            r for r in rows if r["impl"] == "cudnn" and (r["stage"], r["mode"]) == (row["stage"], row["mode"])
        )
        expected = float(base["ms_p50"]) / float(row["ms_p50"])
        assert float(row["speedup_vs_cudnn"]) == pytest.approx(expected, rel=1e-3)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:3] == ["sweep", "fp16", "nr-rh-st"]


def test_wrong_values_are_not_timed(monkeypatch, tmp_path, capsys):
    from strop.ops.triton import recurrence

    forward = recurrence.forward

    def wrong(layer, *operands):
        *head, keep, mask = operands
        keep = keep and Keep(keep.index, keep.count, 1.5 * keep.scale)
        return forward(layer, *head, keep, mask)

    monkeypatch.setattr(recurrence, "forward", wrong)
    out = tmp_path / "gpu.csv"
    assert gpu.run(gpu.Options(out, device=DEVICE, tiny=True), Here()) == 1
    assert (
        "LSTM 2x3x5x7 structured bidirectional packed fp32: its output is off by" in capsys.readouterr().err
    )
    assert not out.exists()


def test_a_precision_that_is_wrong_is_told_and_the_others_are_timed(monkeypatch, tmp_path, capsys):
    differences = gpu_check._differences

    def fails_in_fp32(case, dtype, name, device):
        if name == "fp32":
            raise RuntimeError("out of shared memory")
        return differences(case, dtype, name, device)

    monkeypatch.setattr(gpu_check, "_differences", fails_in_fp32)
    out = tmp_path / "gpu.csv"
    assert gpu.run(gpu.Options(out, device=DEVICE, tiny=True), Here()) == 1
    said = capsys.readouterr().err
    assert "strop is wrong in fp32 here, so that is not timed:" in said
    assert "GRU 2x3x5x7 random fp32: RuntimeError out of shared memory" in said
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["stage"] for row in rows} == {"layer", "sweep"}
    assert {row["precision"] for row in rows} == {"fp16"} | ({"tf32", "bf16"} if DEVICE == "cuda" else set())


def test_what_fails_is_noted_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    def fails(preset, impl):
        if impl == "nr-rh-st":
            raise RuntimeError("no such luck")
        return model(preset, impl)

    model, (_, point) = gpu._model, points(True, ["fp32"])
    monkeypatch.setattr(gpu, "_model", fails)
    monkeypatch.setattr(gpu, "points", lambda *_: [point])
    monkeypatch.setattr(gpu_check, "faults", lambda *_: {})
    out = tmp_path / "gpu.csv"
    assert gpu.run(gpu.Options(out, device=DEVICE, tiny=True), Here()) == 1
    assert "failed: nr-rh-st at sweep fp32: RuntimeError no such luck" in capsys.readouterr().out
    assert "cudnn" in out.read_text()


def test_in_a_process_of_its_own(tmp_path):
    """As on a GPU; the first point only."""
    out = tmp_path / "gpu.csv"
    with Apart() as calls:
        assert calls.call(gpu._check, DEVICE, "fp32", True, seconds=100) == []
        rows, notes, _ = calls.call(gpu._measure, DEVICE, points(True, ["fp32"])[1], seconds=100)
    assert {row.impl for row in rows} == {"cudnn", "nr-rh-st"}
    assert not [note for note in notes if note.startswith("failed")]
    assert not out.exists()


def test_a_process_that_dies_or_hangs_does_not_end_the_rest():
    with Apart() as calls:
        first = calls.call(os.getpid, seconds=60)
        assert first not in (os.getpid(), None)
        with pytest.raises(RuntimeError, match="ValueError no such luck"):
            calls.call(_raises, "no such luck\nat all", seconds=60)
        assert calls.call(os.getpid, seconds=60) == first
        with pytest.raises(RuntimeError, match=r"its process died \(exit code 3\)"):
            calls.call(os._exit, 3, seconds=60)
        with pytest.raises(TimeoutError, match=r"longer than 0\.5 seconds"):
            calls.call(time.sleep, 1000, seconds=0.5)
        assert calls.call(os.getpid, seconds=60) != first


def _raises(message: str) -> None:
    raise ValueError(message)


class _Dies(Here):
    """A process that dies of what is asked of it by name."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def call(self, function, *arguments, seconds):
        if function.__name__ in self.names:
            raise RuntimeError("its process died (exit code -9)")
        return super().call(function, *arguments, seconds=seconds)


def test_a_point_or_a_check_whose_process_dies_is_told(monkeypatch, tmp_path, capsys):
    out = tmp_path / "gpu.csv"
    options = gpu.Options(out, device=DEVICE, tiny=True)
    assert gpu.run(options, _Dies("_check")) == 1
    assert "wrong in fp32 here, so that is not timed:\n  checking it failed: its p" in capsys.readouterr().err
    monkeypatch.setattr(gpu_check, "faults", lambda *_: {})
    assert gpu.run(options, _Dies("_measure")) == 1
    told = capsys.readouterr().out
    assert "failed: tiny fp32: its process died (exit code -9)" in told
    assert "failed: sweep fp16: its process died (exit code -9)" in told


def test_parts_are_compiled_side_by_side():
    """In the interpreter nothing is compiled, but all of it runs."""
    arguments = (gpu._compile, DEVICE, True, ("fp32", "fp16"))
    assert run_parts(*arguments, parts=2, seconds=100) == 2


def test_parts_that_fail_or_take_too_long_are_counted_out():
    assert run_parts(_fails, parts=2, seconds=100) == 1
    assert run_parts(_sleeps, parts=1, seconds=1) == 0


def _fails(part: int, parts: int) -> None:
    if part == 1:
        raise RuntimeError("no such luck")


def _sleeps(part: int, parts: int) -> None:
    time.sleep(1000)


def test_every_part_is_compiled_once(monkeypatch):
    seen = []
    monkeypatch.setattr(
        gpu_check, "_faults_of", lambda case, dtype, name, device: seen.append((case, name)) or []
    )
    monkeypatch.setattr(gpu, "points", lambda *_: [])
    for part in range(3):
        gpu._compile(DEVICE, False, ("fp32", "fp16"), part, 3)
    alone = list(seen)
    seen.clear()
    gpu._compile(DEVICE, False, ("fp32", "fp16"), 0, 1)
    assert sorted(map(str, alone)) == sorted(map(str, seen))
    assert len(set(map(str, seen))) == len(seen) > 3


def test_says_where_cudnn_did_not_run():
    (point, _), notes = points(True, ["fp32"]), []
    y, _ = torch.nn.LSTM(5, 7)(torch.zeros(2, 3, 5))
    gpu._say_what_ran(y, point, notes)
    assert len(notes) == 1
    assert notes[0].startswith("not cuDNN but torch's own LSTM at tiny fp32: ")


def test_stops_at_its_deadline_and_says_what_it_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "faults", lambda *_: {})
    assert gpu.run(gpu.Options(tmp_path / "gpu.csv", device=DEVICE, tiny=True, minutes=0), Here()) == 0
    assert "left out after 0 minutes: tiny fp32, sweep fp16" in capsys.readouterr().out


def test_a_device_that_cannot_be_measured_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(dispatch, "why_not", lambda *_: "there is no NVIDIA GPU")
    with pytest.raises(ValueError, match="device: 'cuda' cannot be measured: there is no NVIDIA GPU"):
        gpu.run(gpu.Options(tmp_path / "gpu.csv"), Here())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"out: the folder .* does not exist"):
        gpu.run(gpu.Options(tmp_path / "none" / "gpu.csv", device=DEVICE), Here())


def test_the_precision_is_set_for_all_and_put_back():
    before = torch.backends.cudnn.rnn.fp32_precision
    for name, expected in (("fp32", "ieee"), ("tf32", "tf32")):
        with precision(name) as dtype:
            assert dtype == torch.float32
            assert torch.backends.cuda.matmul.fp32_precision == expected
            assert torch.backends.cudnn.rnn.fp32_precision == expected
    assert torch.backends.cudnn.rnn.fp32_precision == before


def test_every_preset_is_measured_before_the_sweep():
    todo = points(False, tuple(PRECISIONS))
    stages = [point.stage for point in todo]
    assert stages == sorted(stages)
    assert {point.preset.name for point in todo if point.stage == "layer"} == set(LAYER_PRESETS)
    assert [point.preset.name for point in todo[:3]] == ["nmt-luong", "zaremba-medium", "zaremba-large"]
    assert [point.precision for point in todo[:10]] == ["fp16"] * 5 + ["bf16"] * 5
    for stage in ("layer", "sweep"):
        assert {point.precision for point in todo if point.stage == stage} == set(PRECISIONS)
    assert {point.precision for point in points(False, ("fp32", "bf16"))} == {"fp32", "bf16"}
    hidden = {point.preset.sizes[-1] for point in todo if point.stage == "sweep"}
    assert {256, 4096} <= hidden
