"""Tiny products, simulated cycle by cycle by SCALE-Sim where it is installed: `pip install -e .[scalesim]`.

It takes no NumPy from 2.3 on, and only toy sizes: it writes every access of every cycle.
"""

import contextlib
import csv
import io
import random
from dataclasses import replace
from pathlib import Path

import pytest

from strop.hardware import ARRAYS, Layer, Product, works
from strop.hardware.analysis import cost
from strop.hardware.layers import Drop
from strop.hardware.systolic import DATAFLOWS, Dataflow, buffer_words, cycles, fetches, folds

simulator = pytest.importorskip("scalesim.scale_sim", reason="SCALE-Sim is not installed: .[scalesim]")
numpy = pytest.importorskip("numpy")
VERSION = tuple(int(part) for part in numpy.__version__.split(".")[:2])
pytestmark = [
    pytest.mark.skipif(VERSION >= (2, 3), reason=f"SCALE-Sim fails with NumPy {numpy.__version__}"),
    # Its own, of csv files that it opens and NumPy that it divides by zero with.
    pytest.mark.filterwarnings("ignore"),
]
CONFIGURATION = """
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 10
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
SIDES = [(4, 4), (3, 5), (2, 6), (6, 3), (8, 8), (1, 1), (5, 1), (1, 4)]


def simulate(product: Product, rows: int, columns: int, dataflow: Dataflow, folder: Path) -> dict[str, int]:
    """SCALE-Sim's report of a product."""
    files = {
        "configuration": CONFIGURATION.format(rows=rows, columns=columns, dataflow=dataflow),
        "topology": f"Layer, M, N, K,\none, {product.m}, {product.n}, {product.k},\n",
        # Never used, always opened.
        "layout": "Layer" + ", x" * 20 + ",\none" + ", 1" * 20 + ",\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    paths = (str(folder / name) for name in files)
    with contextlib.redirect_stdout(io.StringIO()):
        run = simulator.scalesim(True, False, *paths, input_type_gemm=True)
        run.run_scale(top_path=str(folder))
    found = {}
    for name in ("COMPUTE_REPORT.csv", "DETAILED_ACCESS_REPORT.csv"):
        with (folder / "run" / name).open(newline="") as stream:
            header, values = list(csv.reader(stream))[:2]
        found |= {key.strip(): float(value) for key, value in zip(header, values, strict=True) if key.strip()}
    return {key: int(value) for key, value in found.items()}


def assert_as_simulated(product: Product, rows: int, columns: int, dataflow: Dataflow, folder: Path) -> None:
    array = replace(ARRAYS["edge"], rows=rows, columns=columns)
    seen = simulate(product, rows, columns, dataflow, folder)
    assert seen["Total Cycles"] == cycles(product, array, dataflow) - 1  # the number of the last, from 0
    words = buffer_words(product, array, dataflow)
    assert (seen["SRAM IFMAP Reads"], seen["SRAM Filter Reads"]) == (words.a, words.b)
    down, across = folds(product, array, dataflow)
    # Its counter of outputs that stay: as many writes more in each fold as the array has rows and columns.
    quirk = down * across * (rows + columns) if dataflow == "os" else 0
    assert seen["SRAM OFMAP Writes"] == words.c + quirk
    # From memory everything once, as all fits; but it writes out each fold's partial sums.
    often = fetches(product, array, dataflow)
    assert (often.a, often.b, often.c) == (1, 1, 1)
    assert seen["DRAM IFMAP Reads"] == product.m * product.k
    assert seen["DRAM Filter Reads"] == product.k * product.n
    partial = 1 if dataflow == "os" else down
    assert seen["DRAM OFMAP Writes"] == product.m * product.n * partial


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_ragged_products(dataflow: Dataflow, sides: tuple[int, int], tmp_path: Path):
    draw = random.Random(f"{dataflow} {sides}")
    for number in range(6):
        product = Product(*(draw.randint(1, 22) for _ in range(3)))
        folder = tmp_path / str(number)
        folder.mkdir()
        assert_as_simulated(product, *sides, dataflow, folder)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_products_of_a_small_layer(dataflow: Dataflow, tmp_path: Path):
    """FP, BP and WG of a step, dense and on kept columns: skipping saves what the simulator says."""
    layer = Layer(20, 6, input_drop=Drop(0.5), recurrent_drop=Drop(0.5))
    array = replace(ARRAYS["edge"], rows=4, columns=4)
    for number, work in enumerate((*works([layer], 5, 1, "stepwise"), *works([layer], 5, 1, "kept"))):
        (product,) = work.products
        folder = tmp_path / str(number)
        folder.mkdir()
        assert_as_simulated(product, 4, 4, dataflow, folder)
        assert cost(work, array, dataflow).cycles == cycles(product, array, dataflow)
