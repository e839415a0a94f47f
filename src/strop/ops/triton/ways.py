"""The ways in which a recurrence can run on a GPU, and which of them is taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from torch import Tensor

from strop.ops import choice
from strop.ops.triton import launch, tiles
from strop.ops.triton.sequence import Drop, Sequence
from strop.ops.triton.tiles import Tiles

WAYS: dict[str, str] = {
    "on-chip": "one launch for all steps, which keeps all weights on the chip",
    "persistent": "one launch for all steps, which reads the kept units' weights at each of them",
    "steps": "a launch for each step, which reads the kept units' weights",
}
"""How a recurrence can run."""

forced: str | None = None
"""The one of them to take; None: what ``STROP_RECURRENCE`` names, or else the fastest."""


def _asked() -> str | None:
    way = forced or os.environ.get("STROP_RECURRENCE") or None
    if way is not None and way not in WAYS:
        raise ValueError(f"STROP_RECURRENCE must be one of {', '.join(WAYS)}, got {way!r}")
    return way


def plans_for(sequence: Sequence, width: int, like: Tensor, *, backward: bool) -> dict[str, Tiles]:
    """The ways that are possible, or the one that was asked for."""
    where = (like.dtype, like.device)
    sizes = (sequence.gates, sequence.hidden, sequence.batch)
    kept = tiles.on_chip(*sizes, *where, backward=backward)
    read = tiles.reading(*sizes, width, *where, backward=backward)
    plans = {"steps": read} | ({} if kept is None else {"on-chip": kept})
    if programs(sequence, read, width, backward=backward) <= launch.processors(like.device):
        plans = {"persistent": read} | plans
    way = _asked() or ("steps" if launch.interpreting else None)
    if way is None:
        return plans
    if way not in plans:
        raise RuntimeError(
            f"STROP_RECURRENCE: {way!r} was asked for, but {sequence.hidden} units, {sequence.batch} rows do "
            f"not fit on the chip in {like.dtype}; leave it to strop, or ask for 'steps'"
        )
    return {way: plans[way]}


def choose(
    sequence: Sequence,
    dropped: Drop,
    like: Tensor,
    plans: dict[str, Tiles],
    run_by: Callable[[str], object],
    phase: str,
    variant: tuple[bool, ...],
) -> str:
    """The plan to take, by name: ``persistent``, or with autotune the fastest.

    Times of all go with the steps, so they are one kind of work.

    Args:
        variant: what else the kernels are compiled for. The key holds all of that, so that no capture of a
            CUDA graph has to load code: every way was compiled when it was measured.
    """
    packed = sequence.offsets is not None
    key = (
        (
            *(phase, sequence.kind, sequence.hidden, tuple(plans.values()), dropped.width),
            *(packed, sequence.reverse, *dropped.flags.values(), *variant),
            *(like.dtype, launch.precision(like.dtype), like.device),
        )
        if len(plans) > 1
        else ()
    )

    def what() -> str:
        sizes = f"{sequence.hidden} units ({dropped.width} kept), batch {sequence.batch}"
        where = f"{sequence.steps} steps, {str(like.dtype).removeprefix('torch.')}, {phase}"
        return f"{sequence.kind.upper()} of {sizes}, {where}"

    ways = {way: partial(run_by, way) for way in plans}
    unmeasured = "persistent" if "persistent" in plans else "steps"
    return choice.fastest(key, what, ways, like.device, unmeasured)


def programs(sequence: Sequence, plan: Tiles, width: int, *, backward: bool) -> int:
    """How many programs run a recurrence of which ``width`` units are kept."""
    of_gates = sequence.tiles_of_gates(plan)
    return max(of_gates, sequence.tiles_of_product(plan, width)) if backward else of_gates


def in_one_launch(way: str, programs: int) -> bool:
    """Whether one launch of so many programs runs all steps.

    They are no more than one a processor, so that all run at once. In the interpreter only a single program
    has nobody to wait for.
    """
    return way != "steps" and (launch.programs_wait or programs == 1)
