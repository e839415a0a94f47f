"""Word-level text: vocabulary, corpora from files or from Python's own documentation, batches.

A corpus is a stream of word ids per split, with `<eos>` at the end of every line. Nothing here knows
about models or kernels; torch and the standard library are enough.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from strop.data import embedded
from strop.data.errors import DataError as DataError

UNKNOWN = "<unk>"
END = "<eos>"
SPLITS = ("train", "valid", "test")

Line = list[str]
T = TypeVar("T")


class Vocabulary:
    """Words with ids 0, 1, …, the most frequent first. `<unk>` and `<eos>` are always among them."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise DataError("words: every word may stand in a vocabulary only once")
        for special in (UNKNOWN, END):
            if special not in self._ids:
                raise DataError(f"words: {special} is missing; a vocabulary needs {UNKNOWN} and {END}")

    @classmethod
    def build(cls, lines: Iterable[Line], min_count: int = 1, max_size: int | None = None) -> "Vocabulary":
        """Counts the words of `lines` and one `<eos>` per line; equal counts go in alphabetical order.

        Words seen fewer than `min_count` times are left out, and only the `max_size` most frequent
        entries stay (the two special ones included).
        """
        if min_count < 1:
            raise DataError(f"min_count: {min_count}; at least 1 is needed")
        if max_size is not None and max_size < 3:
            raise DataError(f"max_size: {max_size}; at least 3 is needed: {UNKNOWN}, {END} and one word")
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(line)
            counts[END] += 1
        order = sorted(counts, key=lambda word: (-counts[word], word))
        words = [word for word in order if counts[word] >= min_count and word not in (UNKNOWN, END)]
        if max_size is not None:
            words = words[: max_size - 2]
        kept = {*words, UNKNOWN, END}
        counts[UNKNOWN] += sum(n for word, n in counts.items() if word not in kept)
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    @classmethod
    def read(cls, file: Path) -> "Vocabulary":
        """What `to_json` wrote into `file`. Raises DataError, naming the file."""
        try:
            words = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{file}: no vocabulary there ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f"{file}: damaged ({error}); restore it from a copy") from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{file}: not a vocabulary; a JSON list of words is needed")
        with naming(str(file)):
            return cls(words)

    def to_json(self) -> str:
        """The words in order, as a JSON list with one per line."""
        return json.dumps(self.words, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __getitem__(self, word: str) -> int:
        """The id of `word`, or that of `<unk>`."""
        return self._ids.get(word, self._ids[UNKNOWN])

    def encode(self, lines: Iterable[Line]) -> Tensor:
        """All words of `lines` in order as int64 ids, `<eos>` after each line."""
        find, unknown, end = self._ids.get, self._ids[UNKNOWN], self._ids[END]
        ids: list[int] = []
        for line in lines:
            ids.extend([find(word, unknown) for word in line])
            ids.append(end)
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Tensor) -> list[str]:
        return [self.words[i] for i in ids.flatten().tolist()]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three splits as 1-D int64 tensors of word ids, with the vocabulary of the training split."""

    name: str
    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor

    def describe(self) -> str:
        unknown = self.vocabulary[UNKNOWN]
        held_out = torch.cat([self.valid, self.test])
        share = (held_out == unknown).double().mean().item()
        return (
            f"{self.name}: {len(self.train):,} / {len(self.valid):,} / {len(self.test):,} tokens "
            f"(train / valid / test), {len(self.vocabulary):,} words in the vocabulary, "
            f"{share:.1%} of valid and test {UNKNOWN}"
        )


def load_corpus(
    path: Path | str | None = None, *, min_count: int | None = None, max_size: int | None = None
) -> Corpus:
    """Reads a folder of text files, or, with None, the documentation that every Python carries.

    The folder holds exactly one file each with `train`, `valid` and `test` in its name, UTF-8 text of
    words parted by white space, plain or `.gz`. `min_count` defaults to 1 for a folder and to 2 for the
    embedded text (whose words seen once then stand for all unknown ones); `max_size` to no limit and to
    10,000. Raises DataError, naming the file and the remedy.
    """
    if path is None:
        try:
            splits = embedded.documentation()
        except embedded.NoSourcesError as error:
            raise DataError(f"{error}; name a folder of text files instead (--data DIR)") from error
        return _corpus("Python's documentation", splits, _or(min_count, 2), _or(max_size, 10_000))
    folder = Path(path)
    splits = {split: _read_lines(file) for split, file in find_splits(folder).items()}
    return _corpus(str(folder), splits, _or(min_count, 1), max_size)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _corpus(name: str, splits: dict[str, list[Line]], min_count: int, max_size: int | None) -> Corpus:
    vocabulary = Vocabulary.build(splits["train"], min_count, max_size)
    train, valid, test = (vocabulary.encode(splits[split]) for split in SPLITS)
    return Corpus(name, vocabulary, train, valid, test)


def find_splits(folder: Path) -> dict[str, Path]:
    """The file of each split. A name that holds several split names counts for the last of them."""
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; give the folder that holds the text files")
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; give the folder that holds the train, valid and test files")
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    for file in files:
        split = max(SPLITS, key=file.name.lower().rfind)
        if split in file.name.lower():
            found[split].append(file)
    for split, candidates in found.items():
        if not candidates:
            raise DataError(
                f"{folder}: no file with '{split}' in its name; put the {split} text there, plain or .gz"
            )
        if len(candidates) > 1:
            names = ", ".join(file.name for file in candidates)
            raise DataError(
                f"{folder}: {len(candidates)} files have '{split}' in their name ({names}); "
                "leave exactly one, or move the set into a folder of its own"
            )
    return {split: candidates[0] for split, candidates in found.items()}


def read_text(file: Path) -> str:
    """The UTF-8 text of a file, plain or `.gz`. Raises DataError, naming file, line and remedy."""
    try:
        raw = file.read_bytes()
        if file.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged or not gzip ({error}); compress it again with gzip") from error
    except OSError as error:
        raise unreadable(file, error) from error
    if b"\0" in raw:
        at = raw.index(b"\0")
        line = _line(raw, at)
        raise DataError(f"{file}: binary data (a NUL byte at offset {at}, line {line}); UTF-8 text is needed")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 (byte {raw[error.start]:#04x} at offset {error.start}, "
            f"line {_line(raw, error.start)}); convert it, e.g. with iconv -t utf-8"
        ) from error


# Of any system, and doubled by one that wrote what another had ended. Not what str.splitlines takes as well:
# U+2028 and its like are part of a line's text, not its end.
_END_OF_LINE = re.compile(r"\r*\n|\r")


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends: LF, CR LF or, as on old Macs, CR alone."""
    lines = _END_OF_LINE.split(text) if "\r" in text else text.split("\n")
    return lines if lines[-1] else lines[:-1]


def unreadable(file: Path, error: OSError) -> DataError:
    """What to tell of a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{file}: no such file; check its name")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{file}: a folder; name a file")
    return DataError(f"{file}: cannot be read ({error.strerror}); check its permissions")


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Puts the `place` of the data before what a DataError raised inside says."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _line(raw: bytes, offset: int) -> int:
    return len(split_lines(raw[:offset].decode("latin-1") + "."))


def decode_lines(name: str, lines: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 lines of a stream called `name`, without their ends. Raises DataError, naming the line."""
    number = 1
    for line in lines:
        try:
            # A byte order mark is no part of the first word.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            number += len(split_lines(line[: error.start].decode("utf-8") + ".")) - 1
            raise DataError(
                f"{name}, line {number}: not UTF-8 (byte {line[error.start]:#04x}); "
                "convert it, e.g. with iconv -t utf-8"
            ) from error
        for each in split_lines(text):
            yield each
            number += 1


def in_chunks(found: Iterable[T], size: int) -> Iterator[list[T]]:
    """What a stream gives, `size` at a time; what came before a DataError is given before it is raised."""
    chunk: list[T] = []
    try:
        for each in found:
            chunk.append(each)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except DataError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _read_lines(file: Path) -> list[Line]:
    tokens = [line.split() for line in split_lines(read_text(file))]
    if not any(tokens):
        raise DataError(f"{file}: empty; a split needs at least one word")
    return tokens


def batchify(ids: Tensor, batch: int) -> Tensor:
    """Cuts a stream of ids [N] into `batch` columns [N // batch, batch], each a contiguous stretch.

    The remainder is trimmed. Raises DataError where a column would be too short for one input and one
    target.
    """
    if ids.dim() != 1:
        raise DataError(f"ids: shape {tuple(ids.shape)}; one stream [N] is needed")
    if batch < 1:
        raise DataError(f"batch: {batch}; at least 1 is needed")
    rows = len(ids) // batch
    if rows < 2:
        raise DataError(
            f"ids: {len(ids)} tokens are too few for a batch of {batch}: at least {2 * batch} are needed "
            "(an input and a target per column); use a smaller batch or more text"
        )
    return ids[: rows * batch].view(batch, rows).t().contiguous()


class Windows(Sequence[tuple[Tensor, Tensor]]):
    """Consecutive truncated-BPTT windows over the columns of `batchify`; see `windows`."""

    def __init__(self, columns: Tensor, steps: int, drop_last: bool) -> None:
        self._columns = columns
        self._steps = steps
        targets = len(columns) - 1
        self._count = targets // steps if drop_last else -(-targets // steps)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not -self._count <= index < self._count:
            raise IndexError(f"window {index} of {self._count}")
        start = index % self._count * self._steps
        stop = min(start + self._steps, len(self._columns) - 1)
        return self._columns[start:stop], self._columns[start + 1 : stop + 1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(self._count))


def windows(columns: Tensor, steps: int, *, drop_last: bool = False) -> Windows:
    """Windows (x, y), each [≤ steps, batch], in order: y is the word after x. Indexable, with a length.

    Every word but the first row is a target exactly once; the last window may be shorter, or is left
    out with `drop_last`.
    """
    if columns.dim() != 2:
        raise DataError(f"columns: shape {tuple(columns.shape)}; [rows, batch] from batchify is needed")
    if steps < 1:
        raise DataError(f"steps: {steps}; at least 1 is needed")
    needed = steps + 1 if drop_last else 2
    if len(columns) < needed:
        raise DataError(
            f"columns: {len(columns)} rows are too few for a window of {steps} steps: at least {needed} are "
            "needed; use a smaller batch, fewer steps or more text"
        )
    return Windows(columns, steps, drop_last)
