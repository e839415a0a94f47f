"""Structured dropout that makes recurrent networks train faster."""

from strop import functional
from strop.nn import LSTM, Linear, Masks
from strop.ops.memory import empty_cache
from strop.pattern import Mask, Pattern

__all__ = ["LSTM", "Linear", "Mask", "Masks", "Pattern", "empty_cache", "functional"]
