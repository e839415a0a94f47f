"""The torch classes that strop replaces, and what a layer needs to become the other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import new_class
from typing import Any

from torch import nn

import strop.nn


@dataclass(frozen=True)
class Kind:
    """A layer of torch's and strop's instead.

    Attributes:
        torch, strop: the two classes. Whatever else strop's constructor sets, the other does not know.
        arguments: of the constructor, which are attributes of the same names too.
        input_dropout: what strop's class calls the dropout of its input.
    """

    torch: type[nn.Module]
    strop: type[nn.Module]
    arguments: tuple[str, ...]
    input_dropout: str = "input_dropout"

    def strop_twin(self, layer: nn.Module, **dropout: Any) -> nn.Module:
        """strop's layer of the same sizes, without storage; its constructor checks all arguments."""
        return self._twin(self.strop, layer, **dropout)

    def torch_twin(self, layer: nn.Module) -> nn.Module:
        """torch's, likewise."""
        return self._twin(self.torch, layer)

    def _twin(self, cls: type[nn.Module], layer: nn.Module, **dropout: Any) -> nn.Module:
        given = {name: getattr(layer, name) for name in self.arguments} | dropout
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the layer's own constructor has warned already
            return cls(**given, device="meta")


_STACK = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")

KINDS = (
    Kind(nn.LSTM, strop.nn.LSTM, (*_STACK, "proj_size")),
    Kind(nn.GRU, strop.nn.GRU, _STACK),
    Kind(nn.RNN, strop.nn.RNN, (*_STACK, "nonlinearity")),
    Kind(nn.LSTMCell, strop.nn.LSTMCell, _CELL),
    Kind(nn.GRUCell, strop.nn.GRUCell, _CELL),
    Kind(nn.RNNCell, strop.nn.RNNCell, (*_CELL, "nonlinearity")),
    Kind(nn.Linear, strop.nn.Linear, ("in_features", "out_features"), "dropout"),
)
TO_STROP: Mapping[type[nn.Module], Kind] = {kind.torch: kind for kind in KINDS}
TO_TORCH: Mapping[type[nn.Module], Kind] = {kind.strop: kind for kind in KINDS}


def kind_of(layer: nn.Module) -> Kind | None:
    """By its class, or by the one that this adds to without changing how it runs."""
    return _kind_of(type(layer))


@cache
def _kind_of(cls: type[nn.Module]) -> Kind | None:
    for base in cls.__mro__:
        if kind := TO_TORCH.get(base) or TO_STROP.get(base):
            same = all(getattr(cls, name) is getattr(base, name) for name in _RUNNING) and _runs(cls, base)
            return kind if same and (base is kind.torch or _FROM in vars(cls) or base is cls) else None
    return None


# What a subclass leaves as it is if it only adds to a layer.
_RUNNING = ("__call__", "__getattr__")


def _runs(cls: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a subclass runs the forward of a layer, which it may prepare for and follow up by its own."""
    if cls.forward is base.forward:
        return True
    code = getattr(cls.forward, "__code__", None)  # pytorch-forecasting's calls super().forward
    return code is not None and {"super", "forward"} <= {*code.co_names}


# In a class that convert has made: the one that the layer had before.
_FROM = "_strop_from"


@cache
def on_strop(cls: type[nn.Module], kind: Kind) -> type[nn.Module]:
    """A class with strop's layer in the place of torch's.

    Raises:
        TypeError: Python cannot make one.
    """
    if cls is kind.torch:
        return kind.strop
    own = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        _FROM: cls,
        "__reduce_ex__": _reduce,
    }
    return new_class(cls.__name__, (cls, kind.strop), exec_body=lambda body: body.update(own))


def before(layer: nn.Module) -> type[nn.Module] | None:
    """The class that one of strop's layers had before convert, or torch's of its kind; None for others."""
    cls = type(layer)
    return vars(cls).get(_FROM) or (TO_TORCH[cls].torch if cls in TO_TORCH else None)


def is_strops(layer: nn.Module) -> bool:
    return before(layer) is not None


def _reduce(layer: nn.Module, protocol: int) -> Any:
    """Its class has no name by which pickle could find it."""
    return _unpickled, (before(layer),), layer.__getstate__()


def _unpickled(cls: type[nn.Module]) -> nn.Module:
    kind = _kind_of(cls)
    assert kind is not None
    cls = on_strop(cls, kind)
    return cls.__new__(cls)  # pyright: ignore[reportCallIssue]


def is_recurrent(layer: nn.Module) -> bool:
    """A recurrent layer of torch's, of strop's or derived from one."""
    return isinstance(layer, nn.RNNBase | nn.RNNCellBase)


def is_dropout(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd)


def unknown(layer: nn.Module) -> str | None:
    """Why a recurrent layer or an nn.Linear cannot become strop's, whatever strop offers; None if it may."""
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weights are parametrized"
    if kind_of(layer) is None:
        base = next((cls for cls in type(layer).__mro__[1:] if cls in TO_STROP or cls in TO_TORCH), None)
        if base is not None:
            return f"a subclass of {base.__name__} that runs in a way of its own"
        return f"strop has no {type(layer).__name__}"
    if "forward" in vars(layer):
        return "its forward was replaced"
    # Weight drop, pruning and weight_norm compute a weight at each call, some from the first call on.
    for name in _weight_names(layer):
        if layer._parameters.get(name) is None:
            return f"{name} is not a parameter (weight drop, pruning and weight_norm compute it)"
    return None


def _weight_names(layer: nn.Module) -> list[str]:
    """The parameters that it runs with."""
    if isinstance(layer, nn.RNNBase):
        return [name for name in layer._flat_weights_names if name]
    if isinstance(layer, nn.Linear):
        return ["weight"] if layer.bias is None else ["weight", "bias"]
    return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if layer.bias else [])]
