"""The torch classes that strop replaces, and what a layer needs to become the other."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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
    """By its very class: a subclass may do anything."""
    return TO_STROP.get(type(layer)) or TO_TORCH.get(type(layer))


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
            return f"a subclass of {base.__name__}, which may do more than {base.__name__} does"
        return f"strop has no {type(layer).__name__}"
    if "forward" in vars(layer):
        return "its forward was replaced"
    plain = [
        name
        for name, value in vars(layer).items()
        if name.startswith(("weight", "bias")) and isinstance(value, Tensor)
    ]
    if plain:
        return f"{plain[0]} is not a parameter (pruning and weight_norm compute it)"
    return None
