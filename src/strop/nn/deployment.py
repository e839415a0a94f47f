"""Tools of torch's that know layers by their very class: scripting is refused, quantisation gets torch's."""

from __future__ import annotations

from functools import wraps
from importlib import import_module
from typing import Any, NoReturn

from torch import nn


class Unscripted:
    """A layer that ``torch.jit.script`` cannot compile."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"strop.{type(self).__name__} cannot be scripted: call strop.revert(model) first, which makes "
            "torch's layers of strop's, with the same weights; torch.jit.trace and torch.export take a model "
            "in evaluation as it is"
        )


def revert_before_quantisation(*kinds: type[nn.Module]) -> None:
    """Has ``torch.ao.quantization`` (``quantize_dynamic``, ``prepare``) see torch's layers in place of these.

    It would leave strop's in full precision without a word. It works on a copy of the model, unless asked
    otherwise, so the model itself keeps strop's layers. Where torch has changed so much that there is no such
    function, nothing is done.
    """
    # By its full name: torch.ao.quantization has a function of the module's name.
    tool: Any = import_module("torch.ao.quantization.quantize")
    original = getattr(tool, "propagate_qconfig_", None)
    if original is None:
        return

    @wraps(original)
    def propagate_qconfig_(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(layer, kinds) for layer in module.modules()):
            from strop.conversion import revert

            revert(module)
        return original(module, *args, **kwargs)

    tool.propagate_qconfig_ = propagate_qconfig_
