"""The translation model of Luong et al. (2015): LSTM encoder and decoder, attention, input feeding."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

import strop
from strop import functional
from strop.data.parallel import PAD_ID
from strop.pattern import Mask, Pattern
from strop.tasks.baseline import run_lstm
from strop.tasks.language.presets import DROPOUTS, Dropout
from strop.tasks.translation.attention import Memory, attend
from strop.tasks.translation.feeding import DecoderMasks, input_feeding

State = tuple[Tensor, Tensor]


class DecoderState(NamedTuple):
    """What a step of the decoder needs of the one before.

    Attributes:
        h, c: of the LSTM, `[layers, B, H]`.
        fed: the attentional output, `[B, H]`.
    """

    h: Tensor
    c: Tensor
    fed: Tensor

    def rows(self, index: Tensor) -> "DecoderState":
        """The state of these rows of the batch."""
        return DecoderState(self.h[:, index], self.c[:, index], self.fed[index])


@dataclass(frozen=True, eq=False)
class TranslationMasks:
    """The masks of a structured model's pass over a batch, beside those that its encoder draws."""

    memory: Mask | None
    decoder: DecoderMasks


class Encoder(nn.Module):
    """Source ids `[S, B]` and their lengths to outputs `[S, B, H]` and the state at every sentence's end."""

    def __init__(self, words: int, units: int, layers: int, p: float, dropout: Dropout) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, units, padding_idx=PAD_ID)
        between = p if layers > 1 else 0.0
        if dropout == "nr-random":
            self.lstm = nn.LSTM(units, units, layers, dropout=between)
        else:
            recurrent = p if dropout == "nr-rh-st" else 0.0
            self.lstm = strop.LSTM(units, units, layers, dropout=between, recurrent_dropout=recurrent)

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        """`lengths` are on the CPU and descending. Outputs beyond a sentence's end are zero."""
        x = self.embedding(source)
        # Stretches of steps with the same number of sentences in them: batches of like length have 1 or 2.
        # For torch.nn.LSTM this is faster than packing (Multi30k, 512 units: 299 ms of CPU against 367).
        ends = sorted(set(lengths.tolist()))
        outputs: list[Tensor] = []
        finals: list[State] = []
        state: State | None = None
        for start, stop in pairwise([0, *ends]):
            rows = int((lengths >= stop).sum())
            if state is not None:
                h, c = state
                finals.append((h[:, rows:], c[:, rows:]))
                state = h[:, :rows].contiguous(), c[:, :rows].contiguous()
            y, state = run_lstm(self.lstm, x[start:stop, :rows].contiguous(), state)
            outputs.append(nn.functional.pad(y, (0, 0, 0, x.shape[1] - rows)))
        assert state is not None
        finals.append(state)
        h, c = (torch.cat(parts, 1) for parts in zip(*reversed(finals), strict=True))
        return torch.cat(outputs), (h, c)


class Decoder(nn.Module):
    """An LSTM stack that attends to the source and is fed its own attentional output."""

    def __init__(self, words: int, units: int, layers: int, p: float, dropout: Dropout) -> None:
        super().__init__()
        self.structured = dropout != "nr-random"
        self.embedding = nn.Embedding(words, units, padding_idx=PAD_ID)
        # The first layer takes the word and what is fed.
        self.cells = nn.ModuleList(nn.LSTMCell(units if i else 2 * units, units) for i in range(layers))
        self.combine = nn.Linear(2 * units, units, bias=False)
        self.drop = nn.Dropout(0.0 if self.structured else p)

    def forward(
        self, target: Tensor, state: State, memory: Memory, masks: DecoderMasks | None = None
    ) -> Tensor:
        """Attentional outputs `[T, B, H]` of the words `[T, B]`, each word given those before it.

        In a structured model they are not dropped yet: the softmax does it, with `masks.output`.
        """
        inputs = self.embedding(target)
        if self.structured and self.training:
            assert masks is not None
            # weight_ih, weight_hh, bias_ih, bias_hh
            cells = [list(cell.parameters()) for cell in self.cells]
            return input_feeding(inputs, state, memory, cells, self.combine.weight, masks)
        now = self.first_state(state)
        outputs: list[Tensor] = []
        for x in inputs:
            now, _ = self.step(x, now, memory)
            outputs.append(now.fed)
        return torch.stack(outputs)

    def first_state(self, state: State) -> DecoderState:
        """Before the first word, with what the encoder ends in."""
        return DecoderState(*state, torch.zeros_like(state[0][0]))

    def step(self, x: Tensor, state: DecoderState, memory: Memory) -> tuple[DecoderState, Tensor]:
        """One embedded word `[B, E]`: the next state, its `fed` the output; and the attention `[B, S]`."""
        x = torch.cat((x, state.fed), 1)
        hs, cs = [], []
        for layer, cell in enumerate(self.cells):
            h, c = cell(self.drop(x) if layer else x, (state.h[layer], state.c[layer]))
            hs.append(h)
            cs.append(c)
            x = h
        context, weights = attend(x, memory)
        output = self.drop(torch.tanh(self.combine(torch.cat((context, x), 1))))
        return DecoderState(torch.stack(hs), torch.stack(cs), output), weights


class TranslationModel(nn.Module):
    """Source and target words to logits of the target's next words.

    Args:
        source_words, target_words: sizes of the vocabularies.
        units: size of embeddings, LSTM layers and attention.
        layers: LSTM layers of the encoder, and of the decoder.
        p: share of units dropped, in [0, 1).
        dropout: `nr-random`, as OpenNMT-py does it for Luong's model: single elements between the LSTM's
            layers and of the attentional output, torch's own layers. `nr-st`: units of all rows of the
            batch in the same places, anew at each step. `nr-rh-st`: also hidden states on their way to
            the next step, and the final outputs of encoder and decoder, which the attention reads.

    Parameters have the same names and shapes whatever `dropout` is, so a `state_dict` fits all three.
    """

    def __init__(
        self, source_words: int, target_words: int, units: int, layers: int, p: float, dropout: Dropout
    ) -> None:
        if dropout not in DROPOUTS:
            raise ValueError(f"dropout: {dropout!r}; it must be one of {', '.join(DROPOUTS)}")
        super().__init__()
        self.units, self.layers = units, layers
        self.encoder = Encoder(source_words, units, layers, p, dropout)
        self.decoder = Decoder(target_words, units, layers, p, dropout)
        self.pattern = Pattern.named("structured", 0.0 if dropout == "nr-random" else p)
        self.recurrent = Pattern.named("structured", p if dropout == "nr-rh-st" else 0.0)
        self.score = nn.Linear(units, units, bias=False)
        self.output = nn.Linear(units, target_words)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        target: Tensor,
        masks: TranslationMasks | None = None,
        following: Tensor | None = None,
    ) -> Tensor:
        """Logits `[T, B, words]` of the words after each of `target` `[T, B]`; given those words, too, their
        cross entropy in place of the logits, summed over all but padding.

        Args:
            source: `[S, B]`, padded at the end.
            lengths: `[B]`, on the CPU, descending.
            target: begins with BEGIN.
            masks: see `draw`; None draws in training.
            following: `[T, B]`, padded at the end.
        """
        if masks is None and self.training and self.decoder.structured:
            masks = self.draw(len(source), *target.shape)
        memory, state = self.encode(source, lengths, None if masks is None else masks.memory)
        outputs = self.decoder(target, state, memory, None if masks is None else masks.decoder)
        mask = None if masks is None else masks.decoder.output
        weight, bias = self.output.weight, self.output.bias
        if following is None or not self.decoder.structured:
            logits = functional.linear(outputs, weight, bias, mask)
            return logits if following is None else _summed_cross_entropy(logits, following)
        return functional.linear_cross_entropy(
            outputs, weight, following, bias=bias, mask=mask, reduction="sum", ignore_index=PAD_ID
        )

    def encode(self, source: Tensor, lengths: Tensor, mask: Mask | None = None) -> tuple[Memory, State]:
        """The source for the attention, and the state that the decoder begins with."""
        outputs, state = self.encoder(source, lengths)
        keys = functional.linear(outputs, self.score.weight, None, mask)
        if mask is not None:
            outputs = outputs * mask.dense(outputs.dtype)
        padding = torch.arange(len(source)).unsqueeze(0) >= lengths.unsqueeze(1)
        memory = Memory(
            keys.transpose(0, 1).contiguous(), outputs.transpose(0, 1).contiguous(), padding.to(source.device)
        )
        return memory, state

    def draw(self, source_steps: int, target_steps: int, batch: int) -> TranslationMasks:
        """All masks of a batch at once."""
        device = self.output.weight.device

        def mask(pattern: Pattern, steps: int = target_steps) -> Mask | None:
            return pattern.draw(steps, self.units, batch, device=device)

        decoder = DecoderMasks(
            between=tuple(mask(self.pattern) for _ in range(self.layers - 1)),
            recurrent=tuple(mask(self.recurrent) for _ in range(self.layers)),
            final=mask(self.recurrent),
            output=mask(self.pattern),
        )
        return TranslationMasks(mask(self.recurrent, source_steps), decoder)

    @torch.no_grad()
    def initialise(self, bound: float, seed: int) -> None:
        """Draws every parameter uniformly from [-bound, bound]: the same for all dropouts and devices."""
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in sorted(self.named_parameters()):
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def _summed_cross_entropy(logits: Tensor, following: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), following.flatten(), ignore_index=PAD_ID, reduction="sum"
    )
