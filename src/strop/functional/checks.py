"""Bad operands are refused here, by name, before any kernel runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strop.ops.products import Keep
from strop.pattern import Mask


def keep_of(mask: Mask | None) -> Keep | None:
    """What the products need of a mask that the batch shares."""
    return None if mask is None or mask.index is None else Keep(mask.index, mask.count, mask.scale)


def check_mask(
    name: str, mask: Mask | None, steps: int, batch: int, units: int, device: torch.device
) -> None:
    """Refuse a mask that was drawn for other activations than ``[steps, batch, units]`` on ``device``.

    The batch counts only where each of its rows has its own mask.

    Raises:
        TypeError: not a Mask.
        ValueError: another shape or device.
    """
    if mask is None:
        return
    if not isinstance(mask, Mask):
        raise TypeError(f"{name} must be a strop.Mask or None, got {type(mask).__name__}")
    drawn, given = (mask.steps, mask.batch, mask.units), (steps, batch, units)
    if mask.index is not None:
        drawn, given = (mask.steps, mask.units), (steps, units)
    if drawn != given:
        axes = "[steps, units]" if mask.index is not None else "[steps, batch, units]"
        raise ValueError(f"{name} must be drawn for {axes} = {list(given)}, got one drawn for {list(drawn)}")
    if mask.device != device:
        raise ValueError(f"{name} must be on {device}, where the input is, got one on {mask.device}")


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor. Raises TypeError."""
    if isinstance(value, Tensor):
        return
    kind = type(value)
    remedy = " (torch.from_numpy makes one of it)" if kind.__name__ == "ndarray" else ""
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    raise TypeError(f"{name} must be a torch.Tensor, got {where}{kind.__qualname__}{remedy}")


def check_operand(name: str, tensor: Tensor | None, shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse a tensor of another shape, or of another dtype or device than ``like``."""
    if tensor is None:
        return
    check_tensor(name, tensor)
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device} as the input is, "
            f"got {tensor.dtype} on {tensor.device}"
        )


def check_input(x: Tensor, dims: int, axes: str) -> None:
    """Refuse what is not a tensor of (real or complex) numbers with these axes, none of them empty."""
    check_tensor("x", x)
    if x.dim() != dims or not (x.is_floating_point() or x.is_complex()):
        raise ValueError(f"x must be a floating-point {axes}, got {x.dtype} {list(x.shape)}")
    if 0 in x.shape:
        raise ValueError(f"x must not be empty, got {list(x.shape)} for {axes}")
