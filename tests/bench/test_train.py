import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strop import functional
from strop.bench import train
from strop.bench.presets import IMPLS, TRAIN_PRESETS, TrainPreset
from strop.ops import dispatch
from strop.tasks.language import LanguageModel

TINY = TrainPreset("small", replace(TRAIN_PRESETS["small"].model, units=8, batch=3, steps=5), words=12)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainPreset:
    monkeypatch.setitem(train.TRAIN_PRESETS, "small", TINY)
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)
    return TINY


def test_operations_count_the_projection():
    tokens = 3 * 5
    assert TINY.operations("dense") == 3 * 2 * tokens * (2 * 32 * 16 + 12 * 8)
    assert TINY.operations("nr-rh-st") == TINY.operations("dense") // 2
    assert TINY.operations("nr-st") == 3 * 2 * tokens * (2 * 32 * 12 + 12 * 4)


def test_run_writes_records(tiny: TrainPreset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.json"
    assert train.run(train.Options(preset="small", seconds=0, json=out, csv=tmp_path / "train.csv")) == 0
    records = json.loads(out.read_text())
    assert len(records) == 16
    by = {(r["impl"], r["phase"]): r for r in records}
    assert by["torch", "overall"]["speedup_vs_torch"] == 1
    for impl in IMPLS:
        assert by[impl, "overall"]["ms_p50"] > 0
        assert by[impl, "fp"]["ms_p50"] is None
    assert by["nr-rh-st", "overall"]["ideal"] == 2
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 5
    printed = capsys.readouterr().out
    assert "tokens/s" in printed
    assert "torch steps by its f" in printed


@pytest.mark.parametrize("impl", IMPLS)
def test_steps_learn(tiny: TrainPreset, impl, monkeypatch: pytest.MonkeyPatch):
    """The timed step is a training step: the frequencies of the words are learned."""
    losses = []
    forward = LanguageModel.forward

    def recorded(self, *args):
        loss, state = forward(self, *args)
        losses.append(loss.item())
        return loss, state

    monkeypatch.setattr(LanguageModel, "forward", recorded)
    torch.manual_seed(0)
    device = torch.device("cpu")
    once = train._case(tiny, impl, train._windows(tiny, device), device, {})
    for repetition in range(60):
        once(repetition)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-8:]) < sum(losses[:8])


def test_refuses_while_wrong(
    tiny: TrainPreset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = functional.linear_cross_entropy

    def wrong(*args, **options):
        # Wherever no backend is forced: what is timed, not what it is compared with.
        return real(*args, **options) * (1 + (dispatch._forced is None) * 1e-3)

    monkeypatch.setattr(functional, "linear_cross_entropy", wrong)
    assert train.run(train.Options(preset="small", seconds=0)) == 1
    assert "nr-st: its output is off by" in capsys.readouterr().err
