"""The check that a benchmark makes before it times anything: does strop compute the right thing here?"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from strop.bench.presets import Impl, Preset
from strop.bench.stack import build, inputs
from strop.ops import dispatch

STEPS = 4  # enough steps to tell, few enough to do in float64

_ROUNDING = 1e-6  # relative to the largest value: a few units in the last place of fp32
_BF16_ROUNDING = 2.0**-9  # the same, of an operand
_AS_GOOD_AS = 4.0  # times plain PyTorch's own fp32 error


def stack_discrepancies(
    preset: Preset, impls: Iterable[Impl], device: torch.device, bf16: bool = False
) -> list[str]:
    """What strop computes wrongly in the first steps of a preset's stack, under autocast if `bf16`."""
    torch.manual_seed(0)
    short = replace(preset, steps=min(preset.steps, STEPS))
    given, grad = inputs(short, device)

    def loss(model: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            y = model(model.get_parameter("x"))
        return (y * grad.to(y.dtype)).sum(), y

    faults = []
    for impl in impls:
        model = build(short, impl).to(device)
        model.register_parameter("x", nn.Parameter(given.detach()))  # its gradient is compared too
        faults += discrepancies(impl, model, loss, bf16)
    return faults


def discrepancies(
    label: str, model: nn.Module, loss: Callable[[nn.Module], tuple[Tensor, Tensor]], bf16: bool = False
) -> list[str]:
    """Where the backend that `model` runs on leaves the float64 reference by more than fp32 explains.

    Compared are a value and the gradients of all parameters, with the same masks.

    Args:
        label: what to call the model.
        model: in fp32, on the device to check.
        loss: of a model, in the dtype of its parameters: a scalar to differentiate, and the value.
        bf16: more is explained, as much as by parameters that are rounded to bfloat16.
    """
    ours = _outcome(model, loss)
    plain = _outcome(deepcopy(model).bfloat16().float() if bf16 else model, loss, "reference")
    exact = _outcome(deepcopy(model).double(), loss, "reference")
    return beyond_rounding(label, ours, plain, exact, _BF16_ROUNDING if bf16 else _ROUNDING)


def beyond_rounding(
    label: str,
    ours: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    rounding: float = _ROUNDING,
) -> list[str]:
    """Where `ours` is further from `exact` than fp32 explains, going by plain PyTorch's own error."""
    faults = []
    for name, value in exact.items():
        error = (ours[name] - value).abs().max()
        allowed = _AS_GOOD_AS * (plain[name] - value).abs().max() + rounding * value.abs().max()
        if not error <= allowed:  # NaN is a fault
            faults.append(f"{label}: {name} is off by {error:.2e} (rounding explains {allowed:.2e})")
    return faults


def _outcome(
    model: nn.Module, loss: Callable[[nn.Module], tuple[Tensor, Tensor]], backend: str | None = None
) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)  # the same masks every time
    with nullcontext() if backend is None else dispatch.use(backend):
        scalar, value = loss(model)
        scalar.backward()
    values = {"its output": value.detach().double()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            values[f"the gradient of {name}"] = parameter.grad.to_dense().double()
    model.zero_grad()
    return values
