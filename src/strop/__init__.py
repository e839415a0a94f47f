"""Structured dropout that makes recurrent networks train faster."""

from strop import functional
from strop.conversion import convert, revert
from strop.nn import GRU, LSTM, RNN, Dropout, GRUCell, Linear, LSTMCell, Masks, RNNCell
from strop.ops.memory import empty_cache
from strop.pattern import Mask, Pattern

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
    "convert",
    "empty_cache",
    "functional",
    "revert",
]
