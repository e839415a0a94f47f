"""One training step: forward, backward, and an update within the limit on the gradients' norm."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from strop.training.gradients import clipped_step, gradient_norm
from strop.training.task import Task


class Made(NamedTuple):
    """What a step leaves behind.

    Attributes:
        judged: float64 [2]: the loss per item, and the norm of the gradients.
        items: how many the batch had.
        carry: what the next step needs.
    """

    judged: Tensor
    items: int
    carry: Any


def _ignore(_: Any) -> None:
    pass


class Step:
    """Steps of `task` with `model`, which is the task's or a data-parallel wrapper of it.

    Args:
        clip: the limit; None for none.
        bf16: take the loss under autocast to bfloat16.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        clip: float | None = None,
        bf16: bool = False,
    ) -> None:
        self._task, self._model, self._parameters, self._clip = task, model, parameters, clip
        self._device, self._bf16 = parameters[0].device.type, bf16

    def __call__(
        self,
        batch: Any,
        carry: Any,
        lap: Callable[[str], None] = _ignore,
        judge: Callable[[Made], None] = _ignore,
    ) -> Made:
        """One step on a batch. `lap` is told of every phase's end; `judge` may raise before the update."""
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
            outcome = self._task.loss(self._model, batch, carry)
        lap("forward")
        self._task.optimizer.zero_grad()
        outcome.loss.backward()
        lap("backward")
        norm = gradient_norm(self._parameters)
        made = Made(torch.stack([outcome.mean, norm]).double(), outcome.items, outcome.carry)
        judge(made)
        clipped_step(self._task.optimizer, self._parameters, norm, self._clip)
        lap("optimiser")
        return made
