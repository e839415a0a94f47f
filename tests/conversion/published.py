"""Models as people publish them, written from their descriptions, in small."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class WordModel(nn.Module):
    """PyTorch's word-level language model: one nn.Dropout before and behind the LSTM, weights may be tied."""

    def __init__(self, words: int = 30, units: int = 8, layers: int = 2, p: float = 0.5, tied: bool = False):
        super().__init__()
        self.drop = nn.Dropout(p)
        self.encoder = nn.Embedding(words, units)
        self.rnn = nn.LSTM(units, units, layers, dropout=p)
        self.decoder = nn.Linear(units, words)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor, hidden: tuple[Tensor, Tensor] | None = None):
        output, hidden = self.rnn(self.drop(self.encoder(ids)), hidden)
        decoded = self.decoder(self.drop(output))
        return torch.log_softmax(decoded.view(-1, decoded.shape[-1]), dim=1), hidden


class LockedDropout(nn.Module):
    """One mask for all steps of a sequence."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.dropout(torch.ones_like(x[:1]), self.p, self.training)


class WeightDrop(nn.Module):
    """DropConnect on recurrent weights: the layer's own weight becomes a result of autograd."""

    def __init__(self, layer: nn.LSTM, p: float):
        super().__init__()
        self.layer, self.p = layer, p
        self.raw = layer.weight_hh_l0
        del layer._parameters["weight_hh_l0"]
        self._set()

    def _set(self) -> None:
        dropped = nn.functional.dropout(self.raw, self.p, self.training)
        self.layer.weight_hh_l0 = dropped.view_as(dropped)  # in eval that would be the parameter itself

    def forward(self, *args):
        self._set()
        return self.layer(*args)


class AWDModel(nn.Module):
    """As AWD-LSTM: three LSTMs of other sizes, variational dropout in between, tied weights."""

    def __init__(self, weight_drop: bool, words: int = 30, embedded: int = 6, units: int = 10):
        super().__init__()
        self.encoder = nn.Embedding(words, embedded)
        sizes = [embedded, units, units, embedded]
        rnns = [nn.LSTM(a, b) for a, b in pairwise(sizes)]
        self.rnns = nn.ModuleList(WeightDrop(rnn, 0.5) if weight_drop else rnn for rnn in rnns)
        self.locked = LockedDropout(0.3)
        self.decoder = nn.Linear(embedded, words)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor):
        x = self.encoder(ids)
        for rnn in self.rnns:
            x, _ = rnn(self.locked(x))
        return self.decoder(self.locked(x))


class Tagger(nn.Module):
    """A bidirectional tagger of padded sentences in any order of lengths."""

    def __init__(
        self, kind: type[nn.RNNBase], batch_first: bool, words: int = 30, units: int = 8, tags: int = 5
    ):
        super().__init__()
        self.embedding = nn.Embedding(words, units, padding_idx=0)
        self.dropout = nn.Dropout(0.4)
        self.rnn = kind(units, units, num_layers=2, dropout=0.3, batch_first=batch_first, bidirectional=True)
        self.classifier = nn.Linear(2 * units, tags)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.dropout(self.embedding(ids))
        packed = pack_padded_sequence(x, lengths, self.rnn.batch_first, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], self.rnn.batch_first)
        return self.classifier(self.dropout(y))


class Decoder(nn.Module):
    """Luong's attention decoder: the attended state is fed to the next step's input."""

    def __init__(self, words: int = 30, units: int = 8):
        super().__init__()
        self.units = units
        self.embedding = nn.Embedding(words, units)
        self.embedding_drop = nn.Dropout(0.3)
        self.lower = nn.LSTMCell(2 * units, units)
        self.between = nn.Dropout(0.3)
        self.upper = nn.LSTMCell(units, units)
        self.attend = nn.Linear(2 * units, units, bias=False)
        self.output_drop = nn.Dropout(0.3)
        self.output = nn.Linear(units, words)

    def forward(self, ids: Tensor, memory: Tensor) -> Tensor:
        """ids ``[time, batch]``, memory ``[source, batch, units]``."""
        feed = memory.new_zeros(ids.shape[1], self.units)
        lower = upper = (feed, feed)
        logits = []
        for x in self.embedding_drop(self.embedding(ids)):
            lower = self.lower(torch.cat((x, feed), 1), lower)
            upper = self.upper(self.between(lower[0]), upper)
            weights = torch.einsum("sbu,bu->sb", memory, upper[0]).softmax(0)
            context = torch.einsum("sb,sbu->bu", weights, memory)
            feed = torch.tanh(self.attend(torch.cat((context, upper[0]), 1)))
            logits.append(self.output(self.output_drop(feed)))
        return torch.stack(logits)
