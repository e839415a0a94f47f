"""Structured dropout that makes recurrent networks train faster.

A name is imported when it is first used, so that `strop --help` need not wait for PyTorch.
"""

from typing import TYPE_CHECKING

from strop.lazy import lazily

if TYPE_CHECKING:
    from strop import backends, functional
    from strop.conversion import convert, revert
    from strop.nn import GRU, LSTM, RNN, Dropout, GRUCell, Linear, LSTMCell, Masks, RNNCell
    from strop.ops.memory import empty_cache
    from strop.pattern import Mask, Pattern
    from strop.version import __version__ as __version__

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "Mask",
    "Masks",
    "Pattern",
    "RNNCell",
    "backends",
    "convert",
    "empty_cache",
    "functional",
    "revert",
]
__getattr__ = lazily(
    __name__,
    {
        "strop.conversion": ("convert", "revert"),
        "strop.nn": ("GRU", "LSTM", "RNN", "Dropout", "GRUCell", "LSTMCell", "Linear", "Masks", "RNNCell"),
        "strop.ops.memory": ("empty_cache",),
        "strop.pattern": ("Mask", "Pattern"),
        "strop.version": ("__version__",),
    },
    modules=("backends", "conversion", "functional", "nn", "ops", "pattern"),
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
