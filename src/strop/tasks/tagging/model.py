"""BiLSTM-CNN-CRF (Ma and Hovy 2016) with three kinds of dropout."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

import strop
from strop.tasks.baseline import run_lstm
from strop.tasks.tagging.crf import CRF
from strop.tasks.tagging.encoding import Batch, Vocabularies
from strop.tasks.tagging.presets import DROPOUTS, Dropout, Preset


class CharacterCNN(nn.Module):
    """A word's spelling as one vector: character embeddings, a convolution over them, the largest of each.

    Words are read as if zeros stood before and behind them; a filter is centred on each character in turn.
    Only characters that are there are computed. With nothing dropped, what a character adds to a filter at
    a place of its window depends on the two alone: it is computed once for each character of the
    vocabulary, and looked up. Forward and backward for a batch of CoNLL-2003, one thread of a busy machine:
    `conv1d` over words padded to the longest 15.1 ms, one matrix product 5.9 ms, looked up 3.5 ms.

    Args:
        characters: size of the vocabulary; id 0 is padding.
        p: share of the embedded characters' elements dropped, each on its own.
    """

    def __init__(self, characters: int, preset: Preset, p: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, preset.char_units, padding_idx=0)
        self.drop = nn.Dropout(p)
        self.convolution = nn.Conv1d(
            preset.char_units, preset.char_filters, preset.char_width, groups=preset.char_groups
        )

    def forward(self, characters: Tensor) -> Tensor:
        """Ids `[words, characters]`, zero behind a word's end, to `[words, filters]`."""
        width = self.convolution.kernel_size[0]
        bias, inside = self.convolution.bias, characters != 0
        assert bias is not None
        around = functional.pad(characters, (width // 2, width // 2))
        if self.training and self.drop.p:
            windows = self.drop(self.embedding(around)).unfold(1, width, 1)[inside]
            filtered = self._products(windows.flatten(1))
        else:
            filtered = self._looked_up(around.unfold(1, width, 1)[inside])
        word = inside.nonzero()[:, :1].expand_as(filtered)
        lowest = filtered.new_full((len(characters), filtered.shape[1]), -math.inf)
        # Not segment_reduce: torch 2.13 counts negative gradients of equal values more than once.
        return lowest.scatter_reduce(0, word, filtered, "amax") + bias

    def _products(self, windows: Tensor) -> Tensor:
        """`[N, char_units · width]` to `[N, filters]`, without the bias."""
        groups = self.convolution.groups
        # Each filter's weights, with zeros for the other groups' channels: [filters, char_units · width].
        own = torch.eye(groups, device=windows.device, dtype=windows.dtype).view(groups, 1, groups, 1)
        weight = self.convolution.weight.view(groups, -1, 1, windows.shape[1] // groups) * own
        return functional.linear(windows, weight.view(-1, windows.shape[1]))

    def _looked_up(self, windows: Tensor) -> Tensor:
        """Ids `[N, width]` to `[N, filters]`, without the bias."""
        width, groups = self.convolution.kernel_size[0], self.convolution.groups
        filters, channels, _ = self.convolution.weight.shape
        embedded = self.embedding.weight.view(-1, groups, channels).transpose(0, 1)
        weight = self.convolution.weight.view(groups, -1, channels, width)
        # [groups, characters, width · filters of a group]
        table = torch.bmm(embedded, weight.permute(0, 2, 3, 1).reshape(groups, channels, -1))
        table = table.view(groups, -1, width, filters // groups).permute(1, 2, 0, 3).reshape(-1, filters)
        # A row for each character and place; row 0 stands for padding at any place and adds nothing.
        rows = windows * width + torch.arange(width, device=windows.device) * (windows != 0)
        return functional.embedding_bag(rows, table, mode="sum", padding_idx=0)


class Tagger(nn.Module):
    """Batches of sentences to the log-probabilities of their tags, or to the most probable tags.

    Args:
        words, characters, tags: sizes of the vocabularies.
        preset: sizes and shares.
        dropout: `nr-random` drops single elements of the characters' and the words' embeddings, as TARGER
            does. `nr-st` moves the dropout from the characters to the LSTM's whole input, the same units
            for all sentences of the batch, anew at each word (Sarma et al. 2021, section 4.3). `nr-rh-st`
            drops hidden states too, in both directions, on their way to the next word. The LSTM's output
            is dropped in the same manner if the preset says so.

    Parameters have the same names and shapes whatever `dropout` is.
    """

    def __init__(self, words: int, characters: int, tags: int, preset: Preset, dropout: Dropout) -> None:
        if dropout not in DROPOUTS:
            raise ValueError(f"dropout: {dropout!r}; it must be one of {', '.join(DROPOUTS)}")
        super().__init__()
        random = dropout == "nr-random"
        self.embedding = nn.Embedding(words, preset.word_units)
        self.spelling = CharacterCNN(characters, preset, preset.p if random else 0.0)
        self.lstm = _lstm(preset, dropout)
        if random:
            self.drop, self.output_drop = nn.Dropout(preset.p), nn.Dropout(preset.output_p)
            self.output = nn.Linear(2 * preset.units, tags)
        else:
            self.drop = self.output_drop = nn.Identity()
            self.output = strop.Linear(2 * preset.units, tags, dropout=preset.output_p)
        self.crf = CRF(tags)

    @classmethod
    def of(cls, vocabularies: Vocabularies, preset: Preset, dropout: Dropout) -> Self:
        """The tagger for these vocabularies."""
        v = vocabularies
        return cls(len(v.words), len(v.characters), len(v.tags), preset, dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Log-probability of each sentence's tags: `[sentences]`."""
        if batch.tags is None:
            raise ValueError("batch.tags: None; decode() needs no tags")
        return self.crf(self.emissions(batch), batch.tags, batch.lengths)

    def decode(self, batch: Batch) -> list[list[int]]:
        """The most probable tags of each sentence."""
        paths = self.crf.decode(self.emissions(batch), batch.lengths).t().tolist()
        return [path[:length] for path, length in zip(paths, batch.lengths.tolist(), strict=True)]

    def emissions(self, batch: Batch) -> Tensor:
        """Scores of the tags at each word, by themselves: `[steps, sentences, tags]`."""
        x = torch.cat([self.drop(self.embedding(batch.words)), self._spellings(batch)], 1)
        y, _ = run_lstm(self.lstm, PackedSequence(x, batch.sizes))
        y, _ = pad_packed_sequence(y)
        return self.output(self.output_drop(y))

    def _spellings(self, batch: Batch) -> Tensor:
        """`[N, filters]`. A word's spelling is computed once, unless each occurrence has its own dropout."""
        if self.training and self.spelling.drop.p:
            return self.spelling(batch.characters[batch.forms])
        return functional.embedding(batch.forms, self.spelling(batch.characters))

    @torch.no_grad()
    def initialise(self, seed: int, vectors: Mapping[int, Sequence[float]] | None = None) -> None:
        """Draws every parameter as Ma and Hovy do: the same for all dropouts and devices.

        Embeddings uniform in ±√(3 / size), matrices in ±√(6 / (rows + columns)), biases zero but the forget
        gates', which are one; the scores of neighbouring tags zero. `vectors` replace embeddings of words.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(self.named_parameters()):
            bound = 0.0
            if "embedding" in name:
                bound = math.sqrt(3 / parameter.shape[1])
            elif parameter.dim() > 1 and not name.startswith("crf."):
                groups = self.spelling.convolution.groups if name.startswith("spelling.") else 1
                bound = math.sqrt(6 / (parameter.shape[0] / groups + parameter[0].numel()))
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            if name.startswith("lstm.bias_ih"):
                drawn.view(4, -1)[1] = 1  # torch's gates are i, f, g, o; the other bias stays zero
            parameter.copy_(drawn)
        self.spelling.embedding.weight[0] = 0
        for word, vector in (vectors or {}).items():
            self.embedding.weight[word] = torch.tensor(vector)


def _lstm(preset: Preset, dropout: Dropout) -> nn.RNNBase:
    """The bidirectional LSTM with what it drops itself."""
    inputs = preset.word_units + preset.char_filters
    if dropout == "nr-random":
        return nn.LSTM(inputs, preset.units, bidirectional=True)
    recurrent = preset.p if dropout == "nr-rh-st" else 0.0
    return strop.LSTM(
        inputs, preset.units, bidirectional=True, input_dropout=preset.p, recurrent_dropout=recurrent
    )
