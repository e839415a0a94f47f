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
    if keys.device.type != "cpu":
        return smallest_unseen(keys, kept)
    positions, ranked = _ranked(keys)
    # topk is faster than kthvalue.
    last = ranked.topk(kept, 1, largest=False, sorted=False).values.amax(1, keepdim=True)
    return positions.expand_as(keys).masked_select(ranked <= last).view(-1, kept)


def smallest_unseen(keys: Tensor, kept: int) -> Tensor:
    """The same where no values can be looked at: on a device, for which the host would wait, and in vmap."""
    _, ranked = _ranked(keys)
    return ranked.topk(kept, 1, largest=False, sorted=False).indices.sort(1).values.int()


def _ranked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Positions ``[columns]``, and the keys with these in their low bits.

    So no key equals another: exactly ``kept`` lie at or below the kept-th.
    """
    positions = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device)
    return positions, keys.long().bitwise_left_shift_(32).add_(positions)
