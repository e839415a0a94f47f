"""Gradient clipping."""

from collections.abc import Sequence

from torch import Tensor, nn


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None) -> Tensor:
    """Scales all gradients so that their common 2-norm is at most `limit`; the norm before, a scalar.

    On a CPU gradients within the limit are left alone: `torch.nn.utils.clip_grad_norm_` multiplies them
    by one, a pass over all of them (66 million parameters, 2 cores: 20.5 ms; the norm alone 9.5 ms).
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if limit is not None and (norm.device.type != "cpu" or norm > limit):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
