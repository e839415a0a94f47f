"""The language model of Zaremba et al. (2014): embedding, LSTM stack, softmax, with dropout in between."""

import torch
from torch import Tensor, nn

import strop
from strop.tasks.baseline import run_lstm
from strop.tasks.language.presets import Dropout, check_dropout

State = tuple[Tensor, Tensor]


class LanguageModel(nn.Module):
    """Word ids `[steps, batch]` and a state to logits `[steps, batch, words]` and the next state; given the
    next words, too, to their mean cross entropy in place of the logits.

    Args:
        words: size of the vocabulary.
        units: size of the embedding and of every LSTM layer.
        layers: LSTM layers.
        p: share of units dropped, in [0, 1): of the embedding, between the layers, before the softmax.
        dropout: `nr-random` drops single elements (torch's own layers); `nr-st` drops units of all rows of
            the batch, anew at each step (strop's layers); `nr-rh-st` drops the hidden state too, on its
            way to the next step.
        tied: the softmax uses the embedding's weights.

    Parameters have the same names and shapes whatever `dropout` is, so a `state_dict` fits all three.
    """

    def __init__(
        self, words: int, units: int, layers: int, p: float, dropout: Dropout, tied: bool = False
    ) -> None:
        check_dropout(dropout)
        super().__init__()
        self.embedding = nn.Embedding(words, units)
        if dropout == "nr-random":
            self.lstm = nn.LSTM(units, units, layers, dropout=p if layers > 1 else 0.0)
            self.output = nn.Linear(units, words)
            self.drop = nn.Dropout(p)
        else:
            recurrent = p if dropout == "nr-rh-st" else 0.0
            self.lstm = strop.LSTM(
                units, units, layers, dropout=p, input_dropout=p, recurrent_dropout=recurrent
            )
            self.output = strop.Linear(units, words, dropout=p)
            self.drop = nn.Identity()
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, x: Tensor, state: State, target: Tensor | None = None) -> tuple[Tensor, State]:
        y, state = run_lstm(self.lstm, self.drop(self.embedding(x)), state)
        y = self.drop(y)
        if target is None:
            return self.output(y), state
        if isinstance(self.output, strop.Linear):
            return self.output.cross_entropy(y, target), state
        return nn.functional.cross_entropy(self.output(y).flatten(0, 1), target.flatten()), state

    def first_state(self, batch: int) -> State:
        """h and c of zeros, `[layers, batch, units]` each."""
        weight = self.embedding.weight
        zeros = weight.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return zeros, zeros.clone()

    @torch.no_grad()
    def initialise(self, bound: float, seed: int) -> None:
        """Draws every parameter uniformly from [-bound, bound]: the same for all dropouts and devices."""
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in sorted(self.named_parameters()):
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
