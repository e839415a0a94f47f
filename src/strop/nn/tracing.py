"""Recurrent layers under ``torch.compile``, which stops at every ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

_BUILDER = "torch._dynamo.variables.builder"

_admitted: set[type[nn.Module]] = set()


def admit(cls: type[nn.Module]) -> None:
    """Let ``torch.compile`` trace a class of layers although its members are torch's recurrent layers, too.

    The compiler stops at any of those, but for ``torch._dynamo.config.allow_rnn``, which would change what
    becomes of the layers of others; here it is set while one of ours is looked at. Where the compiler has
    changed so much that there is no such place, the graph breaks at our layers as at torch's.
    """
    _admitted.add(cls)
    if _BUILDER in sys.modules:
        _patch(sys.modules[_BUILDER])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        # Not now: it takes seconds, and most programs compile nothing.
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(MetaPathFinder):
    """Changes the compiler once it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def and_patch(module: ModuleType) -> None:
                execute(module)
                _patch(module)

            spec.loader.exec_module = and_patch
        return spec


def _patch(module: Any) -> None:
    builder: Any = getattr(module, "VariableBuilder", None)
    config: Any = getattr(module, "config", None)
    original = getattr(builder, "wrap_module", None)
    if original is None or not hasattr(config, "allow_rnn") or hasattr(original, "_strop"):
        return

    def wrap_module(self: Any, value: nn.Module) -> Any:
        if not isinstance(value, tuple(_admitted)):
            return original(self, value)
        with config.patch(allow_rnn=True):
            return original(self, value)

    wrap_module._strop = True  # pyright: ignore[reportFunctionMemberAccess]
    builder.wrap_module = wrap_module
