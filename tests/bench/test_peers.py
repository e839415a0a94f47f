import csv
import importlib.util
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import oracle
from strop.bench import contestants, peers
from strop.bench.contestants import OURS, Entry, Loop, Strop, compiled
from strop.bench.machine import Provenance
from strop.bench.peers import Options, PeerRecord
from strop.bench.presets import Layers, Preset
from strop.bench.problem import Problem
from strop.bench.process import Remote

TINY = Preset("lstm-650", (Layers(6, 8),), batch=3, steps=4, nr=0.5, rh=0.25)
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEER_PRESETS, "lstm-650", TINY)
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)


def of_oracle(problem: Problem, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    x, *weights = (tensor.detach().to(dtype).requires_grad_() for tensor in (problem.x, *problem.weights))
    zeros = torch.zeros(1, 3, 8, dtype=dtype)
    y, _, _ = oracle.lstm(x, (zeros, zeros), [weights], problem.masks.input, problem.masks.recurrent)
    grads = torch.autograd.grad(y, [x, *weights], problem.grad.to(dtype))
    names = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {
        "its output": y.detach(),
        **{f"the gradient of {name}": grad for name, grad in zip(names, grads, strict=True)},
    }


@pytest.mark.parametrize("nr", [0.5, 0.0])
@pytest.mark.parametrize("make", [Strop, Loop, lambda preset: compiled(preset, "aot_eager")])
def test_contestants_compute_what_the_oracle_does(make, nr: float):
    problem = Problem.of(replace(TINY, nr=nr))
    one = make(replace(TINY, nr=nr))
    others = [lambda dtype: contestants.strops(problem, dtype)]
    oracle.assert_as_accurate(
        one.outcome(problem),
        [make(torch.float32) for make in (lambda dtype: of_oracle(problem, dtype), *others)],
        of_oracle(problem, torch.float64),
    )
    assert one.seconds() > 0


def test_what_is_timed_was_compiled_for_the_check():
    counter = CompileCounter()
    loop = compiled(TINY, counter)
    loop.outcome(Problem.of(TINY))
    for _ in range(3):
        loop.seconds()
    assert counter.frame_count == 1


def test_a_problem_is_the_same_every_time():
    a, b = Problem.of(TINY), Problem.of(TINY)
    for ours, theirs in zip((a.x, *a.multipliers), (b.x, *b.multipliers), strict=True):
        assert torch.equal(ours, theirs)
    input_mask, recurrent_mask = a.multipliers
    assert ((input_mask > 0).sum(2) == 3).all()
    assert ((recurrent_mask > 0).sum(2) == 6).all()


@needs_jax
def test_jax_computes_the_same():
    with Remote(Entry, "jax", TINY, threads=1) as remote:
        verdict = remote.call("judge")
        assert not verdict.faults
        assert verdict.software.startswith("jax ")
        assert verdict.first_seconds > 0
        assert remote.call("seconds") > 0


def test_run_writes_records(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, rows = tmp_path / "out.json", tmp_path / "peers.csv"
    options = Options(presets=("lstm-650",), peers=("eager",), seconds=0, json=out, csv=rows)
    assert peers.run(options) == 0
    records = {r["impl"]: r for r in json.loads(out.read_text()) if r["ms_p50"] is not None}
    assert list(records) == [*OURS, "eager"]
    best = records["eager"]["ms_p50"]
    tokens = 3 * 2 * 3 * 4 * 32
    work = {"rh-st": 6 + 6, "nr-rh-st": 3 + 6, "eager": 6 + 8}
    for impl, r in records.items():
        assert list(r) == [field.name for kind in (PeerRecord, Provenance) for field in fields(kind)]
        assert (r["bench"], r["preset"], r["phase"], r["best"]) == ("peers", "lstm-650", "overall", "eager")
        assert r["speedup_vs_best"] == pytest.approx(best / r["ms_p50"])
        assert r["gflops"] * r["ms_p50"] * 1e6 == pytest.approx(tokens * work[impl])
        assert r["software"] == f"torch {torch.__version__}"
    assert records["nr-rh-st"]["ideal"] == pytest.approx(14 / 9)
    assert records["rh-st"]["ideal"] == pytest.approx(14 / 12)
    with rows.open(newline="") as stream:
        assert [row["impl"] for row in csv.DictReader(stream)] == list(records)
    assert "nr-rh-st  lstm-650" in capsys.readouterr().out


def test_who_computes_wrongly_is_not_timed(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path):
    real = Loop.outcome

    def wrong(self, problem):
        made = real(self, problem)
        made["the gradient of weight_hh"][3, 2] += 1e-3
        return made

    monkeypatch.setattr(Loop, "outcome", wrong)
    out = tmp_path / "out.json"
    assert peers.run(Options(presets=("lstm-650",), peers=("eager",), seconds=0, json=out)) == 1
    assert "eager at lstm-650: the gradient of weight_hh is off by" in capsys.readouterr().err
    assert not out.exists()


def test_who_cannot_be_had_is_noted(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys):
    """JAX is not installed, and compiling takes too long."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else find_spec(name))
    assert peers.run(Options(presets=("lstm-650",), seconds=0, compile_limit=0.01)) == 0
    printed = capsys.readouterr().out
    assert "JAX is not installed: pip install 'jax[cpu]>=0.5' adds its row." in printed
    assert "compile at lstm-650 is left out: over 0.01 s" in printed
    assert "eager     lstm-650" in printed
    assert "compile   lstm-650" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(device="cuda"), "device: 'cuda'; peers are compared on the CPU"),
        (Options(presets=()), "presets: at least one is needed"),
        (Options(peers=()), "peers: at least one is needed"),
    ],
)
def test_refusals(options: Options, message: str):
    with pytest.raises(ValueError, match=message):
        peers.run(options)
