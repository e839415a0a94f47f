"""`strop demo`: a small language model with three kinds of dropout, side by side, within minutes."""

from typing import TYPE_CHECKING

from strop.lazy import lazily

if TYPE_CHECKING:
    from strop.demo.command import run
    from strop.demo.options import Options

__all__ = ["Options", "run"]

__getattr__ = lazily(__name__, {"strop.demo.command": ("run",), "strop.demo.options": ("Options",)})
