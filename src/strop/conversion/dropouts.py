"""Dropouts that layers take over: torch's, and those of other projects."""

from __future__ import annotations

import inspect
from functools import cache
from numbers import Real
from types import new_class
from typing import Any

from torch import Tensor, nn

from strop.nn.taken_over import Source, TakenOver

# What projects call the share of a dropout.
_SHARES = ("p", "dropout", "dropout_rate", "drop_rate", "rate", "prob", "dropout_p", "drop_prob", "p_drop")

_PLAIN, _HELD_BY, _TAKEN_BY = "_strop_plain", "_strop_held_by", "_strop_taken_by"


def may_drop(module: nn.Module) -> bool:
    """Whether a module may be a dropout: by its name, and that it has no parts. What it does, a run shows."""
    if next(module.children(), None) is not None or next(module.parameters(), None) is not None:
        return False
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return False  # of channels, or of another distribution
    return "drop" in type(module).__name__.lower() and not type(module).__module__.startswith("strop.")


def share_of(dropout: nn.Module, attribute: str | None = None) -> float | None:
    """The share that a dropout drops; None if it is an argument of its calls.

    Raises:
        ValueError: the attribute that was named does not hold a number.
    """
    name = _held_by(dropout, attribute)
    return None if name is None else float(getattr(dropout, name))


def _held_by(dropout: nn.Module, attribute: str | None) -> str | None:
    if attribute is not None:
        if not _is_share(getattr(dropout, attribute, None)):
            raise ValueError(f"dropouts: {type(dropout).__name__} has no number in {attribute!r}")
        return attribute
    return next((name for name in _SHARES if _is_share(getattr(dropout, name, None))), None)


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def take_over(dropout: nn.Module, attribute: str | None, by: tuple[str, ...]) -> None:
    """Makes a dropout the source of the shares of layers of these names."""
    held_by = _held_by(dropout, attribute)
    dropout.__class__ = _class_for(type(dropout))
    vars(dropout).update({_TAKEN_BY: by, _HELD_BY: held_by})


def taken_by(source: Any) -> tuple[str, ...]:
    return vars(source)[_TAKEN_BY]


def plain_class(source: Any) -> type[nn.Module]:
    """The class that it had before."""
    return vars(type(source)).get(_PLAIN, nn.Dropout)


def put_back(source: Any) -> None:
    """Undoes ``take_over``."""
    source.__class__ = plain_class(source)
    for name in (_TAKEN_BY, _HELD_BY, "shared", "_drawn", "_given_p"):
        vars(source).pop(name, None)


@cache
def _class_for(cls: type[nn.Module]) -> type[nn.Module]:
    if cls is nn.Dropout:
        return TakenOver
    own = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reduce_ex__": _reduce,
        "forward": _forward(cls),
        "p": property(_get_share, _set_share),
        _PLAIN: cls,
    }
    return new_class(cls.__name__, (Source, cls), exec_body=lambda body: body.update(own))


def _forward(cls: type[nn.Module]) -> Any:
    signature = inspect.signature(cls.forward)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, x, *rest = bound.arguments.values()
        if vars(self)[_HELD_BY] is None:
            vars(self)["_given_p"] = next(filter(_is_share, rest), vars(self).get("_given_p", 0.0))
        return Source.forward(self, x)

    return forward


def _get_share(source: nn.Module) -> float:
    name = vars(source)[_HELD_BY]
    if name is None:
        return vars(source).get("_given_p", 0.0)
    return vars(source)[name]


def _set_share(source: nn.Module, p: float) -> None:
    if _HELD_BY in vars(source):
        vars(source)[vars(source)[_HELD_BY] or "_given_p"] = p
    else:  # its own constructor sets one
        vars(source)["p"] = p


def _reduce(source: nn.Module, protocol: int) -> Any:
    """Its class has no name by which pickle could find it."""
    return _unpickled, (plain_class(source),), source.__getstate__()


def _unpickled(cls: type[nn.Module]) -> nn.Module:
    cls = _class_for(cls)
    return cls.__new__(cls)  # pyright: ignore[reportCallIssue]
