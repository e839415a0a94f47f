"""Language modelling for the training loop: what a batch, the loss and a perplexity are."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from strop.data.text import Corpus, batchify, windows
from strop.tasks.language.model import LanguageModel, State
from strop.tasks.language.presets import Dropout, Preset
from strop.training import EpochDecay, Outcome, World

# Words that a column of an evaluation reads before it counts: its state is then as good as one carried
# from the beginning of the text.
_CONTEXT = 64
#: The file of a run's folder that holds the vocabulary.
VOCABULARY = "vocabulary.json"
_IGNORED = -100  # cross_entropy's default


class LanguageTask:
    """A model on a corpus, to be trained by `strop.training.train`.

    Every process reads its own columns of the training text and carries their hidden state from window
    to window, from zeros at the beginning of each epoch. `files` are what a run's folder has to keep.
    """

    metric = "perplexity"
    goal: Literal["min", "max"] = "min"
    items = "words"

    def __init__(
        self,
        corpus: Corpus,
        preset: Preset,
        dropout: Dropout,
        *,
        tied: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        words = len(corpus.vocabulary)
        model = LanguageModel(words, preset.units, preset.layers, preset.p, dropout, tied)
        model.initialise(preset.init, seed)
        self.model: LanguageModel = model.to(device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=preset.rate)
        self.schedule = EpochDecay(preset.decay, preset.decay_after)
        self.files = {VOCABULARY: corpus.vocabulary.to_json()}
        self.generators: dict[str, torch.Generator] = {}
        part = (world or World()).share(preset.batch)
        columns = batchify(corpus.train, preset.batch)[:, part].contiguous().to(device)
        self._windows = windows(columns, preset.steps, drop_last=True)
        self.steps_per_epoch = len(self._windows)
        self._columns = columns.shape[1]
        self._held_out = {"valid": corpus.valid.to(device), "test": corpus.test.to(device)}
        self.identity: dict[str, Any] = {
            "task": "language",
            "preset": {name: value for name, value in asdict(preset).items() if name != "epochs"},
            "dropout": dropout,
            "tied": tied,
            "data": _fingerprint(corpus),
        }

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (self._windows[index] for index in range(start, self.steps_per_epoch))

    def first_carry(self) -> State:
        return self.model.first_state(self._columns)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], carry: State) -> Outcome:
        """Cross entropy summed over the steps and averaged over the batch, as in the original program."""
        x, y = batch
        logits, (h, c) = model(x, carry)
        mean = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        return Outcome(mean * len(x), mean.detach(), y.numel(), (h.detach(), c.detach()))

    def summary(self, mean: float) -> dict[str, float]:
        return {"perplexity": _exp(mean)}

    def evaluate(self, split: Literal["valid", "test"]) -> dict[str, float]:
        self.model.eval()
        return {"perplexity": perplexity(self.model, self._held_out[split])}


@torch.no_grad()
def perplexity(model: LanguageModel, ids: Tensor, columns: int = 20, chunk: int = 1024) -> float:
    """Perplexity per word of the text `ids` [N], its first word given.

    The text is cut into `columns` that are read side by side, `chunk` words at a time. All but the first
    begin a little earlier to warm up their state, so every word counts once and in its context, as if
    the text had been read in one piece. `model` is used in the mode it is in.
    """
    targets = len(ids) - 1
    if targets < 1:
        raise ValueError(f"ids: {len(ids)} words; at least 2 are needed to predict one")
    columns = max(1, min(columns, targets // _CONTEXT))  # each column but the first has its context
    rows = -(-targets // columns)
    x, y = _with_context(ids, columns, rows)
    state = model.first_state(columns)
    _, (h, c) = model(x[:_CONTEXT], state)
    h[:, 0], c[:, 0] = 0, 0  # nothing comes before the first column
    state = (h, c)
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    steps = max(1, chunk // columns)
    for start in range(_CONTEXT, _CONTEXT + rows, steps):
        stop = min(start + steps, _CONTEXT + rows)
        logits, state = model(x[start:stop], state)
        total += functional.cross_entropy(
            logits.flatten(0, 1), y[start:stop].flatten(), reduction="sum", ignore_index=_IGNORED
        )
    return _exp(total.item() / targets)


def _with_context(ids: Tensor, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [_CONTEXT + rows, columns]; outside the text any input, and an ignored target."""
    at = torch.arange(-_CONTEXT, rows, device=ids.device).unsqueeze(1)
    at = at + torch.arange(columns, device=ids.device) * rows
    last = len(ids) - 1
    x = ids[at.clamp(0, last)]
    y = torch.where(at < last, ids[(at + 1).clamp(0, last)], _IGNORED)
    return x, y


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


def _fingerprint(corpus: Corpus) -> str:
    digest = hashlib.sha256("\n".join(corpus.vocabulary.words).encode())
    for ids in (corpus.train, corpus.valid, corpus.test):
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()
