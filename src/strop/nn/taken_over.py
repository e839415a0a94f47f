"""A dropout whose work another layer does, and that layer's share of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from strop.nn.deployment import Unscripted
from strop.pattern import Mask


class Source(Unscripted):
    """What a dropout becomes whose work the layers behind it do: it gives its input as it is.

    Its ``p``, ``train()`` and ``eval()`` are obeyed by those layers: whoever schedules the share of a
    dropout, or drops in evaluation to sample, does it as before.
    """

    p: float
    training: bool
    _drawn: Mask | None = None
    shared = False  # whether several layers read what it gives, and drop the same of it

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """The input."""
        if self.shared:
            self._drawn = None
        return input

    def draw(self, steps: int, batch: int, units: int, draw: Callable[[], Mask | None]) -> Mask | None:
        """The mask of a layer's input; one for all layers that read the same output."""
        if not self.shared:
            return draw()
        drawn = self._drawn
        if drawn is None or (drawn.steps, drawn.batch, drawn.units) != (steps, batch, units):
            self._drawn = drawn = draw()
        return drawn

    def __getstate__(self) -> dict[str, Any]:
        """Without the mask of the last call."""
        return {name: value for name, value in vars(self).items() if name != "_drawn"}


class TakenOver(Source, nn.Dropout):
    """An ``nn.Dropout`` whose work the layers behind it do."""


def source_of(layer: nn.Module) -> Any:
    """What says by ``p`` and ``training`` how much of its input a layer drops; None if it does itself.

    Kept in a tuple, since it is no part of the layer.
    """
    return vars(layer).get("_source", (None,))[0]


def get_share(layer: nn.Module, name: str) -> float:
    """The share of its input that a layer drops in training, which it keeps under ``name``."""
    source = source_of(layer)
    return vars(layer)[name] if source is None else source.p


def set_share(layer: nn.Module, name: str, p: float) -> None:
    """Change it."""
    source = source_of(layer)
    if source is None:
        vars(layer)[name] = p
    else:
        source.p = p


def drops_input(layer: nn.Module) -> bool:
    """Whether a layer is to drop of its input now."""
    source = source_of(layer)
    return layer.training if source is None else source.training
