"""Translating with a trained model: greedy search and beam search, many sentences at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from strop.data.parallel import BEGIN_ID, END_ID, PAD_ID, Ids, pad
from strop.limits import WIDEST_BEAM
from strop.tasks.translation.attention import Memory
from strop.tasks.translation.model import DecoderState, TranslationModel
from strop.training import NonFiniteError

_MOST_ALPHA = 10  # so that the power of no length leaves the range of numbers


def longest(source_words: int) -> int:
    """Words at most, END included, of a translation of so many words: a model that never ends is cut off."""
    return 2 * source_words + 10


def check_search(beam: int, alpha: float) -> None:
    """Raises ValueError, naming what no search can be made with."""
    if beam < 1:
        raise ValueError(f"beam: {beam}; at least 1 is needed")
    if beam > WIDEST_BEAM:
        raise ValueError(f"beam: {beam}; at most {WIDEST_BEAM:,} is possible")
    if not 0 <= alpha <= _MOST_ALPHA:
        raise ValueError(f"alpha: {alpha}; it must be in [0, {_MOST_ALPHA}]")


@torch.no_grad()
def translate(
    model: TranslationModel,
    sentences: Sequence[Ids],
    *,
    beam: int = 1,
    alpha: float = 1.0,
    batch: int = 64,
) -> Iterator[tuple[int, Ids]]:
    """Number and translation of every sentence, batch by batch of like length, the shortest first.

    Args:
        sentences: word ids, at least one each.
        beam: hypotheses side by side; 1 is greedy search.
        alpha: finished hypotheses are compared by log-probability / words ** alpha (END is a word): 0
            prefers short ones, 1 compares the mean per word. At most 10.
        batch: sentences side by side.

    Raises NonFiniteError for a model whose scores are no numbers.
    """
    check_search(beam, alpha)
    model.eval()
    device = model.output.weight.device
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch][::-1]  # the longest first
        source = pad([sentences[i] for i in numbers])
        lengths = torch.tensor([len(sentences[i]) for i in numbers])
        memory, state = model.encode(source.to(device), lengths)
        first = model.decoder.first_state(state)
        limits = [longest(words) for words in lengths.tolist()]
        if beam == 1:
            found = greedy(model, memory, first, limits)
        else:
            found = beam_search(model, memory, first, limits, beam, alpha)
        yield from zip(numbers, found, strict=True)


def log_probabilities(
    model: TranslationModel, words: Tensor, state: DecoderState, memory: Memory
) -> tuple[Tensor, DecoderState]:
    """Of the next words after `words` [B]: `[B, words]`, -inf for PAD and BEGIN; and the next state."""
    state, _ = model.decoder.step(model.decoder.embedding(words), state, memory)
    scores = model.output(state.fed).log_softmax(1)
    scores[:, [PAD_ID, BEGIN_ID]] = -torch.inf
    return scores, state


def greedy(model: TranslationModel, memory: Memory, state: DecoderState, limits: Sequence[int]) -> list[Ids]:
    """The likeliest word at every step, until END or so many words. Finished sentences leave the batch."""
    found: list[Ids] = [[] for _ in limits]
    active = list(range(len(limits)))
    words = torch.full((len(limits),), BEGIN_ID, device=memory.padding.device)
    while active:
        scores, state = log_probabilities(model, words, state, memory)
        likeliest, words = scores.max(1)
        _expect_finite(likeliest.sum().item())
        rows: list[int] = []
        for row, (sentence, word) in enumerate(zip(active, words.tolist(), strict=True)):
            if word != END_ID:
                found[sentence].append(word)
                if len(found[sentence]) < limits[sentence]:
                    rows.append(row)
        if len(rows) < len(active):
            index = torch.tensor(rows, dtype=torch.int64, device=words.device)
            words, state, memory = words[index], state.rows(index), memory.rows(index)
            active = [active[row] for row in rows]
    return found


def _expect_finite(score: float) -> None:
    if not math.isfinite(score):
        raise NonFiniteError(
            f"model: it scores the likeliest words {score}, so it translates nothing; train it again, "
            "with a lower learning rate"
        )


@dataclass
class _Search:
    """One sentence's beam: unfinished hypotheses, and the finished with their scores."""

    limit: int
    alive: list[Ids] = field(default_factory=lambda: [[]])
    finished: list[tuple[float, Ids]] = field(default_factory=list)

    def best(self) -> Ids:
        return max(self.finished, key=lambda hypothesis: hypothesis[0])[1]

    def best_score(self) -> float:
        return max(score for score, _ in self.finished)


def beam_search(
    model: TranslationModel,
    memory: Memory,
    state: DecoderState,
    limits: Sequence[int],
    beam: int,
    alpha: float,
) -> list[Ids]:
    """The best of the hypotheses that were finished, `beam` of them kept at every step.

    At each step the likeliest `beam` continuations of a sentence's hypotheses are looked at: those that
    end are finished, and the likeliest others go on. A sentence is done when it has `beam` finished ones
    of which one is better than all that go on, as they stand; or at its limit, where those that are left
    count as they are. (`beam` finished ones alone are no end: where the model is sure, the others of the
    beam end early, and a translation would be cut short.)
    """
    device = memory.padding.device
    searches = [_Search(limit) for limit in limits]
    active = list(searches)
    rows = torch.arange(len(limits), device=device).repeat_interleave(beam)
    memory, state = memory.rows(rows), state.rows(rows)
    words = torch.full((len(rows),), BEGIN_ID, device=device)
    # One hypothesis to begin with: the others are its copies.
    totals = torch.full((len(limits), beam), -torch.inf, device=device)
    totals[:, 0] = 0
    for length in range(1, max(limits) + 1):
        scores, state = log_probabilities(model, words, state, memory)
        vocabulary = scores.shape[1]
        candidates = (totals.unsqueeze(2) + scores.view(len(active), beam, vocabulary)).flatten(1)
        # Of 2 * beam at most beam end, one for each hypothesis.
        top, at = candidates.topk(min(2 * beam, candidates.shape[1]), 1)
        kept, chosen, total, chosen_words = [], [], [], []
        for i, (search, values, places) in enumerate(zip(active, top.tolist(), at.tolist(), strict=True)):
            _expect_finite(values[0])  # the largest, or NaN
            going = _advance(search, values, places, vocabulary, beam, length, alpha)
            if going:
                kept.append(search)
                chosen += [i * beam + parent for parent, _, _ in going]
                chosen_words += [word for _, word, _ in going]
                total += [value for _, _, value in going]
        active = kept
        if not active:
            break
        index = torch.tensor(chosen, device=device)
        memory, state = memory.rows(index), state.rows(index)
        words = torch.tensor(chosen_words, device=device)
        totals = torch.tensor(total, device=device, dtype=totals.dtype).view(len(active), beam)
    return [search.best() for search in searches]


def _advance(
    search: _Search,
    values: Sequence[float],
    places: Sequence[int],
    vocabulary: int,
    beam: int,
    length: int,
    alpha: float,
) -> list[tuple[int, int, float]]:
    """Takes the candidates, best first, into a search: `beam` × (parent, word, score) that go on, or none."""
    going: list[tuple[int, int, float]] = []
    alive: list[Ids] = []
    norm = length**alpha
    for rank, (value, place) in enumerate(zip(values, places, strict=True)):
        parent, word = divmod(place, vocabulary)
        if value == -torch.inf or len(going) == beam:
            break
        if word != END_ID:
            going.append((parent, word, value))
            alive.append([*search.alive[parent], word])
        elif rank < beam:
            search.finished.append((value / norm, search.alive[parent]))
    search.alive = alive
    if length == search.limit:
        search.finished += [(value / norm, ids) for (*_, value), ids in zip(going, alive, strict=True)]
        return []
    if not going or (len(search.finished) >= beam and search.best_score() >= going[0][2] / norm):
        return []
    # A beam wider than what there is to explore is filled with hypotheses that cannot win.
    missing = beam - len(going)
    search.alive += [alive[0]] * missing
    return going + [(going[0][0], going[0][1], -torch.inf)] * missing
