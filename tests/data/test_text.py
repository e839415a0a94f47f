import gzip
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strop.data.text import DataError, Vocabulary, batchify, load_corpus, windows

LINES = {"train": "the cat sat\nthe dog\n", "valid": "the bird sat\n", "test": "dog\n\n"}


def write(folder: Path, name: str = "{}.txt", **changed: str | bytes | None) -> Path:
    for split, text in {**LINES, **changed}.items():
        if text is None:
            continue
        data = text if isinstance(text, bytes) else text.encode()
        file = folder / name.format(split)
        file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return folder


@pytest.mark.parametrize("name", ["{}.txt", "ptb.{}.txt.gz", "wiki.{}.tokens", "LATEST.{}", "my-{}-set.gz"])
def test_reads_a_folder(tmp_path: Path, name: str):
    corpus = load_corpus(write(tmp_path, name))
    words = corpus.vocabulary
    assert words.words == ("<eos>", "the", "cat", "dog", "sat", "<unk>")
    assert words.decode(corpus.train) == ["the", "cat", "sat", "<eos>", "the", "dog", "<eos>"]
    assert words.decode(corpus.valid) == ["the", "<unk>", "sat", "<eos>"]
    assert words.decode(corpus.test) == ["dog", "<eos>", "<eos>"]
    assert corpus.train.dtype == torch.int64
    assert "7 / 4 / 3 tokens" in corpus.describe()


def test_line_ends(tmp_path: Path):
    """A mark of the byte order, Windows' line ends and a missing last one; U+2028 ends no line."""
    corpus = load_corpus(write(tmp_path, train=b"\xef\xbb\xbfa b\r\nc", valid="a\u2028b\n"))
    assert corpus.vocabulary.decode(corpus.train) == ["a", "b", "<eos>", "c", "<eos>"]
    assert corpus.vocabulary.decode(corpus.valid) == ["a", "b", "<eos>"]


def test_ignores_folders_hidden_and_other_files(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / ".train.txt.swp").write_bytes(b"\0")
    (tmp_path / "README.md").write_text("x")
    assert len(load_corpus(tmp_path).train) == 7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"valid": None}, "no file with 'valid' in its name; put the valid text there"),
        ({"valid": ""}, "valid.txt: empty"),
        ({"valid": " \n\n"}, "valid.txt: empty"),
        ({"train": b"abc\0def"}, "train.txt: binary data (a NUL byte at offset 3, line 1)"),
        ({"test": b"un\ncaf\xe9 au lait"}, "test.txt: not UTF-8 (byte 0xe9 at offset 6, line 2)"),
    ],
)
def test_refuses_bad_files(tmp_path: Path, changed, message: str):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load_corpus(write(tmp_path, **changed))
    assert str(tmp_path) in str(error.value)


def test_refuses_ambiguous_splits(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "train.txt.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 files have 'train' .*train\.txt, train\.txt\.gz.*exactly one"):
        load_corpus(tmp_path)


def test_refuses_damaged_gzip(tmp_path: Path):
    write(tmp_path, "{}.gz")
    whole = (tmp_path / "train.gz").read_bytes()
    for damaged in (b"not gzip", whole[:-9], whole[:12] + b"\xff\xff\xff" + whole[15:]):
        (tmp_path / "train.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.gz: damaged or not gzip"):
            load_corpus(tmp_path)


def test_refuses_what_is_no_folder(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        load_corpus(tmp_path / "absent")
    write(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        load_corpus(tmp_path / "train.txt")


@pytest.mark.parametrize(("file", "vocabulary", "tokens"), [
    ("ptb", 10_000, (929_589, 73_760, 82_430)),
    ("wikitext-2", 33_278, (2_088_628, 217_646, 245_569)),
])  # fmt: skip
def test_published_counts(file: str, vocabulary: int, tokens: tuple[int, int, int]):
    folder = Path(os.environ.get("STROP_DATA", "absent")) / file
    if not folder.is_dir():
        pytest.skip(f"STROP_DATA names no folder that holds {file}")
    corpus = load_corpus(folder)
    assert len(corpus.vocabulary) == vocabulary
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == tokens


def test_vocabulary_limits():
    lines = [["b", "a", "b", "c"], ["b", "a"]]
    assert Vocabulary.build(lines).words == ("b", "<eos>", "a", "c", "<unk>")
    assert Vocabulary.build(lines, min_count=2).words == ("b", "<eos>", "a", "<unk>")
    small = Vocabulary.build(lines, max_size=3)
    assert small.words == ("<unk>", "b", "<eos>")  # a, a and c are unknown: as frequent as b
    assert small["a"] == small["<unk>"] == 0
    assert "a" not in small
    for bad in ({"min_count": 0}, {"max_size": 2}):
        with pytest.raises(DataError, match="at least"):
            Vocabulary.build(lines, **bad)
    with pytest.raises(DataError, match="<eos> is missing"):
        Vocabulary(["<unk>"])
    with pytest.raises(DataError, match="only once"):
        Vocabulary(["<unk>", "<eos>", "<unk>"])


def test_limits_apply_to_folders(tmp_path: Path):
    assert len(load_corpus(write(tmp_path), min_count=2).vocabulary) == 3
    assert len(load_corpus(tmp_path, max_size=4).vocabulary) == 4
    with pytest.raises(DataError, match="min_count: 0"):
        load_corpus(tmp_path, min_count=0)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 12), st.booleans())
def test_windows_cover_the_stream(count: int, batch: int, steps: int, drop_last: bool):
    ids = torch.arange(count)
    rows = count // batch
    if rows < (steps + 1 if drop_last else 2):
        with pytest.raises(DataError, match="too few"):
            windows(batchify(ids, batch), steps, drop_last=drop_last)
        return
    columns = batchify(ids, batch)
    assert columns.is_contiguous()
    assert columns.t().flatten().equal(ids[: rows * batch])
    made = list(windows(columns, steps, drop_last=drop_last))
    assert len(made) == len(windows(columns, steps, drop_last=drop_last))
    assert all(y.equal(x + 1) for x, y in made)
    assert all(len(x) == steps for x, _ in made[:-1])
    seen = torch.cat([x for x, _ in made])
    assert seen.equal(columns[: len(seen)])
    assert rows - 1 - len(seen) in (range(steps) if drop_last else [0])


def test_windows_are_a_sequence():
    made = windows(batchify(torch.arange(20), 2), 4)
    assert made[-1][0].equal(made[2][0])
    with pytest.raises(IndexError, match="window 3 of 3"):
        made[3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batchify(torch.zeros(2, 2), 1), "ids: shape (2, 2)"),
        (lambda: batchify(torch.arange(9), 0), "batch: 0"),
        (lambda: batchify(torch.arange(9), 5), "9 tokens are too few for a batch of 5: at least 10"),
        (lambda: windows(torch.arange(9), 3), "columns: shape (9,)"),
        (lambda: windows(torch.zeros(9, 1), 0), "steps: 0"),
    ],
)
def test_batching_refusals(call, message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        call()


def test_a_vocabulary_is_kept_in_a_file(tmp_path):
    vocabulary = Vocabulary(["<unk>", "ä b", '"', "<eos>", "\u2028"])
    (tmp_path / "v.json").write_text(vocabulary.to_json(), encoding="utf-8")
    assert Vocabulary.read(tmp_path / "v.json").words == vocabulary.words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", r"v.json: damaged"),
        (b"\xff", r"v.json: damaged"),
        (b'{"a": 1}', r"v.json: not a vocabulary"),
        (b"[1]", r"v.json: not a vocabulary"),
        (b'["a"]', r"v.json: words: <unk> is missing"),
        (b'["a", "a"]', r"v.json: words: every word .* only once"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content, message):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.read(tmp_path / "v.json")
    with pytest.raises(DataError, match="no vocabulary there"):
        Vocabulary.read(tmp_path / "none.json")
