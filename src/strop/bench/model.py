"""The language model of Zaremba et al. (2014) on torch and on strop, for timing whole training steps."""

from torch import Tensor, nn

import strop
from strop.bench.presets import Impl, TrainPreset

State = tuple[Tensor, Tensor]


class LanguageModel(nn.Module):
    """Embedding, LSTM stack and softmax projection, with dropout before every layer.

    On torch as a good user writes it: `nn.LSTM` with its own dropout, `nn.Dropout` around it, `nn.Linear`.
    """

    def __init__(self, preset: TrainPreset, impl: Impl) -> None:
        super().__init__()
        (layers,) = preset.layers.stack
        nr, rh = preset.layers.dropout(impl)
        self.embedding = nn.Embedding(preset.words, layers.input)
        if impl == "torch":
            self.dropout = nn.Dropout(preset.layers.nr)
            self.lstm = nn.LSTM(layers.input, layers.hidden, layers.count, dropout=preset.layers.nr)
            self.decoder = nn.Linear(layers.hidden, preset.words)
        else:
            self.dropout = nn.Identity()
            self.lstm = strop.LSTM(
                layers.input,
                layers.hidden,
                layers.count,
                dropout=nr,
                input_dropout=nr,
                recurrent_dropout=rh,
            )
            self.decoder = strop.Linear(layers.hidden, preset.words, dropout=nr)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -preset.init, preset.init)

    def forward(self, words: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, after = self.lstm(self.dropout(self.embedding(words)), state)
        return self.decoder(self.dropout(y)), after
