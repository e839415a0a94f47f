"""The rule that says how a call runs: from sizes, instruction sets and the number of threads alone.

So the same call runs the same way in every process of a machine. ``strop.backends.autotune`` times instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from strop.functional import costs
from strop.functional.costs import Sizes
from strop.ops import native
from strop.ops.cells import Cell

_ANSWERS = 4096  # that are kept
_ROUNDED_BATCH, _ROUNDED_WORK = 32, 1 << 27


def sizes_of(
    cell: Cell,
    x: Tensor,
    flat: Sequence[Tensor],
    each: int,
    directions: int,
    steps: int,
    batch: int,
    packed: bool,
    kept: tuple[float, float] = (1.0, 1.0),
) -> Sizes:
    """Of a stack that runs over x, with all its weights in one list, ``each`` for a direction."""
    gates, units = flat[1].shape
    rows = x.shape[0] if packed else steps * batch
    stack = (cell.name, x.shape[-1], gates // cell.gates, units, len(flat) // each // directions, directions)
    return Sizes(*stack, steps, batch, rows, packed, *kept)


def dense(sizes: Sizes, phase: str) -> str:
    """``operator`` or ``kernels``: what runs a stack with nothing dropped, a phase of ``costs.PHASES``."""
    return cheapest(sizes, phase, ("operator", "kernels"), _isa(), _torchs_isa(), torch.get_num_threads())


def dropping(sizes: Sizes, phase: str, ways: tuple[str, ...]) -> str:
    """One of ``ways`` to run a layer that drops something.

    ``kernels``, ``operator`` (torch's of a layer, on masked inputs) or, for one step, ``cells`` (torch's).
    """
    own = tuple(f"{way}, dropping" for way in ways)
    found = cheapest(sizes, phase, own, _isa(), _torchs_isa(), torch.get_num_threads())
    return found.removesuffix(", dropping")


def expected_gain(
    mode: str,
    input_size: int,
    hidden_size: int,
    *,
    steps: int,
    batch: int,
    proj_size: int = 0,
    bidirectional: bool = False,
    input_dropout: float = 0.0,
) -> float:
    """How many times as fast as torch's operator on masked inputs training a layer is expected to be.

    On this CPU with torch's threads; 1 if the operator is what runs. The rule was fitted to passes of at most
    2e9 multiplications forward: larger layers gain more than it says.

    Args:
        mode: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
    """
    directions, units = 2 if bidirectional else 1, proj_size or hidden_size
    stack = (mode, input_size, hidden_size, units, 1, directions, steps, batch, steps * batch, False)
    sizes = Sizes(*stack, 1 - input_dropout)
    where = torch.get_num_threads()
    theirs = costs.milliseconds(sizes, "operator, dropping", "training", _torchs_isa(), where)
    if native.missing is not None or theirs == math.inf:
        return 1.0
    return max(theirs / costs.milliseconds(sizes, "kernels, dropping", "training", _isa(), where), 1.0)


def pays(mode: str, input_size: int, hidden_size: int, **how: Any) -> bool:
    """Whether ``expected_gain`` is a twentieth or more."""
    return expected_gain(mode, input_size, hidden_size, **how) >= 1.05


@lru_cache(_ANSWERS)
def cheapest(sizes: Sizes, phase: str, ways: tuple[str, ...], isa: str, torchs_isa: str, threads: int) -> str:
    """The way that is predicted to take least time."""

    def predicted(way: str) -> float:
        return costs.milliseconds(sizes, way, phase, isa if "kernels" in way else torchs_isa, threads)

    return min(ways, key=predicted)


def rounds(rows: int, batch: int, flat: Sequence[Tensor]) -> bool:
    """Whether training with nothing dropped under autocast to bfloat16 is for the kernels, which round.

    Not for calls of few rows: torch's operator is faster there.
    """
    return batch > _ROUNDED_BATCH or rows * sum(weight.numel() for weight in flat) > _ROUNDED_WORK


@cache
def _isa() -> str:
    """The instruction set of the kernels."""
    return native.isa()


@cache
def _torchs_isa() -> str:
    """That of torch's own operators, in strop's words."""
    names = {"AVX512": "avx512", "AVX2": "avx2"}
    return names.get(torch.backends.cpu.get_cpu_capability(), "portable")


def kind() -> tuple[object, ...]:
    """What else the time of a call depends on, for the keys of ``ops.choice``."""
    return _isa(), _torchs_isa(), torch.get_num_threads(), torch.backends.mkldnn.enabled
