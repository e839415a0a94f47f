"""A model that was run is put back to where it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def restored(model: nn.Module, training: bool = True) -> Iterator[None]:
    """Training mode or evaluation inside; afterwards all that a run changes in a model is as before.

    These are modes, attributes, buffers, parameters and random generators.
    What a forward adds to a list or writes to a file stays.
    """
    modules = list(model.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    tables: list[tuple[Any, Any]] = [
        (table, dict(table))
        for module in modules
        for table in (module._parameters, module._buffers, module._modules)
    ]
    values = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numpys = numpy.random.get_state() if numpy else None
    devices = {tensor.device.index for tensor, _ in values if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            for module in modules:
                module.training = training
            yield
        finally:
            for module, before in attributes:
                vars(module).clear()
                vars(module).update(before)
            for table, before in tables:
                table.clear()
                table.update(before)
            with torch.no_grad():
                for tensor, value in values:
                    # Writing without need would invalidate graphs that hold the tensor.
                    if tensor.layout != torch.strided or not torch.equal(tensor, value):
                        tensor.copy_(value)
            random.setstate(python)
            if numpy:
                numpy.random.set_state(numpys)
