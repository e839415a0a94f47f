"""Choosing the kept units of exact masks, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(keys: Tensor, kept: int) -> Tensor:
    """Positions of the ``kept`` smallest keys of each row, ascending; of equal keys the first ones.

    Args:
        keys: int32 ``[rows, columns]``.
        kept: 1 to ``columns``.

    Returns:
        int32 ``[rows, kept]``.
    """
    positions = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device)
    # With its position in the low bits no key equals another: exactly `kept` lie at or below the kept-th.
    ranked = keys.long().bitwise_left_shift_(32).add_(positions)
    if keys.device.type != "cpu":
        return _without_waiting(ranked, kept)
    # topk is faster than kthvalue.
    last = ranked.topk(kept, 1, largest=False, sorted=False).values.amax(1, keepdim=True)
    return positions.expand_as(keys).masked_select(ranked <= last).view(-1, kept)


def _without_waiting(ranked: Tensor, kept: int) -> Tensor:
    """The same on a device, where the host must not wait to learn how many were selected."""
    return ranked.topk(kept, 1, largest=False, sorted=False).indices.sort(1).values.int()
