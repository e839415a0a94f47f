"""What a task gives to the training loop."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from strop.training.schedule import Schedule


@dataclass(frozen=True)
class Outcome:
    """What a task makes of one batch.

    Attributes:
        loss: scalar to be minimised; its gradients are averaged over processes.
        mean: scalar, detached: the loss per item, for reports.
        items: words, or whatever the task counts.
        carry: what the next batch needs of this one (tensors in dicts, lists, tuples), e.g. hidden state.
    """

    loss: Tensor
    mean: Tensor
    items: int
    carry: Any = None


class Task(Protocol):
    """What the loop needs of a task.

    Attributes:
        model, optimizer: on the device where training happens.
        schedule: factor on the optimiser's rates by epoch and step.
        steps_per_epoch: batches in every epoch.
        identity: JSON that tells this run from others, `data` a checksum of what it is trained on; a run
            resumes under the same identity only.
        generators: the task's own random generators by name, beside the global ones.
        metric, goal: the validation metric that picks the best weights, and which way is better.
        items: what `Outcome.items` counts, in the plural.
        capturable: whether most batches have one shape, and `loss` and the optimiser neither wait for the
            device nor depend on what the host knows: on a GPU their work can then be a CUDA graph.
    """

    # Properties, so that a task may declare its attributes by narrower types.
    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def generators(self) -> Mapping[str, torch.Generator]: ...
    @property
    def metric(self) -> str: ...
    @property
    def goal(self) -> Literal["min", "max"]: ...
    @property
    def items(self) -> str: ...
    @property
    def capturable(self) -> bool: ...

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The epoch's batches from number `start` on, the same at every call."""
        ...

    def first_carry(self) -> Any:
        """The carry that an epoch begins with."""
        ...

    def loss(self, model: nn.Module, batch: Any, carry: Any) -> Outcome:
        """One batch through `model`, which is `self.model` or a data-parallel wrapper of it."""
        ...

    def summary(self, mean: float) -> dict[str, float]:
        """A mean training loss as the user wants to read it."""
        ...

    def evaluate(self, split: Literal["valid", "test"]) -> dict[str, float]:
        """Metrics of `self.model` on a split; the same names at every call."""
        ...
