"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import settings

import strop.ops.memory
import strop.ops.products
import strop.ops.recurrence
from strop.functional import routes
from strop.ops import choice, dispatch

# Without a GPU the Triton kernels run in Triton's interpreter. It is chosen for good when Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("strop", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("strop")


@dataclass(frozen=True)
class Backend:
    """A backend under test, and the dtype in which it computes."""

    name: str
    dtype: torch.dtype
    products: ModuleType
    recurrence: ModuleType


@pytest.fixture(params=["reference", "native"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn, forced for everything that the test runs."""
    name = request.param
    if not dispatch.available(name):
        pytest.skip(f"the {name} backend is not built here")
    with dispatch.use(name):
        if name == "reference":
            yield Backend(name, torch.float64, strop.ops.products, strop.ops.recurrence)
        else:
            x = torch.zeros(1, 1, 1)
            yield Backend(name, torch.float32, dispatch.products(x), dispatch.recurrence(x))


@pytest.fixture(scope="session", autouse=True)
def _compiled_for_this_cpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Inductor's cache is this run's own: see docs/compile.md on caches and instruction sets."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))


@pytest.fixture(autouse=True)
def _nothing_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test had timed is unknown to the next."""
    monkeypatch.setattr(choice, "_choices", {})


@pytest.fixture(params=["kernels", "operator"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Calls on a CPU take each way in turn, as if the rule said so."""

    def taken(sizes: Any, phase: str, ways: tuple[str, ...], *where: Any) -> str:
        return next(way for way in ways if way.startswith("kernels") == (request.param == "kernels"))

    monkeypatch.setattr(routes, "cheapest", taken)
    return request.param


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is NaN, so whatever reads it before writing shows."""

    def poisoned(allocate: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = allocate(*args, **kwargs)
            with torch.no_grad():
                return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return wrapper

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
        (torch, "empty_strided"),
        (strop.ops.memory, "empty"),
    ):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20211206)
