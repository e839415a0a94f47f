import gzip
import re

import pytest

from strop.data.text import DataError
from strop.data.vectors import read_vectors

TEXT = "the 0.5 -1 2e-3\nThe 9 9 9\n. . 1 2 3\n1996 4 5 6\nthe 7 7 7\n"


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.gz"])
def test_reads_the_wanted_words(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(gzip.compress(TEXT.encode()) if name.endswith("gz") else TEXT.encode())
    assert read_vectors(file, {"the", "1996", "absent"}, 3) == {
        "the": [0.5, -1.0, 0.002],
        "1996": [4.0, 5.0, 6.0],
    }


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffthe 1 2 3\na b 4 5 6\n",
        "the  1 2   3 \r\na  b 4 5 6\n",
        "the\t1\t2\t3\na b\t4\t5\t6\n",
        "the\t1 2 3\na b 4 5 6",
    ],
)
def test_blanks_tabs_and_a_byte_order_mark_hide_no_word(tmp_path, text):
    file = tmp_path / "vectors.txt"
    file.write_text(text, encoding="utf-8", newline="")
    assert read_vectors(file, {"the", "a b", "a"}, 3) == {"the": [1, 2, 3], "a b": [4, 5, 6]}


def test_a_no_break_space_is_part_of_a_word(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("1\u00a02 1 2 3\n")
    assert read_vectors(file, {"1\u00a02"}, 3) == {"1\u00a02": [1, 2, 3]}


@pytest.mark.parametrize(
    ("text", "width", "message"),
    [
        (TEXT, 4, "line 1: 3 numbers after 'the'; the model's words have 4"),
        (TEXT, 2, "line 1: 3 numbers after 'the'; the model's words have 2"),
        ("the 1 2 3\na 1 2\n", 3, "line 2: 2 numbers after 'a'"),
        ("the 1 2 3\n\n", 3, "line 2: 0 numbers after ''"),
        (
            "400000 3\nthe 1 2 3\n",
            3,
            "line 1: 400000 and 3, a header as word2vec's text format has it; remove",
        ),
        ("the 1 2 3\n400000 3\n", 3, "line 2: 1 numbers after '400000'"),
        ("the 1 x 3\n", 3, "line 1: 'x' is not a number"),
        ("the 1 nan 3\n", 3, "line 1: 'nan' is not a number"),
        ("the 1 2 3\na\t1 2 3 4\n", 3, "line 2: 4 numbers after 'a'; the model's words have 3"),
        ("the 1 -1e39 3\n", 3, "line 1: -1e39 is larger than single precision can hold"),
        (b"a 1 2 3\ncaf\xe9 1 2 3\n", 3, "line 2: not UTF-8 (byte 0xe9)"),
        ("other 1 2 3\n", 3, "none of its 1 words"),
        ("", 3, "none of its 0 words"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path, text, width, message):
    file = tmp_path / "vectors.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_vectors(file, {"the"}, width)
    assert str(file) in str(error.value)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent.txt: no such file"):
        read_vectors(tmp_path / "absent.txt", {"the"}, 3)
    (tmp_path / "bad.gz").write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(DataError, match=r"bad.gz: damaged or not gzip"):
        read_vectors(tmp_path / "bad.gz", {"the"}, 3)
