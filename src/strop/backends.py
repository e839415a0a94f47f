"""The backends: their names, why one cannot run, and asking for one.

``strop.backends.autotune = True`` times the ways in which a call can run, where its kind is first met, and
takes the fastest, in the manner of ``torch.backends.cudnn.benchmark``. By default a rule from the call's
sizes and the CPU's instruction set decides, so that the same call runs the same way in every process.
Under ``torch.use_deterministic_algorithms`` nothing is timed.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from strop.ops import choice, dispatch

__all__ = ["NAMES", "autotune", "available", "use", "which", "why_not"]

NAMES: tuple[str, ...] = dispatch.BACKENDS
"""``reference`` (plain PyTorch), ``native`` (C++ for CPUs) and ``triton`` (NVIDIA GPUs)."""

if TYPE_CHECKING:
    autotune: bool
    """Times ways where a kind of call is first met, if True. False by default."""


def available(name: str) -> bool:
    """Tells if a backend can run on this machine.

    Raises:
        ValueError: there is no backend of that name.
    """
    return dispatch.available(name)


def why_not(name: str, x: Tensor | None = None) -> str | None:
    """Why a backend cannot run on this machine, on operands like ``x`` if given; None if it can.

    Raises:
        ValueError: there is no backend of that name.
    """
    return dispatch.why_not(name, x)


def which(x: Tensor) -> str:
    """The backend that runs what drops units of operands like ``x``.

    Raises:
        RuntimeError: the one that was asked for, by ``use`` or ``STROP_BACKEND``, cannot.
    """
    return dispatch.select(x)


def use(name: str) -> AbstractContextManager[None]:
    """Run everything on one backend, in a ``with`` block.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: it cannot run on this machine.
    """
    return dispatch.use(name)


class _Settings(ModuleType):
    """This module, with settings that are checked."""

    @property
    def autotune(self) -> bool:
        return choice.autotune

    @autotune.setter
    def autotune(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"strop.backends.autotune must be True or False, got {value!r}")
        choice.autotune = value


sys.modules[__name__].__class__ = _Settings
