"""Translation for the training loop: what a batch, the loss, a perplexity and a BLEU score are."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor, nn

from strop.data.parallel import Batch, Pairs, ParallelCorpus, by_length, collate
from strop.data.text import Vocabulary
from strop.seeds import seed_of
from strop.tasks.language.presets import Dropout
from strop.tasks.metrics import perplexity_of
from strop.tasks.translation.decoding import translate
from strop.tasks.translation.model import TranslationModel
from strop.tasks.translation.presets import Preset
from strop.training import EpochDecay, Outcome, RunError, World

#: Files of a run's folder: the vocabularies.
SOURCE, TARGET = "source.json", "target.json"
_EVALUATION_BATCH = 64


class TranslationTask:
    """A model on parallel text, to be trained by `strop.training.train`.

    Every process takes its part of each batch. The valid text is translated greedily, the test text by
    beam search. `files` are what a run's folder has to keep.
    """

    metric = "perplexity"
    goal: Literal["min", "max"] = "min"
    items = "words"
    capturable = False  # batches of many shapes

    def __init__(
        self,
        corpus: ParallelCorpus,
        preset: Preset,
        dropout: Dropout,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        world: World | None = None,
    ) -> None:
        model = TranslationModel(
            len(corpus.source), len(corpus.target), preset.units, preset.layers, preset.p, dropout
        )
        model.initialise(preset.init, seed)
        self.model: TranslationModel = model.to(device)
        self._world = world or World()
        # Few rows have a gradient in a step: the others need no zeros. Lookups and optimiser take 2.9 ms in
        # place of 7.1 (one thread). Not in the buckets that processes average.
        for embedding in (model.encoder.embedding, model.decoder.embedding):
            embedding.sparse = torch.device(device).type == "cpu" and self._world.size == 1
        self.optimizer = torch.optim.SGD(model.parameters(), lr=preset.rate)
        self.schedule = EpochDecay(preset.decay, preset.decay_after, preset.decay_every)
        self.files = {SOURCE: corpus.source.to_json(), TARGET: corpus.target.to_json()}
        self.generators: dict[str, torch.Generator] = {}
        self._corpus, self._preset, self._seed = corpus, preset, seed
        self._device = device
        smallest = min(len(numbers) for numbers in by_length(corpus.train, preset.batch))
        if smallest < self._world.size:
            raise RunError(f"batch: some hold {smallest} pairs, too few for {self._world.size} processes")
        self.steps_per_epoch = -(-len(corpus.train) // preset.batch)
        self.identity: dict[str, Any] = {
            "task": "translation",
            "preset": {n: value for n, value in asdict(preset).items() if n not in ("epochs", "beam")},
            "dropout": dropout,
            "data": _fingerprint(corpus),
        }

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, float]]:
        """This process's part of each batch, and how many sentences a process has of it on average."""
        seed = seed_of("order", self._seed, epoch)
        rank, size = self._world.rank, self._world.size
        for numbers in by_length(self._corpus.train, self._preset.batch, seed)[start:]:
            yield collate(self._corpus.train, numbers[rank::size], self._device), len(numbers) / size

    def first_carry(self) -> None:
        return None

    def loss(self, model: nn.Module, batch: tuple[Batch, float], carry: None) -> Outcome:
        """Cross entropy summed over the words and averaged over the sentences, as in OpenNMT-py."""
        part, sentences = batch
        total = cross_entropy(model, part)
        return Outcome(total / sentences, total.detach() / part.words, part.words)

    def summary(self, mean: float) -> dict[str, float]:
        return {"perplexity": perplexity_of(mean)}

    def evaluate(self, split: Literal["valid", "test"]) -> dict[str, float]:
        """Perplexity per word, END included, and BLEU."""
        self.model.eval()
        pairs: Pairs = getattr(self._corpus, split)
        per_word = perplexity(self.model, pairs)
        if math.isnan(per_word):  # such a model translates nothing
            return {"perplexity": per_word, "bleu": math.nan}
        beam = 1 if split == "valid" else self._preset.beam
        hypotheses = [""] * len(pairs)
        for number, ids in translate(self.model, pairs.source, beam=beam, batch=_EVALUATION_BATCH):
            hypotheses[number] = text(self._corpus.target, ids)
        score, _ = bleu(hypotheses, pairs.references)
        return {"perplexity": per_word, "bleu": score}


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Summed over the words of the batch; padding does not count."""
    return model(batch.source, batch.lengths, batch.target[:-1], following=batch.target[1:])


@torch.no_grad()
def perplexity(model: TranslationModel, pairs: Pairs) -> float:
    """Per target word, END included; the model in the mode it is in."""
    device = model.output.weight.device
    total, words = 0.0, 0
    for numbers in by_length(pairs, _EVALUATION_BATCH):
        batch = collate(pairs, numbers, device)
        total += cross_entropy(model, batch).item()
        words += batch.words
    return perplexity_of(total / words)


def text(words: Vocabulary, ids: Sequence[int]) -> str:
    return " ".join(words.words[i] for i in ids)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """sacrebleu's score of tokenised text, taken as it is, and the signature that says how it was made."""
    metric = BLEU(tokenize="none", force=True)  # force: do not warn of tokenised text
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return score, str(metric.get_signature())


def _fingerprint(corpus: ParallelCorpus) -> str:
    digest = hashlib.sha256()
    for words in (corpus.source, corpus.target):
        digest.update("\n".join(words.words).encode() + b"\0")
    for pairs in (corpus.train, corpus.valid, corpus.test):
        digest.update(repr((pairs.source, pairs.target, pairs.references)).encode())
    return digest.hexdigest()
