"""Greedy and beam search against looking at everything."""

from itertools import product

import pytest
import torch

from strop.data.parallel import BEGIN_ID, END_ID, PAD_ID, pad
from strop.tasks.translation import TranslationModel, decoding
from strop.tasks.translation.decoding import log_probabilities, longest, translate
from strop.training import NonFiniteError

WORDS = 7  # four special ones; all but PAD and BEGIN can be generated
SENTENCES = [[4, 5, 6, 4], [5], [6, 6], [4, 5, 6], [5, 4, 4, 4]]


@pytest.fixture(params=range(3))
def model(request) -> TranslationModel:
    model = TranslationModel(WORDS, WORDS, 5, 2, 0.3, "nr-rh-st").double()
    model.initialise(2.0, request.param)
    return model.eval()


def found(model, sentences=SENTENCES, **options) -> list[list[int]]:
    translations = dict(translate(model, sentences, **options))
    assert sorted(translations) == list(range(len(sentences)))
    return [translations[i] for i in range(len(sentences))]


@torch.no_grad()
def scores(model: TranslationModel, source: list[int], all_words: list[list[int]]) -> list[float]:
    """Log-probability of each translation, END included where it ends in it."""
    count = len(all_words)
    target = pad([[BEGIN_ID, *words] for words in all_words])
    logits = model(torch.tensor(source)[:, None].expand(-1, count), torch.full((count,), len(source)), target)
    after = torch.cat((target[1:], target.new_full((1, count), PAD_ID)))
    found = logits.log_softmax(2).gather(2, after[:, :, None])[:, :, 0]
    return found.masked_fill(after == PAD_ID, 0).sum(0).tolist()


def everything(limit: int):
    """All that can be generated: finished within the limit, or cut off at it."""
    inner = [word for word in range(WORDS) if word not in (PAD_ID, BEGIN_ID, END_ID)]
    for length in range(limit):
        for words in product(inner, repeat=length):
            yield [*words, END_ID]
    for words in product(inner, repeat=limit):
        yield list(words)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_of_all(model, alpha, monkeypatch):
    monkeypatch.setattr(decoding, "longest", lambda words: 4)
    sequences = list(everything(4))
    for source, words in zip(SENTENCES, found(model, beam=400, alpha=alpha), strict=True):
        ranked = zip(scores(model, source, sequences), sequences, strict=True)
        _, best = max((score / len(ids) ** alpha, ids) for score, ids in ranked)
        assert words == [word for word in best if word != END_ID]


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_greedy_takes_the_likeliest_word_at_every_step(model, batch):
    for source, words in zip(SENTENCES, found(model, batch=batch), strict=True):
        memory, state = model.encode(torch.tensor(source)[:, None], torch.tensor([len(source)]))
        now, word, expected = model.decoder.first_state(state), BEGIN_ID, []
        while len(expected) < longest(len(source)):
            with torch.no_grad():
                scores, now = log_probabilities(model, torch.tensor([word]), now, memory)
            word = int(scores.argmax())
            if word == END_ID:
                break
            expected.append(word)
        assert words == expected


def test_a_beam_of_one_is_greedy_search(model):
    memory, state = model.encode(torch.tensor(SENTENCES[3])[:, None].expand(3, 2), torch.tensor([3, 3]))
    first = model.decoder.first_state(state)
    with torch.no_grad():
        narrow = decoding.beam_search(model, memory, first, [9, 4], 1, 1.0)
        assert narrow == decoding.greedy(model, memory, first, [9, 4])


@pytest.mark.parametrize("beam", [2, 3])
def test_the_beam_of_a_sentence_does_not_depend_on_its_batch(model, beam):
    together = found(model, beam=beam)
    assert together == found(model, beam=beam, batch=1) == found(model, beam=beam, batch=2)


def test_many_bad_ends_do_not_end_the_search_before_a_better_one():
    search = decoding._Search(limit=9)
    for length in range(1, 4):
        # Word 5 is almost sure, and END the second best.
        going = decoding._advance(search, [-0.1 * length, -4.0, -9.0], [5, END_ID, 6], WORDS, 2, length, 1.0)
        assert [(word, score) for _, word, score in going] == [(5, -0.1 * length), (6, -9.0)]
    assert len(search.finished) == 3
    assert not decoding._advance(search, [-0.4, -0.5, -9.0], [END_ID, 5, 6], WORDS, 2, 4, 1.0)
    assert search.best() == [5, 5, 5]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_whose_scores_are_no_numbers_is_refused(model, beam, value):
    with torch.no_grad():
        model.output.bias[5] = value
    with pytest.raises(NonFiniteError, match=r"model: it scores .* nan.*lower learning rate"):
        found(model, beam=beam)


def test_wrong_options_are_refused(model):
    with pytest.raises(ValueError, match="beam: 0"):
        found(model, beam=0)
    with pytest.raises(ValueError, match="alpha: -1"):
        found(model, beam=2, alpha=-1.0)
    assert found(model, []) == []
