"""Accuracy, precision, recall and F1 of tagged text, as the shared tasks' program conlleval counts them.

An entity counts as found if its first word, its last word and its type are all right. `strop.data.schemes`
tells how faulty sequences are read. Tags in `iobes`, which conlleval cannot evaluate, are counted as the
`iob2` tags of the same entities; pass `iob1` and `iob2` as they are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from strop.data.schemes import entities


@dataclass(frozen=True)
class Counts:
    """Entities that are there (`gold`), that were found (`guessed`), and that are both (`correct`)."""

    gold: int
    guessed: int
    correct: int

    @property
    def precision(self) -> float:
        """Percent of the entities found that are right; 0 if none was found."""
        return 100 * self.correct / self.guessed if self.guessed else 0.0

    @property
    def recall(self) -> float:
        """Percent of the entities there that were found; 0 if there is none."""
        return 100 * self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are."""
        precision, recall = self.precision, self.recall
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class Evaluation:
    """What conlleval says of tagged text.

    Attributes:
        words, right: words, and those with the right tag.
        total: entities of all types.
        types: entities by type, in alphabetical order.
    """

    words: int
    right: int
    total: Counts
    types: Mapping[str, Counts]

    @property
    def accuracy(self) -> float:
        """Percent of the words with the right tag."""
        return 100 * self.right / self.words if self.words else 0.0

    def table(self) -> str:
        """The figures in conlleval's own layout."""
        total = self.total
        lines = [
            f"processed {self.words} tokens with {total.gold} phrases; "
            f"found: {total.guessed} phrases; correct: {total.correct}.",
            f"accuracy: {self.accuracy:6.2f}%; {_figures(total)}",
        ]
        lines += [f"{kind:>17}: {_figures(counts)}  {counts.guessed}" for kind, counts in self.types.items()]
        return "\n".join(lines)


def evaluate(gold: Iterable[Sequence[str]], guessed: Iterable[Sequence[str]]) -> Evaluation:
    """Compares the tags of sentences, one by one. Raises ValueError where their lengths differ."""
    words = right = 0
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for number, (expected, actual) in enumerate(zip(gold, guessed, strict=True), start=1):
        if len(expected) != len(actual):
            raise ValueError(
                f"guessed: {len(actual)} tags for the {len(expected)} words of sentence {number}"
            )
        words += len(expected)
        right += sum(a == b for a, b in zip(expected, actual, strict=True))
        truth, guess = entities(expected), entities(actual)
        there.update(entity.type for entity in truth)
        found.update(entity.type for entity in guess)
        correct.update(entity.type for entity in set(truth) & set(guess))
    types = {kind: Counts(there[kind], found[kind], correct[kind]) for kind in sorted({*there, *found})}
    total = Counts(there.total(), found.total(), correct.total())
    return Evaluation(words, right, total, types)


def _figures(counts: Counts) -> str:
    return f"precision: {counts.precision:6.2f}%; recall: {counts.recall:6.2f}%; FB1: {counts.f1:6.2f}"
