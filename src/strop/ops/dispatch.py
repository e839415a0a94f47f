"""Which backend runs an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor

import strop.ops.products
import strop.ops.recurrence

_forced: str | None = None
_wrapper: Callable[[ModuleType], Any] | None = None


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


@contextmanager
def wrapped(wrapper: Callable[[ModuleType], Any]) -> Iterator[None]:
    """Pass every selected backend through ``wrapper``: for an observer of its calls, a clock for instance."""
    global _wrapper
    before, _wrapper = _wrapper, wrapper
    try:
        yield
    finally:
        _wrapper = before


def _selected(backend: ModuleType) -> Any:
    return backend if _wrapper is None else _wrapper(backend)


def products(x: Tensor) -> Any:
    """The module with ``forward``, ``input_grad`` and ``weight_grad`` for operands like ``x``."""
    return _selected(strop.ops.products)


def recurrence(x: Tensor) -> Any:
    """The module with ``lstm_forward``, ``lstm_backward`` and ``lstm_weight_grad`` for operands like x."""
    return _selected(strop.ops.recurrence)
