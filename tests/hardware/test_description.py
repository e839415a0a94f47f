"""Networks and machines from TOML files."""

from pathlib import Path

import pytest

from strop.hardware import CELLS, ENERGIES, Array, Cell, Drop, Energy, Gpu, Layer, Linear, Setting, read

WHOLE = """
[setting]
name = "tagger"
batch = 8
steps = 30

[[setting.layers]]
inputs = 64
hidden = 48
count = 2
directions = 2
cell = "GRU"
input_drop = { p = 0.5, block = 4 }
recurrent_drop = { p = 0.25, rows = 4, steps = "all" }
gate_keep = 0.5

[[setting.layers]]
inputs = 96
hidden = 32
projection = 16
cell = { gates = 2, micro_steps = 5 }

[[setting.layers]]
inputs = 16
outputs = 1000
drop = { p = 0.5, steps = 3 }

[array]
rows = 16
columns = 32
count = 2
clock = 0.5
sram_a = 64
sram_b = 256
sram_c = 64
bandwidth = 12.8
bits = 8
double_buffered = true
energy = { mac = { 8 = 0.1 }, sram_read = 0.1, sram_write = 0.2, dram = 5, source = "guess" }

[gpu]
multiprocessors = 20
tile = [64, 64, 16]
teraflops = 5
bandwidth = 200
l2 = 2
l2_bandwidth = 800
"""


@pytest.fixture
def file(tmp_path: Path):
    path = tmp_path / "mine.toml"

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_everything(file):
    found = read(file(WHOLE))
    drops = {"input_drop": Drop(0.5, 4), "recurrent_drop": Drop(0.25, rows=4, steps=None)}
    assert found.setting == Setting(
        "tagger",
        (
            Layer(64, 48, CELLS["GRU"], 2, gate_keep=0.5, **drops),
            Layer(96, 48, CELLS["GRU"], 2, gate_keep=0.5, **drops),
            Layer(96, 32, Cell("own", 2, 5), projection=16),
            Linear(16, 1000, Drop(0.5, steps=3)),
        ),
        batch=8,
        steps=30,
    )
    energy = Energy("own", {8: 0.1}, 0.1, 0.2, 5, source="guess")
    assert found.array == Array("mine", 16, 32, 2, 0.5, 64, 256, 64, 12.8, 8, True, energy)
    assert found.gpu == Gpu("mine", 20, (64, 64, 16), 5, 200, 2, 800)


def test_each_alone(file):
    array = read(file("[array]\nrows = 8\ncolumns = 8\nenergy = 'eyeriss'\n"))
    assert (array.setting, array.gpu) == (None, None)
    assert array.array == Array("mine", 8, 8, energy=ENERGIES["eyeriss"])
    setting = read(file("[setting]\nbatch = 1\nsteps = 1\n[[setting.layers]]\ninputs = 1\nhidden = 1\n"))
    assert setting.setting == Setting("own", (Layer(1, 1),), 1, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 8", "batsch = 8", "setting.batsch: unknown; known are name, layers, batch, steps"),
        ("batch = 8\n", "", "setting.batch: missing"),
        ("batch = 8", "batch = 0", "setting.batch: 0; it must be from 1"),
        ("batch = 8", "batch = '8'", "setting.batch: '8'; an integer is needed"),
        ("batch = 8", "batch = 8.5", "setting.batch: 8.5; an integer is needed"),
        ("batch = 8", "batch = true", "setting.batch: True; an integer is needed"),
        ("batch = 8", "batch = 99999999999999999999", "setting.batch: 99999999999999999999"),
        ('name = "tagger"', "name = 5", "setting.name: 5; text is needed"),
        ("hidden = 48", "hiden = 48", r"setting.layers\[0\].hiden: unknown; known are inputs, hidden, cell"),
        ("hidden = 48\n", "", r"setting.layers\[0\].hidden: missing"),
        ("hidden = 48", "hidden = -48", r"setting.layers\[0\].hidden: -48"),
        ("count = 2\ndir", "count = 0\ndir", r"setting.layers\[0\].count: 0"),
        ("count = 2\ndir", "count = 1e3\ndir", r"setting.layers\[0\].count: 1000.0; an integer"),
        ('"GRU"', '"GRUU"', r"setting.layers\[0\].cell: 'GRUU' is not known; known are LSTM, GRU, RNN_TANH"),
        ('"GRU"', "3", r"setting.layers\[0\].cell: 3; text is needed"),
        ("gates = 2", "gates = 0", r"setting.layers\[1\].cell.gates: 0"),
        (
            "gates = 2",
            "gate = 2",
            r"setting.layers\[1\].cell.gate: unknown; known are name, gates, micro_steps",
        ),
        ("{ p = 0.5, block = 4 }", "0.5", r"setting.layers\[0\].input_drop: 0.5; a table is needed"),
        (
            "block = 4",
            "block = 5",
            r"setting.layers\[0\].block must divide the number of units.*block=5 for 64",
        ),
        (
            "{ p = 0.5, block",
            "{ p = 1.5, block",
            r"setting.layers\[0\].input_drop.p must be in \[0, 1\), got 1.5",
        ),
        ("{ p = 0.5, block", "{ p = nan, block", r"setting.layers\[0\].input_drop.p must be in"),
        ("{ p = 0.5, block", "{ q = 0.5, block", r"setting.layers\[0\].input_drop.q: unknown"),
        ('"all"', '"some"', r"setting.layers\[0\].recurrent_drop.steps: 'some'; give an integer or \"all\""),
        ("rows = 4,", "rows = 0,", r"setting.layers\[0\].recurrent_drop.rows: 0"),
        ("gate_keep = 0.5", "gate_keep = 0", r"setting.layers\[0\].gate_keep: 0; a share in \(0, 1\]"),
        ("gate_keep = 0.5", "gate_keep = 1.5", r"setting.layers\[0\].gate_keep: 1.5"),
        ("outputs = 1000", "outputs = 0", r"setting.layers\[2\].outputs: 0"),
        (
            "outputs = 1000",
            "outputs = 9\nhidden = 3",
            r"setting.layers\[2\].hidden: unknown; known are inputs, outp",
        ),
        ("rows = 16", "rows = 0", "array.rows: 0"),
        ("rows = 16\n", "", "array.rows: missing"),
        ("sram_b = 256", "sram_b = 0", "array.sram_b: 0"),
        ("clock = 0.5", "clock = inf", "array.clock: inf; a finite number is needed"),
        ("bits = 8", "bits = 16", "array.bits: 16; the energy table own has words of 8 bits only"),
        ("double_buffered = true", "double_buffered = 'yes'", "array.double_buffered: 'yes'; true or false"),
        ("{ 8 = 0.1 }", "{ eight = 0.1 }", "array.energy.mac.eight: the bits of a word are needed"),
        ("{ 8 = 0.1 }", "{ 8 = -1 }", "array.energy.mac.8: -1"),
        ("{ 8 = 0.1 }", "{}", "array.energy.mac: it is empty"),
        ("{ 8 = 0.1 }", "0.1", "array.energy.mac: 0.1; a table is needed"),
        ("sram_read = 0.1,", "", "array.energy.sram_read: missing"),
        ("dram = 5", "dramm = 5", "array.energy.dramm: unknown"),
        ("tile = [64, 64, 16]", "tile = [64, 64]", r"gpu.tile: \[64, 64\]; rows, columns and depth"),
        ("tile = [64, 64, 16]", "tile = 64", "gpu.tile: 64"),
        ("tile = [64, 64, 16]", "tile = [64, 64, 0.5]", "gpu.tile: 0.5; an integer is needed"),
        ("teraflops = 5", "teraflop = 5", "gpu.teraflop: unknown; known are name, multiprocessors"),
        ("teraflops = 5", "teraflops = -5", "gpu.teraflops: -5"),
        ("[gpu]", "[cpu]", "cpu: unknown; known are setting, array, gpu"),
        ("[gpu]", "[gpu", "it is no TOML"),
        ("[array]", "[[array]]", "array: .*; a table is needed"),
    ],
    ids=lambda value: value.strip()[:40],
)
def test_the_wrong_key_is_named(file, old, new, message):
    assert WHOLE.count(old) >= 1
    with pytest.raises(ValueError, match=message) as caught:
        read(file(WHOLE.replace(old, new, 1)))
    assert str(caught.value).startswith(str(file("")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; give some of the tables setting, array, gpu"),
        ("setting = 5", "setting: 5; a table is needed"),
        ("[setting]\nbatch = 1\nsteps = 1", "setting.layers: missing"),
        ("[setting]\nbatch = 1\nsteps = 1\nlayers = []", "setting.layers: there are none"),
        ("[setting]\nbatch = 1\nsteps = 1\nlayers = 3", "setting.layers: 3; write each layer as a table"),
        ("[setting]\nbatch = 1\nsteps = 1\nlayers = [3]", r"setting.layers\[0\]: 3; a table is needed"),
        ("x = " + "[" * 5000, "it is no TOML"),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_describe_nothing(file, text, message):
    with pytest.raises(ValueError, match=message):
        read(file(text))


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(OSError, match=r"none\.toml"):
        read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml: it is no TOML"):
        read(tmp_path / "binary.toml")
