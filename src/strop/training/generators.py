"""The state of every random generator a run may draw from: torch's, Python's, numpy's and the task's own."""

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def seed_all(seed: int) -> None:
    """Seeds the global generators: torch's (on every device), Python's and, if it is in use, numpy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


@contextmanager
def preserved(own: Mapping[str, torch.Generator], device: torch.device) -> Iterator[None]:
    """What is drawn inside leaves no trace: every generator is put back afterwards."""
    state = capture(own, device)
    try:
        yield
    finally:
        restore(state, own, device)


def capture(own: Mapping[str, torch.Generator], device: torch.device) -> dict[str, Any]:
    """The states of the global generators, of `device`'s and of `own`, to be given to `restore`."""
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "own": {name: generator.get_state() for name, generator in own.items()},
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = (str(kind), [int(key) for key in keys], *rest)
    return state


def restore(state: Mapping[str, Any], own: Mapping[str, torch.Generator], device: torch.device) -> None:
    """Puts every generator back. Raises ValueError if the task's own generators have other names."""
    if set(state["own"]) != set(own):
        raise ValueError(f"generators: the checkpoint holds {sorted(state['own'])}, the task {sorted(own)}")
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    for name, generator in own.items():
        generator.set_state(state["own"][name])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])
