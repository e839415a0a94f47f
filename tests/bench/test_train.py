import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strop import functional
from strop.bench import train, train_recipe
from strop.bench.presets import IMPLS, RECIPE_PRESETS, TRAIN_PRESETS, TrainPreset
from strop.bench.train_language import LanguageSteps
from strop.bench.train_recipe import RecipeSteps, TaggingSteps, TranslationSteps
from strop.ops import dispatch
from strop.tasks.language import LanguageModel

TINY = TrainPreset("small", replace(TRAIN_PRESETS["small"].model, units=8, batch=3, steps=5), words=12)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainPreset:
    monkeypatch.setitem(train.WORKLOADS, "small", LanguageSteps(TINY))
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
    once, _ = LanguageSteps(tiny).case(impl, torch.device("cpu"))
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


def tiny_recipe(name: str) -> RecipeSteps:
    if name == "ner-targer":
        small = replace(RECIPE_PRESETS[name], words=(40,), batch=4, length=4, deviation=2)
        sizes = {"word_units": 4, "char_units": 2, "char_filters": 4, "char_groups": 2, "units": 6}
        return TaggingSteps(small, tuple(sizes.items()))
    small = replace(RECIPE_PRESETS[name], words=(20, 16), batch=4, length=4, deviation=2)
    return TranslationSteps(small, (("units", 6),))


@pytest.mark.parametrize("name", RECIPE_PRESETS)
def test_recipes_are_timed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setattr(train_recipe, "_BATCHES", 2)  # an epoch ends within the measurement
    monkeypatch.setitem(train.WORKLOADS, name, tiny_recipe(name))
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)
    csv = tmp_path / "train.csv"
    assert train.run(train.Options(preset=name, seconds=0, csv=csv)) == 0  # pyright: ignore[reportArgumentType]
    header, *rows = csv.read_text().splitlines()
    assert header == (Path(__file__).parents[2] / "benchmarks/results/train.csv").read_text().splitlines()[0]
    assert [row.split(",")[header.split(",").index("impl")] for row in rows] == list(IMPLS)
    assert "Both sides step as strop train n" in capsys.readouterr().out


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", RECIPE_PRESETS)
def test_steps_of_recipes_learn(name: str, impl, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_recipe, "_BATCHES", 2)
    steps, device = tiny_recipe(name), torch.device("cpu")
    task, clip = steps.task(impl, device)
    monkeypatch.setattr(type(steps), "task", lambda *_: (task, clip))
    losses = []
    real = task.loss

    def recorded(*args):
        outcome = real(*args)
        losses.append(outcome.mean.item())
        return outcome

    monkeypatch.setattr(task, "loss", recorded)
    once, _ = steps.case(impl, device)
    for repetition in range(24):
        once(repetition)
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


@pytest.mark.parametrize("name", RECIPE_PRESETS)
def test_recipes_drop_nothing_in_dense(name: str):
    models = {impl: tiny_recipe(name).task(impl, torch.device("cpu"))[0].model.state_dict() for impl in IMPLS}
    for weights in models.values():  # and begin with the same weights
        assert all(torch.equal(weight, models["torch"][key]) for key, weight in weights.items())
    settings = [tiny_recipe(name).task(impl, torch.device("cpu"))[0].identity for impl in ("dense", "nr-st")]
    assert [each["preset"]["p"] > 0 for each in settings] == [False, True]
