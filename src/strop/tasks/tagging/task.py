"""Tagging for the training loop: what a batch, the loss and F1 are."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from strop.data.conll import TaggedCorpus
from strop.data.schemes import Scheme, convert
from strop.data.text import DataError
from strop.seeds import seed_of
from strop.tasks.tagging.conlleval import Evaluation, evaluate
from strop.tasks.tagging.encoding import Batch, Vocabularies, bucketed
from strop.tasks.tagging.model import Tagger
from strop.tasks.tagging.predicting import predict
from strop.tasks.tagging.presets import Dropout, Preset
from strop.training import Outcome, World

# Chance of a word seen once to be read as unknown while training, as in Lample et al. 2016.
_UNKNOWN = 0.5


@dataclass(frozen=True)
class InverseDecay:
    """The rate divided by 1 + decay · epochs done, as in Ma and Hovy (2016)."""

    decay: float

    def __call__(self, epoch: int, step: int) -> float:
        return 1 / (1 + self.decay * epoch)


class TaggingTask:
    """A tagger on a corpus, to be trained by `strop.training.train`.

    Every process takes its part of each batch. Fewer sentences than a batch are left over in an epoch, other
    ones each time. Words seen once are read as unknown half of the time, so that unknown words are learned.

    Args:
        vectors: pre-trained vectors of `preset.word_units` numbers by lower-cased word; they are trained on.

    Attributes:
        vocabularies: of the training sentences, and of the words that have a vector.
        evaluations: what the latest evaluation of each split found, with tags in the corpus' scheme, but
            `iob2` in place of `iobes`, which conlleval cannot read.

    Raises:
        DataError: fewer training sentences than a batch.
    """

    metric = "f1"
    goal: Literal["min", "max"] = "max"
    items = "words"
    capturable = False  # batches of many shapes

    def __init__(
        self,
        corpus: TaggedCorpus,
        preset: Preset,
        dropout: Dropout,
        *,
        vectors: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        self._part = (world or World()).share(preset.batch)
        if len(corpus.train) < preset.batch:
            raise DataError(
                f"{corpus.name}: {len(corpus.train)} training sentences are too few for a batch of "
                f"{preset.batch}; use a smaller batch or more text"
            )
        vectors = vectors or {}
        self.vocabularies = Vocabularies.build(corpus.train, preset.scheme, corpus.scheme, vectors)
        self._train = self.vocabularies.encode(
            [sentence.words for sentence in corpus.train], [sentence.tags for sentence in corpus.train]
        )
        self._held_out = {"valid": corpus.valid, "test": corpus.test}
        # Entities are the same in all schemes, but accuracy counts tags.
        self._scheme: Scheme = "iob2" if corpus.scheme == "iobes" else corpus.scheme
        model = Tagger.of(self.vocabularies, preset, dropout)
        model.initialise(seed, {self.vocabularies.word_ids[word]: vector for word, vector in vectors.items()})
        self.model: Tagger = model.to(device)
        self._device, self._batch, self._seed = torch.device(device), preset.batch, seed
        self.steps_per_epoch = len(corpus.train) // preset.batch
        # Most parameters are word embeddings; fused, their update is one pass: 5.5 ms in place of 8.4.
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=preset.rate, momentum=preset.momentum, fused=True
        )
        self.schedule = InverseDecay(preset.decay)
        self.generators: dict[str, torch.Generator] = {}
        self.evaluations: dict[str, Evaluation] = {}
        self.identity: dict[str, Any] = {
            "task": "tagging",
            "preset": {name: value for name, value in asdict(preset).items() if name != "epochs"},
            "dropout": dropout,
            "data": _fingerprint(corpus, vectors),
        }

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed_of("order", self._seed, epoch))
        for numbers in bucketed(self._train.lengths, self._batch, generator)[start:]:
            yield self._train.batch(numbers[self._part], self._device)

    def first_carry(self) -> None:
        return None

    def loss(self, model: nn.Module, batch: Batch, carry: None) -> Outcome:
        """Negative log-likelihood of a sentence's tags, averaged over the batch; in reports, per word."""
        total = -model(self._hide_rare(batch)).sum()
        words = len(batch.words)
        return Outcome(total / len(batch.lengths), total.detach() / words, words)

    def summary(self, mean: float) -> dict[str, float]:
        return {"loss": mean}

    def evaluate(self, split: Literal["valid", "test"]) -> dict[str, float]:
        sentences = self._held_out[split]
        self.model.eval()
        words = [sentence.words for sentence in sentences]
        guessed = predict(self.model, self.vocabularies, words, self._scheme, self._device)
        tags = [convert(sentence.tags, self._scheme) for sentence in sentences]
        self.evaluations[split] = found = evaluate(tags, guessed)
        total = found.total
        return {
            "f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "accuracy": found.accuracy,
        }

    def _hide_rare(self, batch: Batch) -> Batch:
        """`batch` with half of the words that were seen once only as unknown ones."""
        first = len(self.vocabularies.words) - self.vocabularies.rare
        drawn = torch.rand(batch.words.shape, device=batch.words.device)
        return batch._replace(words=batch.words.masked_fill((batch.words >= first) & (drawn < _UNKNOWN), 0))


def _fingerprint(corpus: TaggedCorpus, vectors: Mapping[str, Sequence[float]]) -> str:
    digest = hashlib.sha256(corpus.scheme.encode())
    for split in (corpus.train, corpus.valid, corpus.test):
        for sentence in split:
            digest.update(repr((sentence.words, sentence.tags)).encode())
        digest.update(b"\n")
    for item in sorted(vectors.items()):
        digest.update(repr(item).encode())
    return digest.hexdigest()
