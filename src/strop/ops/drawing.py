"""The random choices behind masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op
from torch.library import custom_op

from strop.ops import dispatch

Device = torch.device | str | None


def choose(rows: int, units: int, kept: int, generator: torch.Generator | None, device: Device) -> Tensor:
    """Uniform choices of ``kept`` units without replacement: int32 ``[rows, kept]``, sorted.

    The units with the smallest random keys are kept.
    """
    if torch.compiler.is_compiling():
        return _choose(rows, units, kept, _traceable(generator, device))
    keys = torch.empty(rows, units, dtype=torch.int32, device=device).random_(generator=generator)
    return dispatch.selection(keys.device).smallest(keys, kept)


def toss(rows: int, units: int, p: float, generator: torch.Generator | None, device: Device) -> Tensor:
    """Independent choices: bool ``[rows, units]``, True with probability 1 - p."""
    if torch.compiler.is_compiling():
        return _toss(rows, units, p, _traceable(generator, device))
    return torch.rand(rows, units, generator=generator, device=device) >= p


def _traceable(generator: torch.Generator | None, device: Device) -> torch.device:
    if generator is not None:
        raise RuntimeError(
            "generator: torch.compile cannot trace one; draw the masks outside and pass them as masks="
        )
    return torch.device("cpu" if device is None else device)


# As operators with an effect: torch.compile would merge two draws of the same size, and use random numbers
# of its own.
@custom_op("strop_compiled::choose", mutates_args=())
def _choose(rows: int, units: int, kept: int, device: torch.device) -> Tensor:
    return choose(rows, units, kept, None, device)


@_choose.register_fake
def _(rows: int, units: int, kept: int, device: torch.device) -> Tensor:
    return torch.empty(rows, kept, dtype=torch.int32, device=device)


@custom_op("strop_compiled::toss", mutates_args=())
def _toss(rows: int, units: int, p: float, device: torch.device) -> Tensor:
    return toss(rows, units, p, None, device)


@_toss.register_fake
def _(rows: int, units: int, p: float, device: torch.device) -> Tensor:
    return torch.empty(rows, units, dtype=torch.bool, device=device)


for _op in (torch.ops.strop_compiled.choose.default, torch.ops.strop_compiled.toss.default):
    _register_effectful_op(_op, _EffectType.ORDERED)
