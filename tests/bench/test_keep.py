import csv
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from strop.bench import keep, keep_plot, report
from strop.bench.keep import KeepRecord, Options
from strop.bench.machine import Provenance
from strop.bench.presets import Layers, Preset

TINY = Preset("zaremba-medium", (Layers(10, 20, 2),), batch=3, steps=5, nr=0.5, rh=0.5)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keep.LAYER_PRESETS, "zaremba-medium", TINY)
    monkeypatch.setattr(keep, "_STEPS", (1, 10))
    monkeypatch.setattr(keep, "_BATCHES", (1, 6))
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)


def test_points_vary_one_thing_each():
    made = keep.points(TINY)
    assert [round(1 - point.nr, 2) for point in made["keep"]] == [round(0.1 * n, 2) for n in range(1, 11)]
    assert made["keep"][4] == TINY
    assert made["steps"] == [replace(TINY, steps=steps) for steps in (1, 5, 10)]
    assert made["batch"] == [replace(TINY, batch=batch) for batch in (1, 3, 6)]


def test_times_are_compared_with_those_in_proportion(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    out, rows, plot = tmp_path / "out.json", tmp_path / "keep.csv", tmp_path / "shown.png"
    assert keep.run(Options(seconds=0, json=out, csv=rows, plot=plot)) == 0
    records = json.loads(out.read_text())
    assert len(records) == 4 * (10 + 3 + 3)
    columns = [field.name for kind in (KeepRecord, Provenance) for field in fields(kind)]
    assert all(list(r) == columns for r in records)
    for r in records:
        series, phase = r["series"], r["phase"]
        own = [other for other in records if (other["series"], other["phase"]) == (series, phase)]
        base = next(other for other in own if other[series] == {"keep": 1.0, "steps": 5, "batch": 3}[series])
        assert r["ideal_ms"] == pytest.approx(base["ms_p50"] * r[series] / base[series])
        assert r["impl"] == ("dense" if r["keep"] == 1 else "nr-rh-st")
        assert r["ideal"] == pytest.approx(1 / r["keep"])
        if series == "keep":
            assert r["speedup_vs_dense"] == pytest.approx(base["ms_p50"] / r["ms_p50"])
        columns = r["keep"] * 20 * r["steps"] * r["batch"] * (10 + 20 + 20 + 20)
        assert r["gflops"] * r["ms_p50"] * 1e6 == pytest.approx(
            columns * 2 * 4 * (3 if phase == "overall" else 1)
        )
    with rows.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(records)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "keep    FP       0.1" in printed
    assert "batch   overall    6" in printed

    # strop bench tables draws the same from the CSV, and again the same.
    page = tmp_path / "README.md"
    page.write_text("no table\n")
    assert report.run(report.Options((page,), results=tmp_path, check=True)) == 0
    assert not (tmp_path / "keep.png").exists()
    pictures = []
    for _ in range(2):
        assert report.run(report.Options((page,), results=tmp_path)) == 0
        pictures.append((tmp_path / "keep.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert f"{tmp_path / 'keep.png'}: drawn" in capsys.readouterr().out


def test_the_last_default_run_of_each_preset_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    columns = ("date", "cpu", "threads", "device", "backend", "bench", "preset")
    lines = [
        ("2026-01-03", "a", "2", "cpu", "native avx2", "keep", "large"),
        ("2026-01-01", "a", "2", "cpu", "native avx512", "keep", "large"),
        ("2026-01-02", "a", "2", "cpu", "native avx512", "keep", "large"),
        ("2026-01-01", "a", "2", "cpu", "native avx512", "keep", "medium"),
        ("2026-01-01", "a", "1", "cpu", "native avx512", "keep", "medium"),
    ]
    (tmp_path / "keep.csv").write_text("\n".join(",".join(line) for line in (columns, *lines)))
    drawn = []
    monkeypatch.setattr(keep_plot, "draw", lambda rows, path: drawn.append((rows, path)))
    report._draw(tmp_path)
    ((rows, path),) = drawn
    assert [tuple(row.values()) for row in rows] == lines[2:4]
    assert path == tmp_path / "keep.png"


def test_a_plot_needs_its_folder(tmp_path: Path):
    with pytest.raises(ValueError, match=r"plot: the folder .*none does not exist"):
        keep.run(Options(plot=tmp_path / "none" / "keep.png"))
