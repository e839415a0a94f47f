"""SGD that turns to averaging when validation stops improving."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NtAsgd(torch.optim.SGD):
    """Non-monotonically triggered averaged SGD (Merity et al. 2017, Algorithm 1).

    Plain SGD until a validation is worse than the best of all but the last `trigger` ones; from then on
    the mean of the weights after every step is kept beside them, and is what `averaged` puts in their
    place. Everything is part of the `state_dict`.

    torch's own SGD with an average, not `torch.optim.ASGD`: no other optimiser takes over in the middle of
    a run, and a rate set for a step holds for that step (ASGD's holds from the next one on).

    Args:
        parameters: to be trained.
        lr, weight_decay: as `torch.optim.SGD`.
        trigger: validations that may pass without a better one.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, trigger: int, weight_decay: float = 0.0
    ) -> None:
        if trigger < 1:
            raise ValueError(f"trigger: {trigger}; at least 1 is needed")
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._trigger = trigger
        for group in self.param_groups:
            group["observed"] = []  # validations before the trigger
            group["steps_averaged"] = None  # None before the trigger

    @property
    def averaging(self) -> bool:
        return self.param_groups[0]["steps_averaged"] is not None

    def observe(self, loss: float) -> None:
        """Takes note of a validation, lower being better, and triggers if there is reason to."""
        if self.averaging:
            return
        observed = self.param_groups[0]["observed"]
        # As in Merity et al.'s program: judged against what was known `trigger` validations ago.
        if len(observed) > self._trigger and loss > min(observed[: -self._trigger]):
            for group in self.param_groups:
                group["steps_averaged"] = 0
        observed.append(loss)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            if group["steps_averaged"] is not None:
                group["steps_averaged"] += 1
                for parameter in group["params"]:
                    self._include(parameter, group["steps_averaged"])
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters hold their averages meanwhile, if there are any."""
        held = [
            (parameter, state["average"]) for parameter, state in self.state.items() if "average" in state
        ]
        own = [parameter.detach().clone() for parameter, _ in held]
        try:
            _fill(held)
            yield
        finally:
            _fill(zip((parameter for parameter, _ in held), own, strict=True))

    def _include(self, parameter: Tensor, count: int) -> None:
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = parameter.detach().clone()
        else:
            state["average"].lerp_(parameter, 1 / count)


@torch.no_grad()
def _fill(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for parameter, value in pairs:
        parameter.copy_(value)
