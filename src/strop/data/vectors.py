"""Pre-trained word vectors in GloVe's text format: a word and its numbers on each line, parted by
spaces or tabs."""

import gzip
import math
import zlib
from collections.abc import Collection
from pathlib import Path

import torch

from strop.data.conll import split_columns
from strop.data.text import DataError, decode_lines, unreadable

_LARGEST = torch.finfo(torch.float32).max


def read_vectors(file: Path | str, wanted: Collection[str], width: int) -> dict[str, list[float]]:
    """The vectors of the `wanted` words; the others are passed over, the first of each word counts.

    The width of every line is checked, so that a damaged file does not pass. Reads `.gz` too.

    Raises:
        DataError: a line without `width` numbers, a number that is none, bytes that are not UTF-8, no
            wanted word at all: the file and line are named.
    """
    file = Path(file)
    found: dict[str, list[float]] = {}
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(decode_lines(str(file), lines), start=1):
                place = f"{file}, line {number}"
                # Some words of the largest GloVe files have spaces in them: the numbers are at the end.
                columns = split_columns(line)
                parts, numbers = columns[:-width], columns[-width:]
                if not parts or (len(parts) > 1 and _is_number(parts[-1])):
                    first, *rest = columns or [""]
                    if number == 1 and len(columns) == 2 and all(map(str.isdecimal, columns)):
                        raise DataError(
                            f"{place}: {first} and {rest[0]}, a header as word2vec's text format has it; "
                            "remove the line: GloVe's has none"
                        )
                    raise DataError(
                        f"{place}: {len(rest)} numbers after {first!r}; the model's words have {width}: "
                        "name a file of that width, or change the model's (--word-units)"
                    )
                word = " ".join(parts)
                if word in wanted and word not in found:
                    found[word] = [_number(place, text) for text in numbers]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: damaged or not gzip ({error}); fetch it again") from error
    except OSError as error:
        raise unreadable(file, error) from error
    if not found:
        raise DataError(f"{file}: none of its {number:,} words occurs in the data; is it of this language?")
    return found


def _number(place: str, text: str) -> float:
    if not _is_number(text):
        raise DataError(f"{place}: {text!r} is not a number")
    if abs(number := float(text)) > _LARGEST:
        raise DataError(f"{place}: {text} is larger than single precision can hold")
    return number


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
