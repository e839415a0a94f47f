import gzip
import re
from pathlib import Path

import pytest

from strop.data.conll import load_tagged, read_tagged
from strop.data.text import DataError

TEXT = """-DOCSTART- -X- -X- O

U.N. NNP I-NP I-ORG
official NN I-NP O
Rolf NNP I-NP I-PER
Ekeus NNP I-NP I-PER

Paris NNP I-NP I-LOC
London NNP I-NP B-LOC
"""


def write(folder: Path, **texts: str | bytes) -> Path:
    for split in ("train", "valid", "test"):
        text = texts.get(split, TEXT)
        (folder / f"eng.{split}").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_reads_columns_documents_and_sentences(tmp_path):
    corpus = load_tagged(write(tmp_path))
    assert corpus.scheme == "iob1"
    first, second = corpus.train
    assert first.words == ("U.N.", "official", "Rolf", "Ekeus")
    assert first.tags == ("B-ORG", "O", "B-PER", "I-PER")
    assert second.tags == ("B-LOC", "B-LOC")
    assert (first.line, second.line) == (3, 8)
    assert corpus.describe() == (
        f"{tmp_path}: 6 / 6 / 6 words in 2 / 2 / 2 sentences (train / valid / test), tags in iob1; "
        "entities to learn from: 2 LOC, 1 ORG, 1 PER"
    )
    assert corpus.words() == {"u.n.", "official", "rolf", "ekeus", "paris", "london"}


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(" ", "\t"),
        TEXT.rstrip("\n"),
        "\n\n" + TEXT.replace("\n\n", "\n\n\n") + "\n\n",
        TEXT.replace(" NNP I-NP", "").replace(" NN I-NP", "").replace(" -X- -X-", ""),
        "\ufeff" + TEXT,
    ],
    ids=["crlf", "tabs", "no last newline", "many empty lines", "two columns", "byte order mark"],
)
def test_variants_of_the_format_are_the_same(tmp_path, text):
    (tmp_path / "a").write_text(TEXT)
    (tmp_path / "b.gz").write_bytes(gzip.compress(text.encode()))
    (scheme, sentences), (other, others) = read_tagged(tmp_path / "a"), read_tagged(tmp_path / "b.gz")
    assert scheme == other
    assert [(s.words, s.tags) for s in others] == [(s.words, s.tags) for s in sentences]


def test_a_no_break_space_is_part_of_a_word(tmp_path):
    (tmp_path / "a").write_text("New\u00a0York I-LOC\n")
    assert read_tagged(tmp_path / "a")[1][0].words == ("New\u00a0York",)


def test_a_file_that_fits_every_scheme_follows_the_others(tmp_path):
    assert load_tagged(write(tmp_path, valid="only O\nwords O\n")).scheme == "iob1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nword\n", "eng.valid, line 2: 'word' is one column"),
        ("a O\nb x O\n", "eng.valid, line 2: 3 columns, but 2 in line 1"),
        ("a O\n\nb PER\n", "eng.valid, line 3: tag 'PER'; it must be O, or B-"),
        ("a I-A\nb O\n\n\nc B-A\n", "eng.valid, line 5: tag 'B-A' where I-A (iob1) should stand"),
        ("a B-A\n", "eng.valid, line 1: tag 'B-A' is not iob1, as TMP/eng.train is (line 3: 'I-ORG')"),
        ("-DOCSTART- O\n\n\n", "eng.valid: no sentence"),
        ("", "eng.valid: no sentence"),
        (b"a O\n\xff B-A\n", "eng.valid: not UTF-8 (byte 0xff at offset 4, line 2)"),
        (b"a O\n\0 B-A\n", "eng.valid: binary data (a NUL byte at offset 4, line 2)"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message.replace("TMP", str(tmp_path)))) as error:
        load_tagged(write(tmp_path, valid=text))
    assert str(tmp_path) in str(error.value)


def test_of_files_in_two_schemes_both_are_named(tmp_path):
    train = "a O\n\nb B-A\nc I-A\n"
    with pytest.raises(DataError) as error:
        load_tagged(write(tmp_path, train=train, test=train, valid="a O\nb I-A\n"))
    assert str(error.value).startswith(
        f"{tmp_path}/eng.train, line 3: tag 'B-A' is not iob1, as {tmp_path}/eng.valid is (line 2: 'I-A')"
    )


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_tagged(tmp_path / "nowhere")
