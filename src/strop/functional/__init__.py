"""Structured dropout as functions: where autograd meets the products."""

from strop.functional.cross_entropy import linear_cross_entropy
from strop.functional.linear import linear
from strop.functional.recurrence import gru, lstm, rnn_relu, rnn_tanh

__all__ = ["gru", "linear", "linear_cross_entropy", "lstm", "rnn_relu", "rnn_tanh"]
