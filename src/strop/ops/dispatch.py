"""Which backend runs an operation, and why.

``STROP_BACKEND`` names one for the whole process, ``use`` for a block of code (in all threads), ``STROP_ISA``
the instruction set of the native one; such an explicit request that cannot be met is an error. Otherwise the
fastest that can run is taken, and falling back is logged once.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import strop.ops.products
import strop.ops.recurrence
import strop.ops.selection
from strop.extras import installing
from strop.ops import native, native_recurrence

_log = logging.getLogger("strop")

BACKENDS = ("reference", "native", "triton")

_forced: str | None = None
_wrapper: Callable[[ModuleType], Any] | None = None


def why_not(name: str, x: Tensor | None = None) -> str | None:
    """Why the backend called ``name`` cannot run here (on operands like ``x``); None if it can.

    Raises:
        ValueError: there is no backend of that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "reference":
        return None
    if name == "triton":
        return _why_not_triton(x)
    if native.missing is not None:
        return native.missing
    if x is not None and x.device.type != "cpu":
        return f"the native kernels run on the CPU, the operands are on {x.device}"
    if x is not None and x.dtype != torch.float32:
        return f"the native kernels compute in float32, the operands are {x.dtype}"
    return None


def _why_not_triton(x: Tensor | None) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed, which is there for Linux ({installing('gpu')})"
    from strop.ops.triton.launch import DTYPES, interpreting

    if interpreting:
        if x is not None and x.dtype == torch.bfloat16:
            return "Triton's interpreter computes wrong products in bfloat16"
    elif not torch.cuda.is_available() or torch.version.hip is not None:
        return "there is no NVIDIA GPU (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    if x is None:
        return None
    place = "cpu" if interpreting else "cuda"
    if x.device.type != place:
        return f"the Triton kernels run on {place} here, the operands are on {x.device}"
    if x.dtype not in DTYPES:
        return f"the Triton kernels compute in float32, float16 and bfloat16, the operands are {x.dtype}"
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        major, minor = torch.cuda.get_device_capability(x.device)
        return f"the Triton kernels need compute capability 8.0, {x.device} has {major}.{minor}"
    return None


def available(name: str) -> bool:
    """Whether the backend called ``name`` can run here."""
    return why_not(name) is None


class BackendError(RuntimeError):
    """What was asked for, by a variable or `use`, cannot run here."""


@contextmanager
def use(name: str) -> Iterator[None]:
    """Run everything on the backend called ``name``.

    Raises:
        BackendError: that backend is not available.
    """
    global _forced
    reason = why_not(name)
    if reason is not None:
        raise BackendError(f"backend {name!r} is not available here: {reason}")
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


def asked() -> str | None:
    """The backend that was asked for by name, in the environment or by ``use``."""
    return _forced or os.environ.get("STROP_BACKEND") or None


def may_leave_kernels() -> bool:
    """Whether a call may run elsewhere, if that is faster: nobody asked for a backend by name, or observes
    them."""
    return _wrapper is None and asked() is None


def select(x: Tensor) -> str:
    """The name of the backend for operands like ``x``.

    Raises:
        BackendError: the one that was asked for cannot run on them.
    """
    name = asked()
    if name:
        reason = why_not(name, x)
        if reason is not None:
            raise BackendError(f"backend {name!r} was asked for and cannot run: {reason}")
        return name
    # On a CPU Triton's interpreter is for tests, and runs only if it is asked for.
    fastest = "triton" if x.device.type == "cuda" else "native"
    reason = why_not(fastest, x)
    if reason is None:
        return fastest
    if fastest == "native" and native.missing is not None and os.environ.get("STROP_ISA"):
        raise BackendError(f"STROP_ISA asks for native kernels, which cannot run: {native.missing}")
    if x.device.type != "meta":  # which takes no time
        _log_once(reason)
    return "reference"


@cache
def _log_once(reason: str) -> None:
    _log.warning("running on plain PyTorch, which is slower: %s", reason)


def why_not_bf16(device: torch.device) -> str | None:
    """Why nothing is gained on ``device`` by rounding operands to bfloat16; None if something is."""
    if device.type == "cuda":
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
            return f"{device} does not multiply bfloat16, which takes compute capability 8.0"
        return None
    if device.type != "cpu":
        return None
    if select(torch.empty(0, dtype=torch.float32, device=device)) != "native":
        return "the native kernels, which round, do not run"
    if native.has_bf16:
        return None
    return f"{native.isa()} does not multiply bfloat16, as AVX-512 with AVX512-BF16 does"


def selection(device: torch.device) -> Any:
    """The module with ``smallest`` for keys on ``device``; all of them choose the same units."""
    if asked() in (None, "native") and device.type == "cpu" and native.missing is None:
        return native
    on_gpu = device.type == "cuda" or asked() == "triton"
    if on_gpu and asked() in (None, "triton") and why_not("triton", torch.empty(0, device=device)) is None:
        return _module("triton", "selection")
    return strop.ops.selection


def _wrapped(backend: ModuleType) -> Any:
    return backend if _wrapper is None else _wrapper(backend)


def _module(backend: str, name: str) -> ModuleType:
    """A backend's ``products`` or ``recurrence``."""
    if backend == "native":
        return native if name == "products" else native_recurrence
    package = "strop.ops.triton" if backend == "triton" else "strop.ops"
    return importlib.import_module(f"{package}.{name}")


def products(x: Tensor) -> Any:
    """The module with ``forward``, ``input_grad`` and ``weight_grad`` for operands like ``x``."""
    return _wrapped(_module(select(x), "products"))


def recurrence(x: Tensor, projected: bool = False) -> Any:
    """The module with ``forward``, ``backward`` and ``weight_grad`` of a recurrence on operands like x.

    Projections are plain PyTorch where Triton runs the rest.
    """
    backend = select(x)
    return _wrapped(_module("reference" if projected and backend == "triton" else backend, "recurrence"))


def cross_entropy() -> Any:
    """The one module with ``linear_cross_entropy`` and its ``_grad``: elsewhere torch's operators run."""
    return _wrapped(native)
