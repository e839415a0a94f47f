"""Layers with structured dropout."""

from strop.nn.linear import Linear
from strop.nn.rnn import LSTM, Masks

__all__ = ["LSTM", "Linear", "Masks"]
