"""The three products of training on kept columns, in plain PyTorch: any dtype and device.

This is the reference that the other backends are measured against, and what runs where they cannot.
Names follow Sarma et al. (NeurIPS 2021, §3.2): forward (FP), input gradient (BP), weight gradient (WG).
Shapes: x ``[T, B, K]``, weight ``[N, K]``, y ``[T, B, N]``. Only the kept columns of x and of the weight
take part at each step, whatever stands in the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Keep(NamedTuple):
    """The columns that take part in a product, per step.

    Attributes:
        index: int32 ``[T, width]``, contiguous, ascending within each row's first ``count`` entries.
        count: int32 ``[T]``, or None if every row is full.
        scale: what kept columns are multiplied by.
    """

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    count: Tensor | None  # pyright: ignore[reportIncompatibleMethodOverride]
    scale: float


def check_keep(keep: Keep, steps: int, columns: int) -> None:
    """Refuse index lists that do not fit ``steps`` steps of ``columns`` columns.

    Raises:
        TypeError: index or count is not int32.
        ValueError: a shape is wrong, a count exceeds the width, an entry is out of range or out of order.
    """
    index, count, _ = keep
    if index.dtype != torch.int32:
        raise TypeError(f"keep.index must be int32, got {index.dtype}")
    if index.dim() != 2 or index.shape[0] != steps or index.shape[1] > columns:
        raise ValueError(
            f"keep.index must be [{steps}, at most {columns}] for {steps} steps of {columns} columns, "
            f"got {list(index.shape)}"
        )
    if index.is_meta:  # there are shapes alone
        return
    used = index
    if count is not None:
        if count.dtype != torch.int32:
            raise TypeError(f"keep.count must be int32, got {count.dtype}")
        if count.shape != (steps,):
            raise ValueError(f"keep.count must be [{steps}] for {steps} steps, got {list(count.shape)}")
        if bool(((count < 0) | (count > index.shape[1])).any()):
            raise ValueError(
                f"keep.count must be between 0 and the width of keep.index, {index.shape[1]}, "
                f"got {count.min()} to {count.max()}"
            )
        padding = torch.arange(index.shape[1], device=index.device) >= count.unsqueeze(1)
        if bool((index[padding] != columns).any()):
            raise ValueError(f"keep.index must hold {columns}, the number of columns, beyond keep.count")
        used = index[~padding]
    if used.numel() and bool(((used < 0) | (used >= columns)).any()):
        raise ValueError(f"keep.index must be in [0, {columns}), got {used.min()} to {used.max()}")
    falls = index[:, 1:] <= index[:, :-1]
    if count is not None:
        falls &= index[:, 1:] != columns
    if bool(falls.any()):
        raise ValueError("keep.index must be strictly ascending within each step")


def dropped(keep: Keep, steps: int, columns: int) -> Tensor:
    """True in the columns that do not take part: bool ``[T, 1, columns]``.

    Raises:
        TypeError, ValueError: as ``check_keep``.
    """
    check_keep(keep, steps, columns)
    mask = torch.ones(steps, columns + 1, dtype=torch.bool, device=keep.index.device)
    mask.scatter_(1, keep.index.long(), False)
    return mask[:, :columns].unsqueeze(1)


def drop(x: Tensor, keep: Keep | None) -> Tensor:
    """x ``[T, B, K]`` with its kept columns scaled and the others zero, even where they are not finite."""
    if keep is None:
        return x
    return (x * keep.scale).masked_fill_(dropped(keep, x.shape[0], x.shape[-1]), 0)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep | None, bf16: bool = False) -> Tensor:
    """FP: ``y[t] = scale * x[t][:, kept] @ weight[:, kept].T + bias``, ``[T, B, N]``."""
    return torch.nn.functional.linear(drop(x, keep), weight, bias)


def input_grad(dy: Tensor, weight: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """BP: ``dx[t][:, kept] = scale * dy[t] @ weight[:, kept]``, ``[T, B, K]``, zero in the other columns."""
    return drop(dy @ weight, keep)


def weight_grad(x: Tensor, dy: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """WG: ``dw[:, kept] += scale * dy[t].T @ x[t][:, kept]`` over all steps, ``[N, K]``."""
    return dy.flatten(0, 1).mT @ drop(x, keep).flatten(0, 1)
