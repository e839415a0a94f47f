"""Structured dropout that makes recurrent networks train faster."""

from strop import functional
from strop.nn import LSTM, Linear, Masks
from strop.pattern import Mask, Pattern

__all__ = ["LSTM", "Linear", "Mask", "Masks", "Pattern", "functional"]
