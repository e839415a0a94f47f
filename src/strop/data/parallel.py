"""Parallel text: sentence pairs from files, vocabularies, and padded batches of sentences of like length.

Line i of a source file and line i of its target file are one pair; words are parted by white space.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from strop.data.text import END, SPLITS, UNKNOWN, DataError, Line, Vocabulary, read_text, split_lines

PAD, BEGIN = "<pad>", "<bos>"
SPECIALS = (PAD, UNKNOWN, BEGIN, END)
#: Their ids, in every vocabulary made here.
PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = range(4)

Ids = list[int]

# How subword-nmt marks a piece that goes on, and the share of a vocabulary that is no coincidence.
_PIECE, _PIECES = "@@", 0.05


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentence pairs as word ids, without BEGIN and END; `references` are the targets as they were read."""

    source: list[Ids]
    target: list[Ids]
    references: list[str]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class ParallelCorpus:
    """Three splits, and the vocabularies of the training split.

    Attributes:
        skipped: training pairs left out because a side was longer than `max_length` words.
        empty: training pairs left out because a side had no word.
    """

    name: str
    source: Vocabulary
    target: Vocabulary
    train: Pairs
    valid: Pairs
    test: Pairs
    skipped: int
    empty: int
    max_length: int

    def describe(self) -> str:
        words = sum(len(ids) + 1 for ids in self.train.target)
        unknown = _unknown_share(self.valid.target + self.test.target)
        return (
            f"{self.name}: {len(self.train):,} / {len(self.valid):,} / {len(self.test):,} pairs "
            f"(train / valid / test), {words:,} target words to train on, vocabularies of "
            f"{len(self.source):,} and {len(self.target):,} words, {unknown:.1%} of the valid and test "
            f"targets {UNKNOWN}; {self.skipped:,} training pairs skipped: longer than {self.max_length} "
            f"words; {self.empty:,} skipped: a side is empty"
        )

    @property
    def pieces(self) -> bool:
        """Whether it seems to be written in pieces of words (BPE), all but a word's last ending in `@@`."""
        return any(
            sum(word.endswith(_PIECE) for word in side.words) > _PIECES * len(side)
            for side in (self.source, self.target)
        )


class Batch(NamedTuple):
    """Sentences side by side, the longest source first.

    Attributes:
        source: int64 `[S, B]`, padded at the end.
        lengths: int64 `[B]`, on the CPU: words of each source, descending.
        target: int64 `[T + 1, B]`: BEGIN, the words, END, padded at the end.
        words: of the targets, END included.
    """

    source: Tensor
    lengths: Tensor
    target: Tensor
    words: int


def read_sentences(file: Path) -> list[Line]:
    """The words of every line, none of an empty one. Raises DataError, naming the file, if all are empty."""
    sentences = [line.split() for line in split_lines(read_text(file))]
    if not any(sentences):
        raise DataError(f"{file}: empty; at least one sentence is needed")
    return sentences


def read_pairs(source: Path, target: Path, *, whole: bool) -> tuple[list[Line], list[Line]]:
    """Both sides of parallel text, of equal length and, if it is to be used `whole`, without empty lines.

    Raises DataError, naming files and line.
    """
    left, right = read_sentences(source), read_sentences(target)
    if len(left) != len(right):
        (short, n), (long, m) = sorted(((source, len(left)), (target, len(right))), key=lambda end: end[1])
        raise DataError(
            f"{long}, line {n + 1}: nothing stands opposite in {short}, which has {n:,} lines, not {m:,}; "
            "line i of both files must be a translation of each other"
        )
    if whole:
        _refuse_empty(source, left)
        _refuse_empty(target, right)
    return left, right


def _refuse_empty(file: Path, sentences: Sequence[Line]) -> None:
    empty = [number for number, sentence in enumerate(sentences, 1) if not sentence]
    if empty:
        raise DataError(
            f"{file}, line {empty[0]}: empty ({len(empty):,} such lines in the file); only training text may "
            "have them: remove them here and the same lines in the other language"
        )


def vocabulary(sentences: Iterable[Line], max_size: int = 50_000, min_count: int = 1) -> Vocabulary:
    """The special words, then the most frequent; equal counts go in alphabetical order.

    Args:
        max_size: entries at most, the four special ones included.
        min_count: rarer words are left out.
    """
    if max_size <= len(SPECIALS):
        raise DataError(f"max_size: {max_size}; more than {len(SPECIALS)} are needed: {', '.join(SPECIALS)}")
    if min_count < 1:
        raise DataError(f"min_count: {min_count}; at least 1 is needed")
    counts = Counter(chain.from_iterable(sentences))
    words = [word for word, count in counts.items() if count >= min_count and word not in SPECIALS]
    words.sort(key=lambda word: (-counts[word], word))
    return Vocabulary([*SPECIALS, *words[: max_size - len(SPECIALS)]])


def encode(words: Vocabulary, sentence: Line) -> Ids:
    """Word ids; a special word in the text itself is an unknown one."""
    ids = [words[word] for word in sentence]
    return [UNKNOWN_ID if i < len(SPECIALS) else i for i in ids]


def load_parallel(
    sources: Sequence[Path],
    targets: Sequence[Path],
    *,
    max_size: int = 50_000,
    min_count: int = 1,
    max_length: int = 50,
) -> ParallelCorpus:
    """Reads train, valid and test files of both languages, plain or `.gz`.

    Training pairs with an empty side, or with one of more than `max_length` words, are left out, and
    counted; empty lines of valid and test are refused. Raises DataError naming file, line and remedy.
    """
    for name, files in (("src", sources), ("tgt", targets)):
        if len(files) != len(SPLITS):
            raise DataError(f"{name}: {len(files)} files; three are needed: train, valid and test")
    if max_length < 1:
        raise DataError(f"max_length: {max_length}; at least 1 is needed")
    splits = [
        read_pairs(*files, whole=split != "train")
        for split, *files in zip(SPLITS, sources, targets, strict=True)
    ]
    full = [pair for pair in zip(*splits[0], strict=True) if all(pair)]
    train = [pair for pair in full if max(len(side) for side in pair) <= max_length]
    if not train:
        raise DataError(
            f"{sources[0]}: every pair has a side of more than {max_length} words, or an empty one; "
            "raise the limit (--max-length)"
        )
    empty, skipped = len(splits[0][0]) - len(full), len(full) - len(train)
    splits[0] = ([left for left, _ in train], [right for _, right in train])
    source = vocabulary(splits[0][0], max_size, min_count)
    target = vocabulary(splits[0][1], max_size, min_count)
    parts = {
        split: Pairs(
            [encode(source, line) for line in left],
            [encode(target, line) for line in right],
            [" ".join(line) for line in right],
        )
        for split, (left, right) in zip(SPLITS, splits, strict=True)
    }
    name = f"{sources[0].name} and {targets[0].name}"
    return ParallelCorpus(name, source, target, skipped=skipped, empty=empty, max_length=max_length, **parts)


def by_length(pairs: Pairs, batch: int, seed: int | None = None) -> list[list[int]]:
    """Numbers of the pairs, in batches of at most `batch` sentences of like length.

    Every pair is in exactly one batch, and the sizes of batches differ by at most one. With `seed` pairs
    of the same lengths and the order of batches are drawn anew from it. Targets come first in the order:
    the decoder and the softmax, which compute on padding too, take most of the time (on Multi30k en-de
    0.3 % of the targets is then padding; sorted by source 5 %).
    """
    if batch < 1:
        raise DataError(f"batch: {batch}; at least 1 is needed")
    generator = torch.Generator().manual_seed(seed or 0)
    order = list(range(len(pairs)))
    if seed is not None:
        order = torch.randperm(len(pairs), generator=generator).tolist()
    order.sort(key=lambda i: (len(pairs.target[i]), len(pairs.source[i])))
    count = -(-len(pairs) // batch)
    groups = [part.tolist() for part in torch.tensor(order).tensor_split(count)]
    if seed is None:
        return groups
    return [groups[i] for i in torch.randperm(count, generator=generator).tolist()]


def collate(pairs: Pairs, numbers: Sequence[int], device: torch.device | str = "cpu") -> Batch:
    """The pairs of these numbers side by side, the longest source first."""
    numbers = sorted(numbers, key=lambda i: -len(pairs.source[i]))
    sources = [pairs.source[i] for i in numbers]
    targets = [[BEGIN_ID, *pairs.target[i], END_ID] for i in numbers]
    return Batch(
        pad(sources).to(device),
        torch.tensor([len(ids) for ids in sources]),
        pad(targets).to(device),
        sum(len(ids) - 1 for ids in targets),
    )


def pad(sentences: Sequence[Ids]) -> Tensor:
    """`[longest, sentences]`, int64, padded at the end."""
    columns = [torch.tensor(ids, dtype=torch.int64) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(columns, padding_value=PAD_ID)


def _unknown_share(sentences: Iterable[Ids]) -> float:
    ids = list(chain.from_iterable(sentences))
    return ids.count(UNKNOWN_ID) / len(ids)
