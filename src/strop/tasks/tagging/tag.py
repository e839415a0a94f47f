"""The command `strop tag`: labels what comes on standard input with a trained tagger."""

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, groupby

from strop.data.conll import DOCUMENT, split_columns
from strop.data.schemes import OUTSIDE
from strop.data.text import decode_lines, in_chunks
from strop.limits import find_device
from strop.streams import write_utf8
from strop.tasks.tagging.predicting import load_tagger, predict
from strop.tasks.tagging.tag_options import Options

# A sentence as rows of columns, a word in the first.
_Rows = list[list[str]]
# Sentences read at a time, to label those of like length side by side.
_AT_ONCE = 1024


def run(options: Options) -> int:
    """The command `strop tag`: 0 when all input has been labelled."""
    device = find_device(options.device)
    model, vocabularies = load_tagger(options.run, device)
    scheme = options.scheme or vocabularies.data_scheme
    write_utf8()
    lines = decode_lines("stdin", sys.stdin.buffer)
    sentences = _in_columns(lines) if options.columns else _in_lines(lines)
    # At a terminal an answer to every sentence.
    at_once = 1 if sys.stdin.isatty() else _AT_ONCE
    for read in in_chunks(sentences, at_once):
        words = [sentence for rows in read for sentence in _sentences(rows)]
        tags = chain.from_iterable(predict(model, vocabularies, words, scheme, device))
        for rows in read:
            for row in rows:
                print(*row, OUTSIDE if row[0] == DOCUMENT else next(tags))
            print()
        sys.stdout.flush()
    return 0


def _sentences(rows: _Rows) -> Iterator[list[str]]:
    """The words of rows without an empty line between them; as in training data a document begins anew."""
    for begins, group in groupby(rows, key=lambda row: row[0] == DOCUMENT):
        if not begins:
            yield [row[0] for row in group]


def _in_lines(lines: Iterable[str]) -> Iterator[_Rows]:
    """A sentence for each line, empty or not."""
    for line in lines:
        yield [[word] for word in split_columns(line)]


def _in_columns(lines: Iterable[str]) -> Iterator[_Rows]:
    """A sentence up to each empty line, and up to the end."""
    rows: _Rows = []
    for line in lines:
        if columns := split_columns(line):
            rows.append(columns)
        else:
            yield rows
            rows = []
    if rows:
        yield rows
