"""Whole training steps of the recipes that read sentences, to be timed on text drawn at random.

The recipes need more than torch: they are imported where one is timed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from string import ascii_lowercase, digits, punctuation
from typing import Any

import torch
from torch import Tensor, nn

from strop.bench.check import discrepancies
from strop.bench.measure import Sample, now
from strop.bench.presets import DROPOUTS, IMPLS, Impl, RecipePreset
from strop.data.conll import Sentence, TaggedCorpus
from strop.data.parallel import SPECIALS, Pairs, ParallelCorpus
from strop.data.text import Vocabulary
from strop.training import Task
from strop.training.gradients import clipped_step, gradient_norm

_BATCHES = 128  # enough that sentences of like length meet, as in the real data


@dataclass(frozen=True)
class RecipeSteps:
    """Steps that both sides take as the training loop does; the baseline is the recipe's model with torch's
    layers and random dropout.

    Attributes:
        changes: to the recipe's own hyper-parameters, by name.
    """

    preset: RecipePreset
    changes: tuple[tuple[str, Any], ...] = ()

    def task(self, impl: Impl, device: torch.device) -> tuple[Task, float]:
        """The recipe on the drawn text, and the largest norm of its gradients. Text and initial weights are
        the same whatever `impl` is."""
        raise NotImplementedError

    def describe(self) -> str:
        own = self.preset
        return (
            f"As strop {own.command} --preset {own.model}: batches of {own.batch} drawn sentences of "
            f"{own.length:g} ± {own.deviation:g} words, from {' and '.join(f'{n:,}' for n in own.words)}."
        )

    def operations(self, impl: Impl) -> None:
        """Not known: they differ from batch to batch."""

    def check(self, device: torch.device) -> list[str]:
        """What strop computes wrongly in a step."""
        faults = []
        for impl in IMPLS:
            if impl != "torch":
                task, _ = self.task(impl, device)
                faults += discrepancies(impl, task.model, _loss_of(task))
        return faults

    def case(self, impl: Impl, device: torch.device) -> tuple[Callable[[int], Sample], str]:
        """One training step; the batches are the same for all implementations."""
        task, clip = self.task(impl, device)
        parameters = list(task.model.parameters())
        batches: Iterator[Any] = iter(())
        task.model.train()

        def once(repetition: int) -> Sample:
            nonlocal batches
            epoch, index = divmod(repetition, task.steps_per_epoch)
            if index == 0:
                batches = task.batches(epoch, 0)
            start = now(device)
            loss = task.loss(task.model, next(batches), None).loss
            task.optimizer.zero_grad()
            loss.backward()
            clipped_step(task.optimizer, parameters, gradient_norm(parameters), clip)
            return {"overall": now(device) - start}

        return once, f"Both sides step as strop {self.preset.command} does."

    def _changed(self, settings: Any, impl: Impl) -> Any:
        settings = replace(settings, batch=self.preset.batch, **dict(self.changes))
        shares = [name for name in ("p", "output_p") if hasattr(settings, name)]
        return replace(settings, **dict.fromkeys(shares, 0.0)) if impl == "dense" else settings

    def _lengths(self, random: Random) -> list[int]:
        mean, deviation = self.preset.length, self.preset.deviation
        gamma = (mean / deviation) ** 2, deviation**2 / mean
        return [max(1, round(random.gammavariate(*gamma))) for _ in range(_BATCHES * self.preset.batch)]


class TaggingSteps(RecipeSteps):
    def task(self, impl: Impl, device: torch.device) -> tuple[Task, float]:
        from strop.tasks.tagging import PRESETS, TaggingTask

        settings = self._changed({**PRESETS}[self.preset.model], impl)
        # Words with a vector are in the vocabulary although not all of them occur.
        vectors: dict[str, list[float]] = {word: [0.1] * settings.word_units for word in self._words}
        task = TaggingTask(self._corpus, settings, DROPOUTS[impl], vectors=vectors, device=device)
        return task, settings.clip

    @cached_property
    def _words(self) -> list[str]:
        """Spelled with 4.4 characters on average, as the words of CoNLL-2003's text."""
        random, characters = Random(0), ascii_lowercase + digits + punctuation
        spelt: dict[str, None] = {}
        while len(spelt) < self.preset.words[0]:
            spelt["".join(random.choices(characters, k=random.choice((2, 3, 4, 5, 8))))] = None
        return list(spelt)

    @cached_property
    def _corpus(self) -> TaggedCorpus:
        random = Random(0)
        draw = _zipf(random, len(self._words))
        sentences = tuple(
            Sentence(tuple(self._words[i] for i in draw(length)), _tags(random, length), 1)
            for length in self._lengths(random)
        )
        return TaggedCorpus("drawn", "iob2", sentences, sentences[:1], sentences[:1])


class TranslationSteps(RecipeSteps):
    def task(self, impl: Impl, device: torch.device) -> tuple[Task, float]:
        from strop.tasks.translation import PRESETS, TranslationTask

        settings = self._changed({**PRESETS}[self.preset.model], impl)
        return TranslationTask(self._corpus, settings, DROPOUTS[impl], device=device), settings.clip

    @cached_property
    def _corpus(self) -> ParallelCorpus:
        random = Random(0)
        lengths = self._lengths(random)
        near = [max(1, length + round(random.gauss(0, 2))) for length in lengths]
        sides: list[list[list[int]]] = []
        vocabularies: list[Vocabulary] = []
        for words, each in zip(self.preset.words, (lengths, near), strict=True):
            draw = _zipf(random, words - len(SPECIALS))
            sides.append([[len(SPECIALS) + i for i in draw(length)] for length in each])
            vocabularies.append(Vocabulary([*SPECIALS, *map(str, range(words - len(SPECIALS)))]))
        train = Pairs(sides[0], sides[1], [""] * len(lengths))
        held_out = Pairs(train.source[:1], train.target[:1], [""])
        source, target = vocabularies
        return ParallelCorpus(
            "drawn", source, target, train, held_out, held_out, skipped=0, empty=0, max_length=0
        )


def _zipf(random: Random, words: int) -> Callable[[int], list[int]]:
    """Draws as many words as asked for, each as frequent as its rank says."""
    weights = list(accumulate(1 / rank for rank in range(1, words + 1)))
    return lambda count: random.choices(range(words), cum_weights=weights, k=count)


def _tags(random: Random, length: int) -> tuple[str, ...]:
    """An entity of one or two words begins at every eighth word."""
    tags: list[str] = []
    for _ in range(length):
        if tags and tags[-1][0] == "B" and random.random() < 0.4:
            tags.append(f"I{tags[-1][1:]}")
        else:
            tags.append(f"B-{random.choice('ABCD')}" if random.random() < 1 / 8 else "O")
    return tuple(tags)


def _loss_of(task: Task) -> Callable[[nn.Module], tuple[Tensor, Tensor]]:
    batch = next(task.batches(0, 0))

    def loss(model: nn.Module) -> tuple[Tensor, Tensor]:
        value = task.loss(model, batch, None).loss
        return value, value

    return loss
