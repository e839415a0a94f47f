"""Packages whose names are imported when they are first used: what needs no PyTorch does not wait for it."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, Iterable[str]], modules: Iterable[str] = ()
) -> Callable[[str], Any]:
    """The `__getattr__` of `package`.

    Args:
        homes: names by the module that defines them.
        modules: submodules that are attributes without being imported first.
    """
    home = {name: module for module, names in homes.items() for name in names}
    submodules = frozenset(modules)

    def get(name: str) -> Any:
        if name in home:
            value = getattr(import_module(home[name]), name)
        elif name in submodules:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return get
