"""A linear-chain conditional random field: exact inference over whole tag sequences, in log space.

The score of tags y for a sentence of T words is

    start[y₁] + Σₜ emissions[t, yₜ] + Σₜ transitions[yₜ, yₜ₊₁] + stop[y_T]

and their probability is its exponential over the sum of those of all sequences (Lafferty et al. 2001).
Emissions are `[time, batch, tags]`; `lengths` `[batch]` says how many steps of each sentence count, at
least one, and what lies behind them is never looked at.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class CRF(nn.Module):
    """The scores of neighbouring tags, learned, and inference with them.

    Parameters start at zero: at first tags depend on their words alone.

    Attributes:
        transitions: `[tags, tags]`: from the row's tag to the column's.
        start, stop: `[tags]`: of the first tag, of the last.
    """

    def __init__(self, tags: int) -> None:
        super().__init__()
        if tags < 1:
            raise ValueError(f"tags: {tags}; at least 1 is needed")
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.stop = nn.Parameter(torch.zeros(tags))

    def forward(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Log-probability of `tags` `[time, batch]` for each sentence: `[batch]`."""
        return self.score(emissions, tags, lengths) - self.log_partition(emissions, lengths)

    def score(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Score of `tags` `[time, batch]` for each sentence: `[batch]`."""
        self._check(emissions, lengths)
        if tags.shape != emissions.shape[:2]:
            raise ValueError(f"tags: shape {list(tags.shape)}; {list(emissions.shape[:2])} is needed")
        inside = _inside(emissions, lengths)
        unary = emissions.gather(2, tags.unsqueeze(2)).squeeze(2).masked_fill(~inside, 0).sum(0)
        moves = tags[:-1] * len(self.start) + tags[1:]
        pairs = functional.embedding(moves, self.transitions.view(-1, 1)).squeeze(2)
        pairs = pairs.masked_fill(~inside[1:], 0).sum(0)
        last = tags.gather(0, lengths.unsqueeze(0) - 1).squeeze(0)
        return unary + pairs + self.start[tags[0]] + self.stop[last]

    def log_partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Logarithm of the summed exponentials of all sequences' scores: `[batch]`."""
        self._check(emissions, lengths)
        z: Tensor = _LogPartition.apply(emissions, self.transitions, self.start, self.stop, lengths)  # pyright: ignore[reportAssignmentType]
        return z

    @torch.no_grad()
    def marginals(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Probability of each tag at each word: `[time, batch, tags]`, zero behind a sentence's end."""
        self._check(emissions, lengths)
        alpha, beta, z = _recursions(emissions, self.transitions, self.start, self.stop, lengths)
        return _unary(emissions, alpha, beta, z, _inside(emissions, lengths))

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """The most probable sequence (Viterbi): int64 `[time, batch]`, -1 behind a sentence's end."""
        self._check(emissions, lengths)
        steps = len(emissions)
        inside = _inside(emissions, lengths)
        best = self.start + emissions[0]
        stay = torch.arange(best.shape[1], device=best.device).expand_as(best)
        pointers: list[Tensor] = []
        for t in range(1, steps):
            value, source = (best.unsqueeze(2) + self.transitions).max(1)
            going = inside[t].unsqueeze(1)
            best = torch.where(going, value + emissions[t], best)
            pointers.append(torch.where(going, source, stay))
        path = [(best + self.stop).argmax(1)]
        for pointer in reversed(pointers):
            path.append(pointer.gather(1, path[-1].unsqueeze(1)).squeeze(1))
        return torch.stack(path[::-1]).masked_fill(~inside, -1)

    def _check(self, emissions: Tensor, lengths: Tensor) -> None:
        count = len(self.start)
        if emissions.dim() != 3 or emissions.shape[2] != count:
            raise ValueError(
                f"emissions: shape {list(emissions.shape)}; [time, batch, {count}] is needed, one a tag"
            )
        steps, batch, _ = emissions.shape
        if lengths.shape != (batch,):
            raise ValueError(f"lengths: shape {list(lengths.shape)}; [{batch}] is needed, one a sentence")
        if batch and (int(lengths.min()) < 1 or int(lengths.max()) > steps):
            raise ValueError(f"lengths: {lengths.tolist()}; each must be in [1, {steps}]")


class _LogPartition(torch.autograd.Function):
    """log Z, whose gradients are the marginals: one loop does both recursions, none is unrolled backward."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, stop: Tensor, lengths: Tensor
    ) -> Tensor:
        alpha, beta, z = _recursions(emissions, transitions, start, stop, lengths)
        ctx.save_for_backward(emissions, transitions, lengths, alpha, beta, z)
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        emissions, transitions, lengths, alpha, beta, z = ctx.saved_tensors
        inside = _inside(emissions, lengths)
        unary = _unary(emissions, alpha, beta, z, inside) * grad.unsqueeze(1)
        last = unary.gather(0, (lengths - 1).view(1, -1, 1).expand(1, *unary.shape[1:])).squeeze(0)
        # [time - 1, batch, from, to]: probability of each pair of neighbours.
        before, after = alpha + emissions, emissions + beta - z.unsqueeze(1)
        pairs = before[:-1].unsqueeze(3) + transitions + after[1:].unsqueeze(2)
        pairs = pairs.exp().masked_fill(~inside[1:, :, None, None], 0)
        moves = (pairs.sum(0) * grad.view(-1, 1, 1)).sum(0)
        return unary, moves, unary[0].sum(0), last.sum(0), None


def _recursions(
    emissions: Tensor, transitions: Tensor, start: Tensor, stop: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and backward scores `[time, batch, tags]`, and log Z `[batch]`.

    `alpha[t, b, j]` sums up all that may come before tag j at word t, `beta[t, b, i]` all that may come after
    tag i; neither counts the word's own emission. So both obey the same recursion, beta over the steps in
    reverse with the transitions transposed, and one loop carries both, `[2, batch, tags]`.
    """
    steps, batch, tags = emissions.shape
    inside = _inside(emissions, lengths)
    matrices = torch.stack([transitions, transitions.t()]).unsqueeze(1)  # [2, 1, from, to]
    # [steps, 2, batch, tags]: the emissions of the word that a step leaves.
    left = torch.stack([emissions, emissions.flip(0)], 1)
    # A sentence's alpha stops at its last word; its beta begins at the batch's end and waits until there.
    going = torch.stack([inside[1:], inside.flip(0)[:-1]], 1).unsqueeze(3)
    state = torch.stack([start.expand(batch, tags), stop.expand(batch, tags)])
    states = [state]
    for t in range(steps - 1):
        moved = torch.logsumexp((state + left[t]).unsqueeze(3) + matrices, 2)
        state = torch.where(going[t], moved, state)
        states.append(state)
    alpha, beta = torch.stack(states).unbind(1)
    beta = beta.flip(0)
    return alpha, beta, torch.logsumexp(start + emissions[0] + beta[0], 1)


def _unary(emissions: Tensor, alpha: Tensor, beta: Tensor, z: Tensor, inside: Tensor) -> Tensor:
    """Probability of each tag at each word, zero behind a sentence's end."""
    return (alpha + emissions + beta - z.unsqueeze(1)).exp().masked_fill(~inside.unsqueeze(2), 0)


def _inside(emissions: Tensor, lengths: Tensor) -> Tensor:
    """bool `[time, batch]`: True up to each sentence's end."""
    return torch.arange(len(emissions), device=emissions.device).unsqueeze(1) < lengths
