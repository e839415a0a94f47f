"""Whether torch can run an operator of its own on this machine: a trial tells, not the CPU's name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from threading import Thread

import torch

from strop.functional import operator
from strop.ops.cells import CELLS


def runs_under_autocast(cell: str, weights: int, device: str, dtype: torch.dtype, gradients: bool) -> bool:
    """Whether torch's operator of a layer runs under autocast to ``dtype``: tried once for each kind of call.

    oneDNN, for one, has an LSTM in bfloat16 for some CPUs only, and fails on the others. Packed sequences are
    one kind with plain ones, which torch makes of them where all are equally long.

    Args:
        cell: its name.
        weights: of each direction.
        device: its type.
        gradients: whether a backward pass follows.
    """
    return _runs(cell, weights, device, dtype, gradients, torch.backends.mkldnn.enabled)


# For traced code to call it as it is: assume_constant_result, without the seconds to import torch._dynamo.
runs_under_autocast._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@cache
def _runs(cell: str, weights: int, device: str, dtype: torch.dtype, gradients: bool, onednn: bool) -> bool:
    def trial() -> None:
        rows = 2 * CELLS[cell].gates
        biases, projected = [(rows,)] * 2 if weights >= 4 else [], weights % 2 == 1
        sizes = [(rows, 2), (rows, 1 if projected else 2), *biases, *([(1, 2)] if projected else [])]
        x, *flat = (
            torch.zeros(size, device=device, dtype=torch.float32, requires_grad=gradients)
            for size in [(2, 2, 2), *sizes]
        )
        with torch.set_grad_enabled(gradients), torch.autocast(device, dtype):
            y, _ = operator.stack(CELLS[cell], x, None, flat, weights, False, None)
            if gradients:
                torch.autograd.grad(y.sum(), [x, *flat])

    return _succeeds(trial)


def _succeeds(trial: Callable[[], None]) -> bool:
    """Whether it raises no RuntimeError: silently, with none of the caller's modes at work.

    Modes (autocast, inference, ``torch.func``, tracing, ``TorchDispatchMode``) are those of a thread.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            trial()
        except Exception as error:
            errors.append(error)

    thread = Thread(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread.start()
        thread.join()
    for error in errors:
        if not isinstance(error, RuntimeError):
            raise error
    return not errors
