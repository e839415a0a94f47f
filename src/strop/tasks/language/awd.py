"""The language model of Merity et al. (2017), AWD-LSTM, with its dropouts random or structured."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

import strop
from strop.tasks.baseline import run_lstm
from strop.tasks.language.presets import AwdPreset, Dropout, check_dropout

State = tuple[tuple[Tensor, Tensor], ...]


class AwdModel(nn.Module):
    """Word ids `[steps, batch]` and a state to logits `[steps, batch, words]`, the next state and a penalty.

    LSTM layers of different sizes between an embedding and a softmax that share their weights.

    Args:
        words: size of the vocabulary.
        preset: sizes, dropouts and penalties.
        dropout: `nr-random` is the model as published: one mask per row of the batch for all steps of a
            window, and single recurrent weights dropped (torch's layers). `nr-st`: what is dropped of inputs,
            between layers and before the softmax is shared by the batch and drawn anew at each step; the
            recurrent weights are dropped as published. `nr-rh-st`: hidden states on their way to the next
            step in place of recurrent weights, by which the products save work in all directions.

    Parameters have the same names and shapes whatever `dropout` is. The penalty, for training, is that of
    activations (AR) and of their changes over time (TAR) of the last layer; 0 in evaluation.
    """

    def __init__(self, words: int, preset: AwdPreset, dropout: Dropout) -> None:
        check_dropout(dropout)
        super().__init__()
        self._ar, self._tar = preset.ar, preset.tar
        self._word_dropout = preset.word_dropout
        self._weight_dropout = 0.0 if dropout == "nr-rh-st" else preset.recurrent_dropout
        sizes = [preset.embedding, *[preset.units] * (preset.layers - 1), preset.embedding]
        shapes = list(pairwise(sizes))
        drops = [preset.input_dropout, *[preset.layer_dropout] * (preset.layers - 1)]
        self.embedding = nn.Embedding(words, preset.embedding)
        if dropout == "nr-random":
            self.lstms = nn.ModuleList(nn.LSTM(*shape) for shape in shapes)
            self.drops = nn.ModuleList(LockedDropout(p) for p in drops)
            self.output = nn.Linear(preset.embedding, words)
            self.output_drop = LockedDropout(preset.output_dropout)
        else:
            recurrent = preset.recurrent_dropout if dropout == "nr-rh-st" else 0.0
            self.lstms = nn.ModuleList(
                strop.LSTM(*shape, input_dropout=p, recurrent_dropout=recurrent)
                for shape, p in zip(shapes, drops, strict=True)
            )
            self.drops = nn.ModuleList(nn.Identity() for _ in drops)
            self.output = strop.Linear(preset.embedding, words, dropout=preset.output_dropout)
            self.output_drop = None
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        y = self._embed(x)
        after = []
        for lstm, drop, before in zip(self.lstms, self.drops, state, strict=True):
            y, last = self._recur(lstm, drop(y), before)
            after.append(last)
        logits, dropped = self._predict(y)
        return logits, tuple(after), self._penalty(y, dropped)

    def first_state(self, batch: int) -> State:
        """h and c of zeros for each layer, `[1, batch, its units]` each."""
        weight = self.embedding.weight
        sizes: list[int] = [lstm.hidden_size for lstm in self.lstms]  # pyright: ignore[reportAssignmentType]
        return tuple((weight.new_zeros(1, batch, size), weight.new_zeros(1, batch, size)) for size in sizes)

    @torch.no_grad()
    def initialise(self, bound: float, seed: int) -> None:
        """Embeddings uniform in ±`bound`, LSTMs in ±1/√units: the same for all dropouts and devices."""
        generator = torch.Generator().manual_seed(seed)

        def draw(parameter: Tensor, bound: float) -> None:
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

        draw(self.embedding.weight, bound)
        self.output.bias.zero_()
        for lstm in self.lstms:
            for parameter in lstm.parameters():
                draw(parameter, 1 / math.sqrt(lstm.hidden_size))  # pyright: ignore[reportArgumentType]

    def _embed(self, x: Tensor) -> Tensor:
        """Embedded words; a dropped word is dropped wherever it stands in the window."""
        y = self.embedding(x)
        if not self.training or not self._word_dropout:
            return y
        words = y.new_ones(self.embedding.num_embeddings, 1)
        return y * functional.dropout(words, self._word_dropout)[x]

    def _recur(
        self, lstm: nn.Module, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not self.training or not self._weight_dropout:
            return run_lstm(lstm, x, state)
        weight = functional.dropout(lstm.weight_hh_l0, self._weight_dropout)  # pyright: ignore[reportArgumentType]
        return run_lstm(lstm, x, state, {"weight_hh_l0": weight})

    def _predict(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the last layer's output as it was dropped for them."""
        if isinstance(self.output, strop.Linear):
            mask = self.output.draw(*y.shape[:2]) if self.training else None
            return self.output(y, mask), y if mask is None else y * mask.multiplier(y.dtype)
        assert self.output_drop is not None
        dropped = self.output_drop(y)
        return self.output(dropped), dropped

    def _penalty(self, y: Tensor, dropped: Tensor) -> Tensor:
        penalty = y.new_zeros(())
        if self.training:
            if self._ar:
                penalty = penalty + self._ar * dropped.square().mean()
            if self._tar and len(y) > 1:
                penalty = penalty + self._tar * (y[1:] - y[:-1]).square().mean()
        return penalty


class LockedDropout(nn.Module):
    """Drops the same elements of `[steps, batch, units]` at every step (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return x * functional.dropout(x.new_ones(1, *x.shape[1:]), self.p)
