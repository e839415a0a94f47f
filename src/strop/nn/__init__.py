"""Layers with structured dropout."""

from strop.nn.cells import GRUCell, LSTMCell, RNNCell
from strop.nn.deployment import revert_before_quantisation
from strop.nn.dropout import Dropout
from strop.nn.linear import Linear
from strop.nn.masks import Masks
from strop.nn.rnn import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "Dropout", "GRUCell", "LSTMCell", "Linear", "Masks", "RNNCell"]

revert_before_quantisation(LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell, Linear)
