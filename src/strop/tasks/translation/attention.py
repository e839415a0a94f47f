"""Global attention with the general score of Luong et al. (2015), §3.1."""

from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """The source as the attention sees it.

    Attributes:
        keys: `[B, S, H]`: the encoder's outputs through the score's weights.
        values: `[B, S, H]`: the encoder's outputs.
        padding: bool `[B, S]`: True behind a sentence's end.
    """

    keys: Tensor
    values: Tensor
    padding: Tensor

    def rows(self, index: Tensor) -> "Memory":
        """The memory of these sentences of the batch."""
        return Memory(*(tensor[index] for tensor in self))


def attend(query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """The context `[B, H]` of a query `[B, H]`, and its weights `[B, S]`, zero on padding."""
    scores = torch.bmm(memory.keys, query.unsqueeze(2)).squeeze(2)
    weights = scores.masked_fill(memory.padding, -torch.inf).softmax(1)
    return torch.bmm(weights.unsqueeze(1), memory.values).squeeze(1), weights


def attend_backward(dcontext: Tensor, weights: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """Gradients of the query `[B, H]` and of the scores `[B, S]` from that of the context."""
    dweights = torch.bmm(memory.values, dcontext.unsqueeze(2)).squeeze(2)
    dscores = weights * (dweights - (weights * dweights).sum(1, keepdim=True))
    return torch.bmm(dscores.unsqueeze(1), memory.keys).squeeze(1), dscores
