"""Tagged sentences in the column format of the CoNLL shared tasks.

    -DOCSTART- -X- -X- O            begins a document, and is skipped

    U.N.      NNP  I-NP  I-ORG      a word, whatever columns, and its tag in the last one
    official  NN   I-NP  O

One word a line, columns parted by spaces or tabs, an empty line between sentences, UTF-8, plain or `.gz`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from strop.data.schemes import Scheme, SchemeError, convert, detect, entities
from strop.data.text import SPLITS, DataError, find_splits, read_text, split_lines

#: The word that begins a document, in a sentence of its own.
DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class Sentence:
    """Words with their tags, in `iob2`. `line` is where the sentence begins in its file."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class TaggedCorpus:
    """Three splits of tagged sentences, and the scheme that their files are written in."""

    name: str
    scheme: Scheme
    train: tuple[Sentence, ...]
    valid: tuple[Sentence, ...]
    test: tuple[Sentence, ...]

    def describe(self) -> str:
        """One line: sizes, and entities by type of the training split."""
        splits = (self.train, self.valid, self.test)
        words = " / ".join(f"{sum(map(len, split)):,}" for split in splits)
        sentences = " / ".join(f"{len(split):,}" for split in splits)
        types = Counter(entity.type for sentence in self.train for entity in entities(sentence.tags))
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(types.items())) or "none"
        return (
            f"{self.name}: {words} words in {sentences} sentences (train / valid / test), tags in "
            f"{self.scheme}; entities to learn from: {kinds}"
        )

    def words(self) -> set[str]:
        """The distinct words of all splits, lower-cased."""
        splits = (self.train, self.valid, self.test)
        return {word.lower() for split in splits for sentence in split for word in sentence.words}


def load_tagged(path: Path | str) -> TaggedCorpus:
    """Reads a folder that holds one file each with `train`, `valid` and `test` in its name.

    The scheme of the tags (`iob1`, `iob2` or `iobes`) is found out; all three files must be in the same.
    Raises DataError, naming the file and the line.
    """
    folder = Path(path)
    files = find_splits(folder)
    rows = {split: list(_sentences(file)) for split, file in files.items()}
    schemes: dict[str, Scheme] = {split: _scheme(files[split], rows[split]) for split in SPLITS}
    # A file without anything that tells schemes apart passes for iob2, and follows the others.
    found = set(schemes.values())
    scheme = "iob1" if "iob1" in found else "iobes" if "iobes" in found else "iob2"
    for split in SPLITS:
        if (departure := _departure(rows[split], scheme)) is not None:
            line, tag = departure
            other = next(split for split in SPLITS if schemes[split] == scheme)
            sign = _departure(rows[other], "iob2")
            assert sign is not None  # else that file would pass for iob2
            raise DataError(
                f"{files[split]}, line {line}: tag {tag!r} is not {scheme}, as {files[other]} is "
                f"(line {sign[0]}: {sign[1]!r}); write all three in one scheme"
            )
    train, valid, test = (tuple(map(_in_iob2, rows[split])) for split in SPLITS)
    return TaggedCorpus(str(folder), scheme, train, valid, test)


def read_tagged(file: Path) -> tuple[Scheme, list[Sentence]]:
    """The sentences of one file, and the scheme it is written in. Raises DataError."""
    rows = list(_sentences(file))
    scheme = _scheme(file, rows)
    return scheme, [_in_iob2(sentence) for sentence in rows]


def split_columns(line: str) -> list[str]:
    """The columns of a line; none if it is empty."""
    # Not split(): a no-break space may be part of a word.
    return [column for column in line.replace("\t", " ").strip("\r\n").split(" ") if column]


def _sentences(file: Path) -> Iterator[Sentence]:
    """The sentences with their tags as they stand there."""
    words: list[str] = []
    tags: list[str] = []
    width = first = 0
    any_sentence = False
    # A line more, empty, ends the last sentence.
    for number, line in enumerate([*split_lines(read_text(file)), ""], start=1):
        columns = split_columns(line)
        if not columns or columns[0] == DOCUMENT:
            if words:
                any_sentence = True
                yield Sentence(tuple(words), tuple(tags), number - len(words))
            words, tags = [], []
            continue
        if len(columns) < 2:
            raise DataError(
                f"{file}, line {number}: {columns[0]!r} is one column; a word and its tag are needed, "
                "parted by a space or tab (other white space is part of a word)"
            )
        if width and len(columns) != width:
            raise DataError(
                f"{file}, line {number}: {len(columns)} columns, but {width} in line {first}; "
                "every row needs the same columns, the tag last"
            )
        if not width:
            width, first = len(columns), number
        words.append(columns[0])
        tags.append(columns[-1])
    if not any_sentence:
        raise DataError(f"{file}: no sentence in it; a split needs at least one")


def _scheme(file: Path, rows: Sequence[Sentence]) -> Scheme:
    try:
        return detect(sentence.tags for sentence in rows)
    except SchemeError as error:
        raise DataError(f"{file}, line {_line(rows, error.position)}: {error}") from None


def _line(rows: Sequence[Sentence], position: int) -> int:
    """The line of a word, counted through all sentences."""
    for sentence in rows:
        if position < len(sentence):
            return sentence.line + position
        position -= len(sentence)
    raise IndexError(position)


def _departure(rows: Sequence[Sentence], scheme: Scheme) -> tuple[int, str] | None:
    """Line and tag of the first word whose tag is another one in `scheme`."""
    for sentence in rows:
        for i, (tag, expected) in enumerate(zip(sentence.tags, convert(sentence.tags, scheme), strict=True)):
            if tag != expected:
                return sentence.line + i, tag
    return None


def _in_iob2(sentence: Sentence) -> Sentence:
    return Sentence(sentence.words, tuple(convert(sentence.tags, "iob2")), sentence.line)
