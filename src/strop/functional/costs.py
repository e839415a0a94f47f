"""Times of torch's operators and of the kernels on a CPU, predicted from sizes: what ``routes`` decides by.

A prediction is a sum of costs: of a call, of each layer and step, of pointwise work, of weights read once, at
each step and for each tile of rows, of multiplications, and of the shares of these that threads divide. The
constants are fitted to measurements by ``python benchmarks/routes.py fit``, for each instruction set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from strop.functional.fitted import CONSTANTS
from strop.ops.cells import CELLS

ISAS = ("avx2", "avx512")
"""Instruction sets that were measured; others are taken for the first of them."""

PHASES = ("inference", "forward", "training")
"""Without gradients; what records for a backward pass; forward and backward."""

_ROWS = 6  # that a tile of a product has, or about
_FEW = 4  # fewer rows are multiplied by weights as they lie


class Sizes(NamedTuple):
    """A stack of recurrent layers and the sequence that it runs over.

    Attributes:
        cell: its name.
        inputs: units of x.
        hidden: units of the cell.
        units: of h, fewer than ``hidden`` where they are projected.
        steps: of the longest sequence.
        batch: rows of the first step.
        rows: of all steps together.
        input_kept: share of each layer's input that takes part in its product.
        recurrent_kept: the same of the hidden state.
    """

    cell: str
    inputs: int
    hidden: int
    units: int
    layers: int
    directions: int
    steps: int
    batch: int
    rows: int
    packed: bool = False
    input_kept: float = 1.0
    recurrent_kept: float = 1.0


def features(sizes: Sizes, threads: int) -> tuple[float, ...]:
    """What a prediction multiplies by constants, in units that make those microseconds or so."""
    runs = sizes.layers * sizes.directions
    gates = CELLS[sizes.cell].gates * sizes.hidden
    inputs = sizes.inputs + (sizes.layers - 1) * sizes.units * sizes.directions
    of_input, of_hidden = sizes.directions * gates * inputs, runs * gates * sizes.units
    done = of_input * sizes.input_kept + of_hidden * sizes.recurrent_kept
    shared = (
        runs * sizes.rows * gates / 1e3,
        (of_input + of_hidden) / 1e3,
        sizes.steps * of_hidden * sizes.recurrent_kept / 1e5,
        sizes.rows * done / 1e5,
        sizes.rows * of_input * sizes.input_kept / 1e5,
        sizes.steps * of_hidden * sizes.recurrent_kept * math.ceil(sizes.batch / _ROWS) / 1e5,
    )
    turns = runs * sizes.steps
    return (
        *(1.0, runs, turns, turns * (threads > 1), turns * sizes.packed, turns * (sizes.batch < _FEW)),
        *shared,
        *(each / threads for each in shared),
    )


def kind(sizes: Sizes, way: str) -> str:
    """What the constants of a way are for: torch has code of its own for LSTMs that are neither packed nor
    projected."""
    cell = "RNN" if sizes.cell.startswith("RNN") else sizes.cell
    other = cell == "LSTM" and (sizes.packed or sizes.units != sizes.hidden)
    return f"{cell}, packed or projected" if other and way == "operator" else cell


def milliseconds(sizes: Sizes, way: str, phase: str, isa: str, threads: int) -> float:
    """Predicted time of a call; infinite for what was not measured often enough to tell."""
    isa = isa if isa in ISAS else ISAS[0]
    constants = CONSTANTS.get((isa, way, kind(sizes, way), phase))
    if constants is None:
        return math.inf
    return sum(each * one for each, one in zip(features(sizes, threads), constants, strict=True)) / 1e3
