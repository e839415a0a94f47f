import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.data.schemes import SCHEMES, Entity, SchemeError, convert, detect, entities, spell

# The same entities: PER of one word, two PERs side by side, LOC right behind, ORG of three words at the end.
FOUND = [
    Entity(0, 1, "PER"),
    Entity(2, 4, "PER"),
    Entity(4, 5, "PER"),
    Entity(5, 6, "LOC"),
    Entity(7, 10, "ORG-X"),
]
SPELT = {
    "iob1": "I-PER O I-PER I-PER B-PER I-LOC O I-ORG-X I-ORG-X I-ORG-X",
    "iob2": "B-PER O B-PER I-PER B-PER B-LOC O B-ORG-X I-ORG-X I-ORG-X",
    "iobes": "S-PER O B-PER E-PER S-PER S-LOC O B-ORG-X I-ORG-X E-ORG-X",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_spelt_and_read_in_every_scheme(scheme):
    tags = SPELT[scheme].split()
    assert spell(FOUND, 10, scheme) == tags
    assert entities(tags) == FOUND
    assert detect([["O"], tags]) == scheme
    for other in SCHEMES:
        assert convert(tags, other) == SPELT[other].split()


@st.composite
def sentences(draw) -> tuple[int, list[Entity]]:
    found, at = [], draw(st.integers(0, 2))
    for size in draw(st.lists(st.integers(1, 3), max_size=5)):
        found.append(Entity(at, at + size, draw(st.sampled_from(["A", "B"]))))
        at += size + draw(st.integers(0, 2))
    return at, found


@given(sentences(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
def test_conversion_there_and_back_changes_nothing(sentence, scheme, other):
    words, found = sentence
    tags = spell(found, words, scheme)
    assert entities(tags) == found
    assert convert(convert(tags, other), scheme) == tags
    detected = detect([tags])
    assert spell(found, words, detected) == tags


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("I-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),  # the type changes
        ("O I-A O", [(1, 2, "A")]),
        ("B-A B-B", [(0, 1, "A"), (1, 2, "B")]),
        ("S-A S-A", [(0, 1, "A"), (1, 2, "A")]),
        ("E-A E-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A E-A I-A", [(0, 2, "A"), (2, 3, "A")]),
        ("I-A S-A I-A", [(0, 1, "A"), (1, 2, "A"), (2, 3, "A")]),
        ("O O", []),
        ("", []),
    ],
)
def test_faulty_sequences_have_a_meaning(tags, found):
    assert entities(tags.split()) == found


def test_nothing_to_tell_schemes_apart_is_iob2():
    assert detect([["O", "O"], []]) == "iob2"
    assert detect([["B-A", "I-A"]]) == "iob2"


@pytest.mark.parametrize(
    ("tags", "message", "position"),
    [
        (["O PER"], "'PER'; it must be O, or B-", 1),
        (["O", "O U-PER"], "'U-PER'", 2),
        (["B-"], "'B-'", 0),
        (["o"], "'o'", 0),
        (["I-A O B-A"], r"tag 'B-A' where I-A \(iob1\) should stand", 2),  # iob1, then iob2
        (["S-A", "B-A O"], r"tag 'B-A' where S-A \(iobes\)", 1),
        (["B-A", "O I-B"], r"tag 'I-B' where B-B \(iob2\)", 2),
    ],
)
def test_unknown_and_mixed_schemes_are_refused(tags, message, position):
    with pytest.raises(SchemeError, match=message) as error:
        detect([sentence.split() for sentence in tags])
    assert error.value.position == position


def test_an_unknown_scheme_cannot_be_spelt():
    with pytest.raises(ValueError, match="scheme: 'bilou'; it must be one of iob1, iob2, iobes"):
        spell(FOUND, 10, "bilou")  # pyright: ignore[reportArgumentType]
