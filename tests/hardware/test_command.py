"""`strop hardware`: tables, JSON, pictures, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from strop import cli
from strop.hardware import PAPER, analyse, find_array
from strop.hardware.command import Options, run

MINE = """
[setting]
name = "mine"
batch = 4
steps = 6
[[setting.layers]]
inputs = 12
hidden = 16
input_drop = { p = 0.5 }
[[setting.layers]]
inputs = 16
outputs = 30
drop = { p = 0.5 }
[array]
rows = 4
columns = 4
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_default_shows_the_trap_and_what_helps(capsys):
    assert run(Options()) == 0
    shown = lines(capsys)
    assert shown[0].startswith(
        "strop hardware: zaremba-large, batch 20, 35 steps on 128x128 at 1.05 GHz, 16 bits"
    )
    kept = next(line for line in shown if line.startswith("FP input      kept by mask"))
    assert kept.split()[-1] == "0.41x"
    assert any(
        "The trap: the product of one mask has 20 rows; dense products have all 700" in line for line in shown
    )
    start = shown.index("Changes that help skipping")
    names = [line.split("  ")[0] for line in shown[start + 2 : start + 7]]
    assert names == [
        "as it is",
        "16 arrays of 32x32",
        "batch 128",
        "a mask for 6 steps",
        "blocks of 125 units",
    ]


def test_json_has_all_numbers(tmp_path: Path, capsys):
    out = tmp_path / "out.json"
    assert run(Options(preset="ner-bilstm", array="edge", dataflow="os", json=out)) == 0
    written = json.loads(out.read_text())
    assert (written["array"]["rows"], written["array"]["energy"]["name"]) == (32, "45nm")
    assert written["dataflow"] == "os"
    (record,) = written["settings"]
    analysis = analyse(PAPER["ner-bilstm"].setting(), find_array("edge"), "os")
    assert len(record["products"]) == len(analysis.costs)
    for product, cost in zip(record["products"], analysis.costs, strict=True):
        assert product["dataflow"] == "os"
        for name in ("cycles", "stalls", "macs"):
            assert product[name] == getattr(cost, name)
        assert product["dram_words"] == cost.dram.total
        assert product["energy"] == pytest.approx(cost.energy, rel=1e-5)
    assert [each["plan"] for each in record["step"]] == ["batched", "stepwise", "kept", "best"]
    assert record["step"][0]["over_batched"] == 1
    assert record["remedies"][0]["name"] == "as it is"


def test_comparison(capsys):
    assert run(Options(compare=("zaremba-medium", "ner-bilstm"), dropout="nr-st")) == 0
    shown = lines(capsys)
    assert [line.split()[0] for line in shown[2:]] == ["zaremba-medium"] * 3 + ["ner-bilstm"] * 3
    # Half of the inputs: three quarters of the arithmetic, but 11 folds of 128 become 6 and 3 of 6.
    assert shown[2].split()[-7:-3] == ["1.33x"] * 4


def test_gpu(tmp_path: Path, capsys):
    out = tmp_path / "gpu.json"
    assert run(Options(gpu="titan-v", json=out)) == 0
    shown = "\n".join(lines(capsys))
    assert re.search(r"FP input +kept by mask +35 +20 x 525 x 6000 +47 +1 +66", shown)
    assert re.search(r"measured \(TITAN V\) +2\.45x +1\.28x +1\.41x +1\.64x", shown)
    (record,) = json.loads(out.read_text())["settings"]
    assert record["measured"] == {"fp": 2.45, "bp": 1.28, "wg": 1.41, "overall": 1.64}
    assert record["over_stepwise"]["bp"] == pytest.approx(1, abs=0.01)
    # What is not as the paper has it has no measurement.
    assert run(Options(gpu="h100", p=0.5, compare=("zaremba-large", "awd-lstm"))) == 0
    assert "measured (" not in "\n".join(lines(capsys))


def test_options_change_the_setting(capsys):
    for change in (
        {"p": 0.9},
        {"batch": 128},
        {"steps": 70},
        {"block": 125},
        {"mask_steps": 7},
        {"gate_keep": 0.5},
        {"double_buffered": True},
        {"count": 4},
        {"clock": 2.0},
        {"sram": (64, 64, 64)},
        {"bandwidth": 1.0},
        {"bits": 8},
        {"energy": "45nm"},
        {"dropout": "nr-st"},
        {"array": "64x256"},
    ):
        assert run(replace(Options(), **change)) == 0
        changed = lines(capsys)
        assert run(Options()) == 0
        assert changed != lines(capsys), change
    for change in (
        {"multiprocessors": 40},
        {"tile": (64, 64, 8)},
        {"split": 8},
        {"bits": 16},
        {"bandwidth": 9.0},
    ):
        assert run(replace(Options(gpu="titan-v"), **change)) == 0
        changed = lines(capsys)
        assert run(Options(gpu="titan-v")) == 0
        assert changed != lines(capsys), change
    assert run(Options(block=125)) == 0
    assert any("kept by block" in line and "3.00x" in line for line in lines(capsys))


def test_a_file_of_ones_own(mine: Path, capsys):
    assert run(Options(file=mine)) == 0
    shown = lines(capsys)
    assert shown[0].startswith("strop hardware: mine, batch 4, 6 steps on 4x4 (mine) at 1 GHz")
    assert any(line.startswith("WG output ") for line in shown)
    assert run(Options(compare=(str(mine), "zaremba-medium"))) == 0
    assert lines(capsys)[2].startswith("mine ")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_pictures_are_the_same_bytes(form, mine: Path, tmp_path: Path, capsys):
    pytest.importorskip("matplotlib")
    tagger = Options(preset="ner-bilstm")
    compared = Options(compare=("ner-bilstm", str(mine)))
    gpus = replace(compared, gpu="h100")
    for options in (
        Options(file=mine),
        replace(tagger, gpu="a100"),
        replace(tagger, block=5),
        compared,
        gpus,
    ):
        drawn = []
        for number in range(2):
            path = tmp_path / f"{number}.{form}"
            assert run(replace(options, plot=path)) == 0
            drawn.append(path.read_bytes())
        assert drawn[0] == drawn[1]
        assert drawn[0].startswith(b"\x89PNG" if form == "png" else b"<?xml")
    assert "drawn: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--array", "0x128"], "rows: 0"),
        (["--array", "square"], "array: 'square'; give ROWSxCOLUMNS, as 64x64, or one of 128x128, edge"),
        (["--array", "99999x99999"], "rows: 99999; it must be from 1 to 65,536"),
        (["--p", "1"], r"p must be in \[0, 1\), got 1.0"),
        (["--p", "nan"], "p must be in"),
        (["--batch", "0"], "batch: 0; it must be from 1"),
        (["--steps", "-1"], "steps: -1"),
        (["--block", "0"], "block: 0"),
        (["--block", "7"], "block must divide the number of units, got block=7 for 1500 units"),
        (["--mask-steps", "0"], "mask_steps: 0"),
        (["--gate-keep", "0"], "gate_keep: 0.0; a share"),
        (["--gate-keep", "1.1"], "gate_keep: 1.1"),
        (["--compare", "zaremba-huge"], "compare: 'zaremba-huge'; give TOML files or some of zaremba-medium"),
        (["--compare", "none.toml"], "none.toml"),
        (["--file", "none.toml"], "none.toml"),
        (["--bits", "64"], "bits: 64; the energy table tpu-v4i has words of 8, 16 bits only"),
        (["--clock", "0"], "clock: 0.0; it must be more than 0"),
        (["--sram", "64", "0", "64"], "sram_b: 0"),
        (["--count", "0"], "count: 0"),
        (["--bandwidth", "inf"], "bandwidth: inf"),
        (["--split", "4"], "split: it says nothing of an array; name a --gpu"),
        (["--gpu", "h100", "--clock", "1"], "clock: it says nothing of a GPU"),
        (["--gpu", "h100", "--tile", "64", "0", "8"], "tile: 0"),
        (["--gpu", "h100", "--multiprocessors", "-1"], "multiprocessors: -1"),
        (["--json", "none/out.json"], "json: the folder none does not exist"),
        (["--json", "."], "json: . is a folder"),
        (["--plot", "none/out.png"], "plot: the folder none does not exist"),
        (["--plot", "out.pdf"], "plot: out.pdf; the name must end in .png or .svg"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = cli.main(["hardware", *arguments])
    errors = capsys.readouterr().err
    if status == 0:
        pytest.fail(f"{arguments} was taken")
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert re.search(message, errors)


def test_a_file_with_an_unknown_key_is_refused(mine: Path, capsys):
    mine.write_text(MINE.replace("columns", "colums"))
    assert cli.main(["hardware", "--file", str(mine)]) == 2
    assert f"{mine}: array.colums: unknown; known are name, rows, columns" in capsys.readouterr().err


def test_a_file_has_one_machine(mine: Path, capsys):
    sizes = "multiprocessors = 4\ntile = [32, 32, 8]\nteraflops = 1\nl2 = 1\n"
    gpu = f"[gpu]\n{sizes}bandwidth = 9\nl2_bandwidth = 90\n"
    mine.write_text(gpu)
    assert run(Options(file=mine)) == 0
    assert "on mine, 4 multiprocessors, tiles of 32 x 32 x 8" in capsys.readouterr().out
    mine.write_text(MINE + gpu)
    assert cli.main(["hardware", "--file", str(mine)]) == 2
    assert "has the tables array and gpu; leave one of them" in capsys.readouterr().err


def test_a_compared_file_needs_a_setting(mine: Path, capsys):
    mine.write_text("[array]\nrows = 4\ncolumns = 4\n")
    assert cli.main(["hardware", "--compare", str(mine)]) == 2
    assert "has no table setting" in capsys.readouterr().err
