"""That a converted model runs, and computes in evaluation what it did before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strop.conversion.restore import restored
from strop.conversion.watch import arguments, copied, tensors

# Another order of sums: of what rounding does in this precision, many times.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@contextmanager
def unchanged_results(model: nn.Module, example_inputs: Any, changes: Any) -> Iterator[None]:
    """Compares what the model gives in evaluation before and after, and runs it in training afterwards.

    Args:
        changes: nothing is compared if this is empty.

    Raises:
        ValueError: it fails or gives something else; all classes and attributes of its modules are put back.
    """
    if not changes:
        yield
        return
    modules = list(model.modules())
    state = [(module, type(module), dict(vars(module))) for module in modules]
    expected = _outputs(model, example_inputs)
    steady = expected is not None and _differ(expected, _outputs(model, example_inputs)) is None
    yield
    try:
        _run(model, example_inputs, True)
        fault = _differ(expected, _tensors(_run(model, example_inputs, False))) if steady else None
    except Exception as error:
        fault = f"it fails with {type(error).__name__}: {error}"
    if fault is not None:
        for module, cls, attributes in state:
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(attributes)
        raise ValueError(f"model: converted, {fault}. Nothing was changed; filter_fn can leave out a layer")


def _run(model: nn.Module, example_inputs: Any, training: bool) -> Any:
    args, kwargs = copied(arguments(example_inputs))
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    with restored(model, training), torch.no_grad():
        return model(*args, **kwargs)


def _outputs(model: nn.Module, example_inputs: Any) -> list[Tensor] | None:
    """What it gives in evaluation; None if it needs other inputs there."""
    try:
        return _tensors(_run(model, example_inputs, False))
    except Exception:
        return None


def _tensors(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors(output) if tensor.layout == torch.strided]


def _differ(expected: list[Tensor] | None, found: list[Tensor] | None) -> str | None:
    if expected is None or found is None:
        return None
    if [each.shape for each in expected] != [each.shape for each in found]:
        return "it returns tensors of other shapes"
    for one, other in zip(expected, found, strict=True):
        if not one.is_floating_point():
            continue  # a choice among results that are equal but for rounding may fall otherwise
        finite = one[one.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 1.0
        close = _TOLERANCE.get(one.dtype, 0.1)
        if not torch.allclose(one, other, rtol=close, atol=close * scale, equal_nan=True):
            apart = float((one - other).abs().max())
            return f"its results in evaluation differ by up to {apart:.2g} of {scale:.2g}"
    return None
