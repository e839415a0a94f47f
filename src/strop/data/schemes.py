"""Tag schemes: how the tags of single words spell entities, as `B-PER I-PER O` does.

| scheme | an entity of several words | of one word | right after another of its type |
|---|---|---|---|
| `iob1` | I I I | I | B I I |
| `iob2` | B I I | B | B I I |
| `iobes` | B I E | S | B I E |

Every word outside entities has the tag O. Types are what follows the first hyphen.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

Scheme = Literal["iob1", "iob2", "iobes"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

OUTSIDE = "O"
_PREFIXES = {"B", "I", "E", "S"}


class Entity(NamedTuple):
    """The words `start` to `stop` (exclusive) of a sentence, of a type."""

    start: int
    stop: int
    type: str


class SchemeError(ValueError):
    """Tags that follow no scheme, or not the one expected; `position` is that of the word at fault."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type: `I-PER` is I and PER; O has no type. Raises ValueError for anything else."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, hyphen, kind = tag.partition("-")
    if prefix not in _PREFIXES or not hyphen or not kind:
        raise ValueError(f"tag {tag!r}; it must be O, or B-, I-, E- or S- and a type, such as B-PER")
    return prefix, kind


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, whatever the scheme.

    Reads tags as the conlleval program does, so faulty sequences, which a tagger may well produce, have a
    meaning too: an entity begins at B, after O, and where the type changes. For `iobes`, which conlleval
    does not know in full, one also begins at S and after E and S.
    """
    found: list[Entity] = []
    start, before, before_kind = 0, OUTSIDE, ""
    for i, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = split_tag(tag)
        if prefix in ("O", "B", "S") or before in ("O", "E", "S") or kind != before_kind:
            if before != OUTSIDE:
                found.append(Entity(start, i, before_kind))
            start = i
        before, before_kind = prefix, kind
    return found


def spell(found: Iterable[Entity], words: int, scheme: Scheme) -> list[str]:
    """The tags of a sentence of `words` words with these entities, in order, in a scheme."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    tags = [OUTSIDE] * words
    last = Entity(-1, -1, "")
    for entity in found:
        start, stop, kind = entity
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if scheme != "iob1" or (last.stop, last.type) == (start, kind):
            tags[start] = f"B-{kind}"
        if scheme == "iobes":
            tags[stop - 1] = f"E-{kind}" if stop - start > 1 else f"S-{kind}"
        last = entity
    return tags


def convert(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The same entities in another scheme."""
    return spell(entities(tags), len(tags), scheme)


def detect(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The one scheme that all sentences follow.

    Where several fit, because nothing tells them apart, `iob2` goes before `iob1` before `iobes`.

    Raises:
        SchemeError: none fits; it counts positions through all sentences.
    """
    fitting: list[Scheme] = ["iob2", "iob1", "iobes"]
    position = 0
    for tags in sentences:
        for i, tag in enumerate(tags):
            try:
                split_tag(tag)
            except ValueError as error:
                raise SchemeError(str(error), position + i) from None
        found = entities(tags)
        spelt: dict[Scheme, list[str]] = {scheme: spell(found, len(tags), scheme) for scheme in fitting}
        for i, tag in enumerate(tags):
            remaining: list[Scheme] = [scheme for scheme in fitting if spelt[scheme][i] == tag]
            if not remaining:
                expected = " or ".join(f"{spelt[scheme][i]} ({scheme})" for scheme in fitting)
                raise SchemeError(f"tag {tag!r} where {expected} should stand", position + i)
            fitting = remaining
        position += len(tags)
    return fitting[0]
