import csv
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from strop.bench import isa, layer, machine
from strop.bench.presets import IMPLS, LAYER_PRESETS, Layers, Preset
from strop.bench.stack import build, inputs
from strop.functional.trial import runs_under_autocast
from strop.ops import dispatch, native

TINY = Preset("zaremba-medium", (Layers(6, 8, 2), Layers(8, 4)), batch=3, steps=5, nr=0.5, rh=0.25)
BOTH_WAYS = Preset(
    "both-ways",
    (Layers(6, 5, 2, bidirectional=True), Layers(10, 4)),
    batch=3,
    steps=5,
    nr=0.5,
    rh=0.25,
    torch_drops_input=True,
)
FIELDS = (
    "bench preset device impl phase ms_p20 ms_p50 ms_p80 "
    "speedup_vs_torch speedup_vs_dense ideal gflops peak_fraction "
    "date commit cpu cores threads python torch strop backend isa torch_isa l1d_kb l2_kb l3_kb"
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Preset:
    monkeypatch.setitem(layer.LAYER_PRESETS, "zaremba-medium", TINY)
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)
    return TINY


def test_operations_by_hand():
    def phase(nr: int, rh: int) -> int:
        """Columns kept of 6 and 8 inputs, and of 8 and 4 hidden units."""
        tokens = 2 * 3 * 5
        return tokens * (32 * (nr // 10 + rh // 10) + 32 * (nr % 10 + rh // 10) + 16 * (nr % 10 + rh % 10))

    assert TINY.operations("torch") == TINY.operations("dense") == phase(68, 84)
    assert TINY.operations("nr-st") == phase(34, 84)
    assert TINY.operations("nr-rh-st") == phase(34, 63)
    assert TINY.ideal("dense") == 1
    large = LAYER_PRESETS["zaremba-large"]
    assert large.ideal("nr-rh-st") == pytest.approx(1 / 0.35)
    assert large.ideal("nr-st") == pytest.approx(2 / 1.35)


def test_operations_of_both_directions_by_hand():
    tokens = 2 * 3 * 5
    first, second, last = 2 * 20 * (6 + 5), 2 * 20 * (10 + 5), 16 * (10 + 4)
    assert BOTH_WAYS.operations("dense") == tokens * (first + second + last)
    first, second, last = 2 * 20 * (3 + 4), 2 * 20 * (5 + 4), 16 * (5 + 3)
    assert BOTH_WAYS.operations("nr-rh-st") == tokens * (first + second + last)
    assert BOTH_WAYS.sizes == [6, 10, 10, 4]
    tagger = LAYER_PRESETS["ner-bilstm"]
    assert tagger.operations("torch") == 2 * (2 * 10 * 40) * 800 * (130 + 200)
    assert tagger.ideal("nr-rh-st") == 2


@pytest.mark.parametrize("preset", [TINY, BOTH_WAYS], ids=lambda preset: preset.name)
@pytest.mark.parametrize("impl", IMPLS)
def test_stacks_compute(impl, preset: Preset):
    torch.manual_seed(0)
    model = build(preset, impl)
    x, grad = inputs(preset, torch.device("cpu"))
    y = model(x)
    y.backward(grad)
    assert y.shape == (5, 3, 4)
    assert x.grad is not None
    sizes = [parameter.shape for parameter in model.parameters()]
    assert sizes == [parameter.shape for parameter in build(preset, "torch").parameters()]


@pytest.mark.parametrize("preset", [TINY, BOTH_WAYS], ids=lambda preset: preset.name)
def test_dense_stack_is_torchs(preset: Preset):
    torch.manual_seed(0)
    ours, theirs = build(preset, "dense"), build(preset, "torch").eval()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        a.data.copy_(b)
    x, _ = inputs(preset, torch.device("cpu"))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("preset", [TINY, BOTH_WAYS], ids=lambda preset: preset.name)
def test_torch_drops_the_first_input_where_the_preset_says_so(preset: Preset):
    model, seen = build(preset, "torch"), []
    for lstm in model.lstms:
        lstm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(torch.ones(50, 30, 6))
    dropped = [(x == 0).float().mean().item() for x in seen]
    expected = preset.nr if preset.torch_drops_input else 0.0
    assert dropped == [pytest.approx(expected, abs=0.05), pytest.approx(preset.nr, abs=0.05)]


def test_a_bidirectional_preset_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(layer.LAYER_PRESETS, "ner-bilstm", BOTH_WAYS)
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)
    out = tmp_path / "out.json"
    assert layer.run(layer.Options(preset="ner-bilstm", seconds=0, json=out)) == 0
    for r in json.loads(out.read_text()):
        if r["ms_p50"] is not None:
            operations = BOTH_WAYS.operations(r["impl"]) * (3 if r["phase"] == "overall" else 1)
            assert r["gflops"] == pytest.approx(operations / r["ms_p50"] / 1e6)


def test_run_writes_records(tiny: Preset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, rows = tmp_path / "new" / "out.json", tmp_path / "new" / "layer.csv"
    for _ in range(2):
        assert layer.run(layer.Options(seconds=0, json=out, csv=rows)) == 0
    records = json.loads(out.read_text())
    assert [(r["impl"], r["phase"]) for r in records] == [
        (impl, phase) for impl in IMPLS for phase in ("fp", "bp", "wg", "overall")
    ]
    for r in records:
        assert list(r) == FIELDS.split()
        assert (r["bench"], r["preset"], r["device"]) == ("layer", "zaremba-medium", "cpu")
        assert (r["speedup_vs_torch"] is None) == (r["phase"] != "overall")
        assert (r["speedup_vs_dense"] is None) == (r["impl"] == "torch")
        assert (r["ms_p50"] is None) == (r["impl"] == "torch" and r["phase"] in ("bp", "wg"))
        if r["ms_p50"] is None:
            continue
        assert 0 < r["ms_p20"] <= r["ms_p50"] <= r["ms_p80"]
        operations = TINY.operations(r["impl"]) * (3 if r["phase"] == "overall" else 1)
        assert r["gflops"] == pytest.approx(operations / r["ms_p50"] / 1e6)
        assert r["peak_fraction"] == pytest.approx(r["gflops"] / 100)
    by = {(r["impl"], r["phase"]): r for r in records}
    for impl in IMPLS[1:]:
        for phase in ("fp", "bp", "wg", "overall"):
            ratio = by["dense", phase]["ms_p50"] / by[impl, phase]["ms_p50"]
            assert by[impl, phase]["speedup_vs_dense"] == pytest.approx(ratio)
        assert sum(by[impl, phase]["ms_p20"] for phase in ("fp", "bp", "wg")) <= by[impl, "overall"]["ms_p80"]
        ratio = by["torch", "overall"]["ms_p50"] / by[impl, "overall"]["ms_p50"]
        assert by[impl, "overall"]["speedup_vs_torch"] == pytest.approx(ratio)
    with rows.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == 2 * 14
    assert all(row["cpu"] and row["torch"] == torch.__version__ and row["rounds"] == "5" for row in written)
    assert all(row["backend"].split()[0] == dispatch_name() for row in written)
    assert {row["isa"] for row in written} == {native.isa() if dispatch_name() == "native" else ""}
    assert {row["torch_isa"] for row in written} == {isa.torchs()}
    assert {row["l2_kb"] for row in written} == {str(machine.cache_sizes()[1] or "")}
    printed = capsys.readouterr().out
    assert "nr-rh-st  overall" in printed
    assert "5 interleaved rounds" in printed


def dispatch_name() -> str:
    return "native" if dispatch.available("native") else "reference"


BF16 = native.has_bf16 and runs_under_autocast("LSTM", 4, "cpu", torch.bfloat16, True)


@pytest.mark.skipif(not BF16, reason="strop or torch does not multiply bfloat16 here")
def test_in_bfloat16_it_writes_records_of_its_own(tiny: Preset, tmp_path: Path, capsys):
    out = tmp_path / "out.json"
    assert layer.run(layer.Options(seconds=0, json=out, bf16=True)) == 0
    records = json.loads(out.read_text())
    assert {r["bench"] for r in records} == {"layer-bf16"}
    assert [r["impl"] for r in records if r["phase"] == "overall"] == list(IMPLS)
    assert all(r["ms_p50"] > 0 for r in records if r["phase"] == "overall")
    printed = capsys.readouterr().out
    assert re.search(r"threads?, autocast to bfloat16, backend\s+native", printed)
    assert "fp32" not in printed


def test_refuses_bfloat16_where_nothing_is_gained_by_it(tiny: Preset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layer.dispatch, "why_not_bf16", lambda device: None)
    monkeypatch.setattr(layer, "runs_under_autocast", lambda *_: False)
    with pytest.raises(ValueError, match=r"bf16: torch\.nn\.LSTM cannot run in it; leave it out"):
        layer.run(layer.Options(seconds=0, bf16=True))
    monkeypatch.undo()
    monkeypatch.setattr(native, "has_bf16", False)
    with pytest.raises(ValueError, match=r"bf16: .* leave it out"):
        layer.run(layer.Options(seconds=0, bf16=True))


@pytest.mark.parametrize(("fault", "bf16"), [(math.nan, False), (1e-3, False), (math.nan, True), (1.0, True)])
def test_refuses_while_wrong(
    tiny: Preset, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path, fault: float, bf16: bool
):
    """A backend with one wrong gradient is not timed."""
    if bf16 and not BF16:
        pytest.skip("strop or torch does not multiply bfloat16 here")
    real = dispatch.recurrence

    def weight_grad(*args):
        dw_ih, dw_hh, *biases = real(args[1]).weight_grad(*args)
        dw_hh[3, 2] += fault
        return dw_ih, dw_hh, *biases

    def broken(x, projected=False):
        backend = real(x, projected)
        if dispatch._forced is not None:
            return backend
        names = ("forward", "backward")
        return SimpleNamespace(weight_grad=weight_grad, **{n: getattr(backend, n) for n in names})

    monkeypatch.setattr(dispatch, "recurrence", broken)
    out = tmp_path / "out.json"
    assert layer.run(layer.Options(seconds=0, json=out, bf16=bf16)) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert "nr-rh-st: the gradient of lstms.0.weight_hh_l0 is off by" in captured.err
    assert not out.exists()


def test_refuses_a_file_with_other_columns(tiny: Preset, tmp_path: Path):
    rows = tmp_path / "layer.csv"
    rows.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"layer\.csv: its columns are not those"):
        layer.run(layer.Options(seconds=0, csv=rows))
    assert rows.read_text() == "a,b\n1,2\n"


def test_rows_of_an_older_version_get_the_new_columns(tiny: Preset, tmp_path: Path):
    rows = tmp_path / "layer.csv"
    assert layer.run(layer.Options(seconds=0, csv=rows)) == 0
    with rows.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    new = ("isa", "torch_isa", "l1d_kb", "l2_kb", "l3_kb")
    with rows.open("w", newline="") as stream:
        writer = csv.DictWriter(
            stream, [name for name in written[0] if name not in new], extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(written)
    assert layer.run(layer.Options(seconds=0, csv=rows)) == 0
    with rows.open(newline="") as stream:
        both = list(csv.DictReader(stream))
    assert both[: len(written)] == [row | dict.fromkeys(new, "") for row in written]
    assert list(both[-1]) == list(written[-1])
    assert both[-1]["l2_kb"] == written[-1]["l2_kb"]
    assert [file.name for file in tmp_path.iterdir()] == ["layer.csv"]


def test_refuses_limits_that_came_too_late(tiny: Preset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("STROP_ISA", raising=False)
    with pytest.raises(ValueError, match="isa: avx2 takes a process that was started with STROP_ISA=avx2"):
        layer.run(layer.Options(seconds=0, isa="avx2"))


def test_refuses_what_cannot_be_written(tiny: Preset, tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be written"):
        layer.run(layer.Options(seconds=0, json=tmp_path))


def test_threads(tiny: Preset, tmp_path: Path):
    rows = tmp_path / "layer.csv"
    torch.set_num_threads(2)
    assert layer.run(layer.Options(seconds=0, threads=1, csv=rows)) == 0
    with rows.open(newline="") as stream:
        assert {row["threads"] for row in csv.DictReader(stream)} == {"1"}
    with pytest.raises(ValueError, match="threads: 0"):
        layer.run(layer.Options(threads=0))


def test_refuses_an_absent_device():
    with pytest.raises(ValueError, match="device: 'xyz'"):
        layer.run(layer.Options(device="xyz"))
