"""Which backend runs an operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor

import strop.ops.products
import strop.ops.recurrence

_forced: str | None = None


def available(name: str) -> bool:
    """Whether the backend called ``name`` can run here."""
    return name == "reference"


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run everything on the backend called ``name``.

    Raises:
        RuntimeError: that backend is not available.
    """
    global _forced
    if not available(name):
        raise RuntimeError(f"backend {name!r} is not available here")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def products(x: Tensor) -> ModuleType:
    """The module with ``forward``, ``input_grad`` and ``weight_grad`` for operands like ``x``."""
    return strop.ops.products


def recurrence(x: Tensor) -> ModuleType:
    """The module with ``lstm_forward``, ``lstm_backward`` and ``lstm_weight_grad`` for operands like x."""
    return strop.ops.recurrence
