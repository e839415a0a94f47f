import csv
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from strop.bench import sweep
from strop.bench.check import stack_discrepancies
from strop.bench.command import Timing
from strop.bench.design import Point
from strop.bench.machine import Provenance
from strop.bench.presets import Impl, Preset
from strop.bench.sweep import Options, SweepRecord
from strop.ops import dispatch

HUGE = Point("nr-st", hidden=4096, batch=256, steps=200, p=0.5)
POINTS = [
    Point("nr-st", hidden=8, batch=3, steps=5, p=0.5, layers=2),
    HUGE,
    Point("nr-rh-st", hidden=6, batch=1, steps=2, p=0.9),
    Point("nr-st", hidden=7, batch=2, steps=1, p=0.0),
]
HERE = Provenance("2026-01-02T00:00:00Z", "abc", "Some CPU", 2, 2, "3.11.7", "2.13.0", "0.1.0", "native")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "points", lambda seed: iter(POINTS))
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)
    monkeypatch.setattr("strop.bench.machine.copy_gigabytes", lambda device: 10.0)


def test_run_writes_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, rows = tmp_path / "new" / "out.json", tmp_path / "new" / "sweep.csv"
    for _ in range(2):
        assert sweep.run(Options(points=3, seconds=0, json=out, csv=rows)) == 0
    records = json.loads(out.read_text())
    assert [(r["dropout"], r["impl"]) for r in records] == [
        ("nr-st", "torch"),
        ("nr-st", "nr-st"),
        ("nr-rh-st", "torch"),
        ("nr-rh-st", "eager"),
        ("nr-rh-st", "nr-rh-st"),
        ("nr-st", "torch"),
        ("nr-st", "nr-st"),
    ]
    assert [r["best"] for r in records] == ["torch"] * 2 + ["eager"] * 3 + ["torch"] * 2
    for r in records:
        assert list(r) == [field.name for kind in (SweepRecord, Provenance) for field in fields(kind)]
        assert (r["bench"], r["device"], r["phase"]) == ("sweep", "cpu", "overall")
        assert 0 < r["ms_p20"] <= r["ms_p50"] <= r["ms_p80"]
        best, torchs = (
            next(other for other in records if (other["preset"], other["impl"]) == (r["preset"], impl))
            for impl in (r["best"], "torch")
        )
        assert r["best_ms_p50"] == best["ms_p50"]
        assert r["speedup_vs_best"] == pytest.approx(best["ms_p50"] / r["ms_p50"])
        assert r["speedup_vs_torch"] == pytest.approx(torchs["ms_p50"] / r["ms_p50"])
    dense = 3 * (2 * 3 * 5) * (4 * 8) * 4 * 8
    assert [r["gflops"] * r["ms_p50"] * 1e6 for r in records[:2]] == pytest.approx([dense, dense * 3 / 4])
    assert (records[1]["layers"], records[1]["hidden"], records[1]["batch"]) == (2, 8, 3)
    assert (records[1]["steps"], records[1]["p"], records[1]["ideal"]) == (5, 0.5, pytest.approx(4 / 3))
    with rows.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == 2 * 7
    assert all(row["cpu"] and row["torch"] == torch.__version__ for row in written)
    assert all(row["rounds"] == "5" and row["peak_gflops"] == "100" for row in written)
    printed = capsys.readouterr().out
    assert "3 points, p50 of the best alternative over strop's: worst" in printed
    assert "1 points left out, one pass of which takes over 1 s" in printed
    assert "1x4096 batch 256 steps 200" in printed


def record(ratio: float, impl: Impl = "nr-st", kind: str = "nr-st") -> SweepRecord:
    shape = {"layers": 1, "hidden": 64, "batch": 2, "steps": 3, "p": 0.5}
    times = {"ms_p20": 1.0, "ms_p50": 2.0, "ms_p80": 3.0}
    rest = dict.fromkeys(("speedup_vs_torch", "speedup_vs_dense", "ideal", "gflops", "peak_fraction"))
    return SweepRecord(
        bench="sweep",
        preset="",
        device="cpu",
        impl=impl,
        phase="overall",
        **times,
        **rest,
        **shape,
        dropout=kind,
        best="torch",
        best_ms_p50=2 * ratio,
        speedup_vs_best=ratio,
    )


def test_the_worst_comes_first(capsys: pytest.CaptureFixture[str]):
    timings = [Timing([record(1.0, "torch"), record(ratio)], 5, 1.0) for ratio in (1.5, 0.94, 3.0, 0.95)]
    sweep.show(timings, HERE, ["a note"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines[2:6]] == ["0.94x", "0.95x", "1.50x", "3.00x"]
    assert lines[6].startswith("4 points")
    assert lines[6].endswith("worst 0.94x, median 1.23x, 1 below 0.95x.")
    assert lines[-1] == "a note"


def test_refuses_while_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """One kind of dropout with one wrong weight's gradient: nothing is timed."""
    real = dispatch.recurrence

    class Broken:
        def __init__(self, backend):
            self.backend = backend

        def __getattr__(self, name):
            return getattr(self.backend, name)

        def weight_grad(self, *args):
            dw_ih, dw_hh, *biases = self.backend.weight_grad(*args)
            dw_hh[3, 2] += 1e-2
            return dw_ih, dw_hh, *biases

        def weight_grad_each(self, calls):
            return [self.weight_grad(*call) for call in calls]

    monkeypatch.setattr(
        dispatch,
        "recurrence",
        lambda x, projected=False: (
            real(x, projected) if dispatch._forced is not None else Broken(real(x, projected))
        ),
    )
    out = tmp_path / "out.json"
    assert sweep.run(Options(points=3, seconds=0, json=out)) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert (
        "nr-rh-st 1x6 batch 1 steps 2 p 0.9: nr-rh-st: the gradient of lstms.0.weight_hh_l0" in captured.err
    )
    assert not out.exists()


def test_checks_each_shape_once_with_a_batch_that_is_done_soon(monkeypatch: pytest.MonkeyPatch):
    checked: list[tuple[Preset, Impl]] = []

    def fake(preset: Preset, impls: list[Impl], device: torch.device) -> list[str]:
        checked.append((preset, *impls))
        return ["wrong"]

    monkeypatch.setattr(sweep, "stack_discrepancies", fake)
    long = Point("nr-st", hidden=4096, batch=256, steps=100, p=0.5)
    faults = sweep.check(sweep.Plan([POINTS[0], HUGE, long], [], 1.0), CPU)
    assert [(preset.sizes[0], preset.steps) for preset, _ in checked] == [(8, 4), (4096, 4)]
    assert [preset.batch for preset, _ in checked] == [3, 1]
    assert faults[0] == "nr-st 2x8 batch 3 steps 5 p 0.5: wrong"


def test_the_check_passes_what_is_right():
    assert stack_discrepancies(POINTS[2].preset, ["nr-rh-st"], CPU) == []


def test_quick_takes_few_points_and_little_time(monkeypatch: pytest.MonkeyPatch):
    seen: list[Options] = []

    def fake(options: Options, device: torch.device) -> sweep.Plan:
        seen.append(options)
        return sweep.Plan([POINTS[3]], [], options.budget)

    monkeypatch.setattr(sweep, "plan", fake)
    assert sweep.run(Options(quick=True, seed=7)) == 0
    assert sweep.run(Options(quick=True, points=2, seconds=0, budget=0.001)) == 0
    assert [(o.points, o.seconds, o.budget, o.seed) for o in seen] == [
        (12, 0.05, 0.01, 7),
        (2, 0, 0.001, 0),
    ]


def test_plan_stops_at_the_points_asked_for():
    made = sweep.plan(Options(points=2), CPU)
    assert made.measured == [POINTS[0], POINTS[2]]
    assert made.left_out == [HUGE]


@pytest.mark.parametrize(
    ("options", "message"),
    [(Options(points=0), "points: 0; at least 1"), (Options(budget=0), "budget: no point passes within 0 s")],
)
def test_refusals(options: Options, message: str):
    with pytest.raises(ValueError, match=message):
        sweep.run(options)


def test_refuses_a_file_with_other_columns(tmp_path: Path):
    rows = tmp_path / "layer.csv"
    rows.write_text((Path(__file__).parents[2] / "benchmarks/results/layer.csv").read_text())
    with pytest.raises(ValueError, match=r"layer\.csv: its columns are not those"):
        sweep.run(Options(points=1, seconds=0, csv=rows))
