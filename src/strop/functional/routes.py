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

from strop.functional import costs, linear_costs
from strop.functional.costs import Sizes
from strop.ops import native
from strop.ops.cells import Cell

PAYS = 1.05
"""From what gain on a change is worth it: below that, noise may decide."""

_ANSWERS = 4096  # that are kept
_LEAST_MS = 1.0  # of a call: those that take less are within a tenth of each other, whatever is predicted
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


def expected_times(
    mode: str,
    input_size: int,
    hidden_size: int,
    *,
    steps: int,
    batch: int,
    proj_size: int = 0,
    bidirectional: bool = False,
    input_dropout: float = 0.0,
    drops_states: bool = False,
) -> tuple[float, float] | None:
    """Milliseconds that training a layer is expected to take: torch's on masked inputs, and strop's.

    On this CPU with torch's threads. None without the native kernels, or where nothing was measured. The rule
    was fitted to passes of at most 1e9 multiplications forward: larger layers gain more than it says.

    Args:
        mode: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
        drops_states: whether strop's layer drops hidden states, too, for which it needs the kernels. What is
            gained by dropping them is not counted: it was not measured.
    """
    directions, units = 2 if bidirectional else 1, proj_size or hidden_size
    stack = (mode, input_size, hidden_size, units, 1, directions, steps, batch, steps * batch, False)
    sizes, threads = Sizes(*stack, 1 - input_dropout), torch.get_num_threads()
    dropping = ", dropping" if input_dropout or drops_states else ""
    torchs = "cells, dropping" if steps == 1 and not proj_size and dropping else f"operator{dropping}"
    theirs = costs.milliseconds(sizes, torchs, "training", _torchs_isa(), threads)
    ours = costs.milliseconds(sizes, f"kernels{dropping}", "training", _isa(), threads)
    if native.missing is not None or math.inf in (theirs, ours):
        return None
    # Of the ways without kernels only a step by torch's cells can drop states, and a GRU's drops too much.
    needs_kernels = drops_states and (torchs != "cells, dropping" or mode == "GRU")
    return theirs, ours if needs_kernels else min(theirs, ours)


def expected_gain(mode: str, input_size: int, hidden_size: int, **how: Any) -> float:
    """How many times as fast as torch's operator on masked inputs training a layer is expected to be.

    1 if the operator is what runs, takes less than a millisecond, or nothing is known.

    Args:
        mode: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
        how: as of ``expected_times``.
    """
    times = expected_times(mode, input_size, hidden_size, **how)
    return 1.0 if times is None or times[0] < _LEAST_MS else times[0] / times[1]


def pays(mode: str, input_size: int, hidden_size: int, **how: Any) -> bool:
    """Whether ``expected_gain`` is ``PAYS`` or more."""
    return expected_gain(mode, input_size, hidden_size, **how) >= PAYS


def linear(sizes: linear_costs.Sizes) -> str:
    """``kernels`` or ``operator`` (torch's, on a masked input): what runs a linear layer that drops."""
    return linear_way(sizes, _isa(), _torchs_isa(), torch.get_num_threads())


def linear_way(sizes: linear_costs.Sizes, isa: str, torchs_isa: str, threads: int) -> str:
    """The same with other instruction sets and threads."""
    return _of_linear(sizes, ("operator", "kernels"), isa, torchs_isa, threads)[0]


def expected_linear_times(sizes: linear_costs.Sizes) -> tuple[float, float] | None:
    """As ``expected_times``, of ``nn.Dropout`` and ``nn.Linear``, and of a ``strop.Linear``."""
    times = linear_times(sizes, _isa(), _torchs_isa(), torch.get_num_threads())
    return None if native.missing is not None or math.inf in times else times


def linear_times(sizes: linear_costs.Sizes, isa: str, torchs_isa: str, threads: int) -> tuple[float, float]:
    """The same with other instruction sets and threads."""
    _, theirs = _of_linear(sizes, ("torch",), isa, torchs_isa, threads)
    _, ours = _of_linear(sizes, ("operator", "kernels"), isa, torchs_isa, threads)
    return theirs, ours


@lru_cache(_ANSWERS)
def _of_linear(
    sizes: linear_costs.Sizes, ways: tuple[str, ...], isa: str, torchs_isa: str, threads: int
) -> tuple[str, float]:
    """The way that is predicted to take least time, and the time."""
    times = {
        way: linear_costs.milliseconds(sizes, way, isa if way == "kernels" else torchs_isa, threads)
        for way in ways
    }
    way = min(times, key=times.__getitem__)
    return way, times[way]


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
