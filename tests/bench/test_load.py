import csv
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from strop.bench import load
from strop.bench.load import LoadRecord, Options
from strop.bench.presets import Layers, Preset

TINY = Preset("zaremba-medium", (Layers(10, 20, 2),), batch=3, steps=5, nr=0.5, rh=0.5)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.LAYER_PRESETS, "zaremba-medium", TINY)
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)


def test_times_beside_busy_processes_are_compared_with_those_alone(tmp_path: Path):
    out, rows = tmp_path / "out.json", tmp_path / "load.csv"
    assert load.run(Options(seconds=0, others=1, json=out, csv=rows)) == 0
    records = json.loads(out.read_text())
    assert {(r["impl"], r["others"]) for r in records} == {
        (i, n) for i in ("torch", "nr-rh-st") for n in (0, 1)
    }
    assert all({field.name for field in fields(LoadRecord)} <= {*r} for r in records)
    idle = {r["impl"]: r["ms_p50"] for r in records if r["others"] == 0}
    for r in records:
        assert r["times_idle"] == pytest.approx(r["ms_p50"] / idle[r["impl"]])
        assert r["fair"] >= 1
    with rows.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(records)


def test_the_other_processes_work_meanwhile_and_end_with_it(monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []
    make = subprocess.Popen

    def remembered(command: list[str]) -> subprocess.Popen[bytes]:
        started.append(make(command))
        return started[-1]

    monkeypatch.setattr(load.subprocess, "Popen", remembered)
    with load._busy(2):
        assert [process.args[0] for process in started] == [sys.executable] * 2
        assert all(process.poll() is None for process in started)
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize("others", [-1, 65])
def test_numbers_out_of_range_are_named(others: int):
    with pytest.raises(ValueError, match=f"others: {others}; "):
        load.run(Options(others=others))
