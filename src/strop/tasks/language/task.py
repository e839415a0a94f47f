"""Language modelling for the training loop: what a batch, the loss and a perplexity are."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from strop.data.bptt import VaryingWindows
from strop.data.text import Corpus, batchify, windows
from strop.tasks.language.awd import AwdModel
from strop.tasks.language.model import LanguageModel
from strop.tasks.language.presets import AwdPreset, Dropout, Preset
from strop.tasks.metrics import perplexity_of
from strop.training import EpochDecay, NtAsgd, Outcome, Schedule, World, tree

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
        preset: Preset | AwdPreset,
        dropout: Dropout,
        *,
        tied: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        self.model = build_model(len(corpus.vocabulary), preset, dropout, tied)
        self.model.initialise(preset.init, seed)
        self.model.to(device)
        processes = world or World()
        # 700 of 10,000 rows have a gradient in a step: the others need no zeros. Not in the buckets that
        # processes average, and not where the softmax has a gradient for every row.
        alone = torch.device(device).type == "cpu" and processes.size == 1
        self.model.embedding.sparse = alone and isinstance(preset, Preset) and not tied
        self.optimizer = _optimizer(preset, self.model)
        self.files = {VOCABULARY: corpus.vocabulary.to_json()}
        self.generators: dict[str, torch.Generator] = {}
        part = processes.share(preset.batch)
        columns = batchify(corpus.train, preset.batch)[:, part].contiguous().to(device)
        self.schedule: Schedule
        if isinstance(preset, Preset):
            fixed = windows(columns, preset.steps, drop_last=True)
            self._window = lambda epoch, index: fixed[index]
            self.schedule, self.steps_per_epoch = EpochDecay(preset.decay, preset.decay_after), len(fixed)
        else:
            varying = VaryingWindows(columns, preset.steps, seed)
            self._window = varying.window
            self.schedule, self.steps_per_epoch = varying.rate, len(varying)
        # Windows of varying length, and averages that begin when the host says so, cannot be recorded.
        self._summed = self.capturable = isinstance(preset, Preset)
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
        return (self._window(epoch, index) for index in range(start, self.steps_per_epoch))

    def first_carry(self) -> Any:
        return self.model.first_state(self._columns)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], carry: Any) -> Outcome:
        """Cross entropy averaged over the batch, as in each original program summed over the steps (Zaremba
        et al.) or averaged over them too, with penalties (Merity et al.)."""
        x, y = batch
        if self._summed:
            mean, state = model(x, carry, y)
            loss = mean * len(x)
        else:
            logits, state, penalty = model(x, carry)
            mean = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss = mean + penalty
        return Outcome(loss, mean.detach(), y.numel(), tree.map_tensors(Tensor.detach, state))

    def summary(self, mean: float) -> dict[str, float]:
        return {"perplexity": perplexity_of(mean)}

    def evaluate(self, split: Literal["valid", "test"]) -> dict[str, float]:
        self.model.eval()
        return {"perplexity": perplexity(self.model, self._held_out[split])}


def build_model(
    words: int, preset: Preset | AwdPreset, dropout: Dropout, tied: bool
) -> LanguageModel | AwdModel:
    """The preset's model with torch's initial weights; an `AwdModel` is always tied."""
    if isinstance(preset, AwdPreset):
        return AwdModel(words, preset, dropout)
    return LanguageModel(words, preset.units, preset.layers, preset.p, dropout, tied)


def _optimizer(preset: Preset | AwdPreset, model: nn.Module) -> torch.optim.Optimizer:
    if isinstance(preset, AwdPreset):
        return NtAsgd(model.parameters(), preset.rate, preset.trigger, preset.weight_decay)
    return torch.optim.SGD(model.parameters(), lr=preset.rate)


@torch.no_grad()
def perplexity(model: LanguageModel | AwdModel, ids: Tensor, columns: int = 20, chunk: int = 1024) -> float:
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
    _, state, *_ = model(x[:_CONTEXT], state)
    # Nothing comes before the first column.
    first = torch.zeros(1, dtype=torch.int64, device=ids.device)
    state = tree.map_tensors(lambda tensor: tensor.index_fill(1, first, 0), state)
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    steps = max(1, chunk // columns)
    for start in range(_CONTEXT, _CONTEXT + rows, steps):
        stop = min(start + steps, _CONTEXT + rows)
        logits, state, *_ = model(x[start:stop], state)
        total += functional.cross_entropy(
            logits.flatten(0, 1), y[start:stop].flatten(), reduction="sum", ignore_index=_IGNORED
        )
    return perplexity_of(total.item() / targets)


def _with_context(ids: Tensor, columns: int, rows: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [_CONTEXT + rows, columns]; outside the text any input, and an ignored target."""
    at = torch.arange(-_CONTEXT, rows, device=ids.device).unsqueeze(1)
    at = at + torch.arange(columns, device=ids.device) * rows
    last = len(ids) - 1
    x = ids[at.clamp(0, last)]
    y = torch.where(at < last, ids[(at + 1).clamp(0, last)], _IGNORED)
    return x, y


def _fingerprint(corpus: Corpus) -> str:
    digest = hashlib.sha256("\n".join(corpus.vocabulary.words).encode())
    for ids in (corpus.train, corpus.valid, corpus.test):
        digest.update(ids.numpy().tobytes())
    return digest.hexdigest()
