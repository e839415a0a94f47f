import json

import pytest
import torch

from strop.data.conll import Sentence
from strop.data.text import DataError
from strop.tasks.tagging.encoding import LONGEST_WORD, PAD, Vocabularies, bucketed

SENTENCES = [
    Sentence(("The", "cat", "saw", "the", "Hague"), ("O", "O", "O", "B-LOC", "I-LOC"), 1),
    Sentence(("the", "cat"), ("O", "O"), 7),
    Sentence(("Hague",), ("B-LOC",), 10),
]


@pytest.fixture
def vocabularies() -> Vocabularies:
    return Vocabularies.build(SENTENCES, "iob2", "iob1")


def test_vocabularies(vocabularies):
    assert vocabularies.words == ("<unk>", "the", "cat", "hague", "saw")
    assert vocabularies.rare == 1
    assert vocabularies.characters[:2] == (PAD, "<unk>")
    assert set(vocabularies.characters[2:]) == set("ThecatsawHague")
    assert vocabularies.tags == ("O", "B-LOC", "I-LOC")
    assert Vocabularies.build(SENTENCES, "iobes", "iob2").tags == ("O", "B-LOC", "E-LOC", "S-LOC")


def test_words_with_a_vector_are_known_and_not_rare():
    vocabularies = Vocabularies.build(SENTENCES, "iob2", "iob1", ["saw", "dog"])
    assert vocabularies.words == ("<unk>", "the", "cat", "hague", "saw", "dog")
    assert vocabularies.rare == 0


def test_vocabularies_survive_json(vocabularies):
    assert Vocabularies.from_json(vocabularies.to_json()) == vocabularies
    for damaged in ("[]", "{", json.dumps({"words": []})):
        with pytest.raises((TypeError, ValueError)):
            Vocabularies.from_json(damaged)


def test_a_batch_is_packed_longest_first(vocabularies):
    encoded = vocabularies.encode([s.words for s in SENTENCES], [s.tags for s in SENTENCES])
    batch = encoded.batch(torch.tensor([2, 1, 0]))
    assert batch.order.tolist() == [0, 1, 2]
    assert batch.lengths.tolist() == [5, 2, 1]
    assert batch.sizes.tolist() == [3, 2, 1, 1, 1]
    # Step by step: The the Hague | cat cat | saw | the | Hague.
    assert batch.words.tolist() == [1, 1, 3, 2, 2, 4, 1, 3]
    spelt = [
        "".join(vocabularies.characters[i] for i in batch.characters[row] if i)
        for row in batch.forms.tolist()
    ]
    assert spelt == ["The", "the", "Hague", "cat", "cat", "saw", "the", "Hague"]
    assert len(batch.characters) == 5  # each spelling once
    assert batch.tags is not None
    assert batch.tags.t().tolist() == [[0, 0, 0, 1, 2], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_unknown_words_and_characters(vocabularies):
    encoded = vocabularies.encode([("Zeta", "x" * 200)])
    assert encoded.words.tolist() == [0, 0]
    known = [vocabularies.characters.index(character) for character in "eta"]
    assert encoded.characters[0].tolist()[:5] == [1, *known, 0]
    assert encoded.characters.shape == (2, LONGEST_WORD)


def test_an_entity_type_that_cannot_be_learned_is_refused(vocabularies):
    with pytest.raises(DataError, match="B-PER does not occur in the training data"):
        vocabularies.encode([("a",)], [("B-PER",)])


@pytest.mark.parametrize(("sentences", "batch"), [(20, 5), (23, 5), (5, 5), (7, 1)])
def test_buckets_hold_every_sentence_once_and_like_lengths(sentences, batch):
    lengths = torch.randint(1, 40, (sentences,))
    batches = bucketed(lengths, batch, torch.Generator().manual_seed(1))
    assert batches.shape == (sentences // batch, batch)
    assert len(set(batches.flatten().tolist())) == batches.numel()
    ordered = lengths[batches]
    spread = (ordered.amax(1) - ordered.amin(1)).sum()
    # Sorted stretches overlap by the noise at most: together they span what there is to span.
    assert spread <= lengths.amax() - lengths.amin() + 2 * len(batches)
    again = bucketed(lengths, batch, torch.Generator().manual_seed(1))
    assert torch.equal(again, batches)
    if len(batches) > 3:
        assert not torch.equal(bucketed(lengths, batch, torch.Generator().manual_seed(2)), batches)
