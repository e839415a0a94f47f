"""Running the LSTM of a recipe's model, which is torch's own in the baseline."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from strop.functional.autograd import autocast_dtype, without_autocast
from strop.functional.trial import runs_under_autocast


def run_lstm(lstm: nn.Module, x: Any, state: Any = None, parameters: dict[str, Tensor] | None = None) -> Any:
    """``lstm(x, state)``, torch's in the dtype of its weights where it cannot run under autocast.

    In bfloat16 that is so on CPUs without instructions for it. strop's layers see to that themselves.

    Args:
        lstm: ``torch.nn.LSTM`` or ``strop.LSTM``.
        x: its input.
        state: h and c, or None for zeros.
        parameters: what takes the place of its own, by name.
    """
    weight: Tensor = lstm.weight_ih_l0  # pyright: ignore[reportAssignmentType]
    if type(lstm) is nn.LSTM and weight.is_cpu and not _runs(lstm, autocast_dtype(weight)):
        state = None if state is None else tuple(each.to(weight.dtype) for each in state)
        with without_autocast(weight):
            return functional_call(lstm, parameters or {}, (x.to(weight.dtype), state))
    return functional_call(lstm, parameters, (x, state)) if parameters else lstm(x, state)


def _runs(lstm: nn.LSTM, autocast: torch.dtype | None) -> bool:
    weights, gradients = len(lstm.all_weights[0]), torch.is_grad_enabled()
    return autocast is None or runs_under_autocast("LSTM", weights, "cpu", autocast, gradients)
