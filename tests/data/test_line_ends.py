"""Ends of lines of every system mean the same in every file and stream."""

from __future__ import annotations

import gzip
import io

import pytest
import torch

from strop.data.conll import read_tagged
from strop.data.parallel import load_parallel, read_pairs, read_sentences
from strop.data.text import DataError, decode_lines, load_corpus, split_lines
from strop.data.vectors import read_vectors

ENDS = {"LF": "\n", "CR LF": "\r\n", "CR": "\r", "CR CR LF": "\r\r\n"}
ends = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
TAGGED = "Ann B-PER\nwent O\n\nRome B-LOC\n\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\rb\r", ["a", "b"]),
        ("a\r\rb", ["a", "", "b"]),
        ("a\r\n\r\nb\nc\rd", ["a", "", "b", "c", "d"]),
        ("a\r\r\nb", ["a", "b"]),
        ("\r", [""]),
        ("a\u2028b\x0bc\x85d\n", ["a\u2028b\x0bc\x85d"]),
    ],
)
def test_lines(text, lines):
    assert split_lines(text) == lines


@ends
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
def test_streams(end, last):
    text = end.join(["\ufeffa b", "", "c"]) + (end if last else "")
    raw = text.encode()
    assert list(decode_lines("stdin", io.BytesIO(raw))) == ["a b", "", "c"]


@ends
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files(end, suffix, tmp_path):
    def written(name, text):
        file, raw = tmp_path / (name + suffix), text.replace("\n", end).encode()
        file.write_bytes(gzip.compress(raw) if suffix else raw)
        return file

    _, rows = read_tagged(written("tagged.txt", TAGGED))
    assert [(row.words, row.tags, row.line) for row in rows] == [
        (("Ann", "went"), ("B-PER", "O"), 1),
        (("Rome",), ("B-LOC",), 4),
    ]
    assert read_sentences(written("a.en", "a b\n\nc\n")) == [["a", "b"], [], ["c"]]
    vectors = read_vectors(written("v.txt", "a 1 2\nb 3 4\n"), {"a", "b"}, 2)
    assert vectors == {"a": [1, 2], "b": [3, 4]}
    (tmp_path / "text").mkdir()
    for split in ("train", "valid", "test"):
        written(f"text/{split}.txt", "a b\nc\n\nd\n")
    corpus = load_corpus(tmp_path / "text")
    assert corpus.vocabulary.decode(corpus.train) == ["a", "b", "<eos>", "c", "<eos>", "<eos>", "d", "<eos>"]


def test_parallel_files_of_two_systems(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.en").write_bytes(b"a b\rc\r")
        (tmp_path / f"{split}.de").write_bytes(b"x\r\ny z\r\n")
    files = [[tmp_path / f"{split}.{side}" for split in ("train", "valid", "test")] for side in ("en", "de")]
    assert read_pairs(files[0][0], files[1][0], whole=True) == ([["a", "b"], ["c"]], [["x"], ["y", "z"]])
    assert len(load_parallel(*files).train.source) == 2


@ends
def test_faults_are_named_by_line(end, tmp_path):
    def fault(read, raw):
        file = tmp_path / "data.txt"
        file.write_bytes(raw.replace(b"\n", end.encode()))
        with pytest.raises(DataError) as error:
            read(file)
        return str(error.value)

    assert "line 3: 'word' is one column" in fault(read_tagged, b"a O\n\nword\n")
    assert "line 3)" in fault(read_sentences, b"a\nb\n\xff\n")
    assert "line 2)" in fault(read_sentences, b"a\nb\0\n")
    assert "line 3" in fault(lambda file: read_vectors(file, {"a"}, 1), b"a 1\nb 2\nc\xff 3\n")
    assert "line 2" in fault(lambda file: read_vectors(file, {"a"}, 1), b"a 1\nb\n")


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u200b", "\u3000", "\x0b"])
def test_white_space_that_parts_no_columns_is_shown(space, tmp_path):
    file = tmp_path / "data.txt"
    file.write_text(TAGGED.replace("\n\n", f"\n{space}\n", 1), encoding="utf-8", newline="")
    with pytest.raises(DataError) as error:
        read_tagged(file)
    assert f"line 3: {space!r} is one column" in str(error.value)
    assert "\\" in repr(space)


def test_ids_are_those_of_other_line_ends(tmp_path):
    found = []
    for name, end in ENDS.items():
        folder = tmp_path / name.replace(" ", "")
        folder.mkdir()
        for split in ("train", "valid", "test"):
            (folder / f"{split}.txt").write_bytes(f"a b{end}c d{end}".encode())
        found.append(load_corpus(folder).train)
    assert all(torch.equal(each, found[0]) for each in found)
