import gzip
import re
from pathlib import Path

import pytest
import torch

from strop.data.parallel import (
    BEGIN_ID,
    END_ID,
    PAD_ID,
    SPECIALS,
    UNKNOWN_ID,
    Pairs,
    ParallelCorpus,
    by_length,
    collate,
    encode,
    load_parallel,
    vocabulary,
)
from strop.data.text import DataError

SOURCE = {"train": "a b c\nb\nc b a a\n", "valid": "a z\n", "test": "b\nc c\n"}
TARGET = {"train": "A B\nB C\nC\n", "valid": "A Z\n", "test": "B\nC\n"}


def write(folder: Path, source=SOURCE, target=TARGET) -> tuple[list[Path], list[Path]]:
    files = []
    for language, texts in (("src", source), ("tgt", target)):
        for split, text in texts.items():
            file = folder / f"{split}.{language}"
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
            files.append(file)
    return files[:3], files[3:]


def load(folder: Path, **options) -> ParallelCorpus:
    return load_parallel(*write(folder), **options)


def test_reads_pairs_and_makes_vocabularies_of_the_training_text(tmp_path):
    corpus = load(tmp_path)
    assert corpus.source.words == (*SPECIALS, "a", "b", "c")
    assert corpus.target.words == (*SPECIALS, "B", "C", "A")
    assert corpus.train.source == [[4, 5, 6], [5], [6, 5, 4, 4]]
    assert corpus.valid.source == [[4, UNKNOWN_ID]]
    assert corpus.valid.target == [[6, UNKNOWN_ID]]
    assert corpus.valid.references == ["A Z"]
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (3, 1, 2)
    assert "3 / 1 / 2 pairs" in corpus.describe()


def test_reads_gzip_and_plain_alike(tmp_path):
    sources, targets = write(tmp_path)
    packed = []
    for file in sources:
        packed.append(file.with_name(f"{file.name}.gz"))
        packed[-1].write_bytes(gzip.compress(file.read_bytes()))
    assert load_parallel(packed, targets).train.source == load_parallel(sources, targets).train.source


def test_long_training_pairs_are_counted_and_left_out(tmp_path):
    corpus = load(tmp_path, max_length=3)
    assert corpus.skipped == 1
    assert len(corpus.train) == 2
    assert "1 training pairs skipped: longer than 3 words" in corpus.describe()
    # What is left out counts for no vocabulary; valid and test are kept whole.
    assert corpus.target["C"] == corpus.target.words.index("C")
    assert len(load(tmp_path, max_length=2).test) == 2
    with pytest.raises(DataError, match=r"train\.src: every pair has a side of more than 1 words"):
        load(tmp_path, max_length=1)


def test_training_pairs_with_an_empty_side_are_counted_and_left_out(tmp_path):
    source = {**SOURCE, "train": "a b c\n\nb\n \na a a a\nc\n"}
    target = {**TARGET, "train": "A B\nX\nB C\n\nC\n\t\n"}
    corpus = load_parallel(*write(tmp_path, source, target), max_length=3)
    assert corpus.train.references == ["A B", "B C"]
    assert (corpus.skipped, corpus.empty) == (1, 3)
    assert "X" not in corpus.target
    assert "longer than 3 words; 3 skipped: a side is empty" in corpus.describe()


def test_text_in_pieces_of_words_is_known(tmp_path):
    assert not load(tmp_path).pieces
    assert load_parallel(*write(tmp_path, SOURCE, {**TARGET, "train": "A@@ B\nB C\nC\n"})).pieces


@pytest.mark.parametrize(
    ("side", "split", "text", "message"),
    [
        ("source", "test", "\na\n", "test.src, line 1: empty (1 such lines in the file)"),
        ("target", "test", "a\n \t\n", "test.tgt, line 2: empty"),
        ("target", "train", "\n\n \n", "train.tgt: empty"),
        ("source", "valid", "", "valid.src: empty"),
        ("target", "train", b"A\nB\n\xff\n", "train.tgt: not UTF-8 (byte 0xff at offset 4, line 3)"),
        ("source", "train", b"A\0\n", "train.src: binary data (a NUL byte at offset 1, line 1)"),
        (
            "target",
            "train",
            "A\nB\n",
            "train.src, line 3: nothing stands opposite in TMP/train.tgt, which has 2 lines, not 3",
        ),
        (
            "source",
            "test",
            "a\n",
            "test.tgt, line 2: nothing stands opposite in TMP/test.src, which has 1 lines, not 2",
        ),
    ],
)
def test_what_is_no_parallel_text_is_refused_by_file_and_line(tmp_path, side, split, text, message):
    source, target = dict(SOURCE), dict(TARGET)
    (source if side == "source" else target)[split] = text
    with pytest.raises(DataError, match=re.escape(message.replace("TMP", str(tmp_path)))):
        load_parallel(*write(tmp_path, source, target))


def test_missing_files_and_wrong_limits_are_refused(tmp_path):
    sources, targets = write(tmp_path)
    with pytest.raises(DataError, match=r"absent: no such file; check its name"):
        load_parallel([tmp_path / "absent", *sources[1:]], targets)
    with pytest.raises(DataError, match=f"{tmp_path}: a folder; name a file"):
        load_parallel([tmp_path, *sources[1:]], targets)
    with pytest.raises(DataError, match="tgt: 2 files"):
        load_parallel(sources, targets[:2])
    for wrong in ({"max_length": 0}, {"max_size": 4}, {"min_count": 0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            load_parallel(sources, targets, **wrong)


def test_vocabularies_are_limited_and_special_words_of_the_text_are_unknown():
    sentences = [["b", "a", "b", "<pad>", "<eos>"], ["c", "a", "b"]]
    assert vocabulary(sentences).words == (*SPECIALS, "b", "a", "c")
    assert vocabulary(sentences, max_size=5).words == (*SPECIALS, "b")
    words = vocabulary(sentences, min_count=2)
    assert words.words == (*SPECIALS, "b", "a")
    assert encode(words, ["a", "c", "<bos>", "<eos>", "<pad>"]) == [5, *[UNKNOWN_ID] * 4]


def some_pairs(count: int) -> Pairs:
    lengths = torch.randint(1, 20, (2, count), generator=torch.Generator().manual_seed(0)).tolist()
    sides = [[[4 + i % 7] * n for i, n in enumerate(side)] for side in lengths]
    return Pairs(*sides, [""] * count)


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (7, 3), (100, 64), (129, 16), (5, 64)])
def test_every_pair_is_in_one_batch_of_like_length(count, batch):
    pairs = some_pairs(count)
    for groups in (by_length(pairs, batch), by_length(pairs, batch, seed=3)):
        sizes = [len(group) for group in groups]
        assert sorted(i for group in groups for i in group) == list(range(count))
        assert len(groups) == -(-count // batch)
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1
    longest = [max(len(pairs.target[i]) for i in group) for group in by_length(pairs, batch)]
    shortest = [min(len(pairs.target[i]) for i in group) for group in by_length(pairs, batch)]
    assert all(end <= start for end, start in zip(longest, shortest[1:], strict=False))


def test_the_order_of_batches_is_a_function_of_the_seed():
    pairs = some_pairs(200)
    assert by_length(pairs, 16, 1) == by_length(pairs, 16, 1)
    assert by_length(pairs, 16, 1) != by_length(pairs, 16, 2)
    lengths = [len(pairs.target[group[0]]) for group in by_length(pairs, 16, 1)]
    assert lengths != sorted(lengths)
    with pytest.raises(DataError, match="batch: 0"):
        by_length(pairs, 0)


def test_a_batch_is_padded_at_the_end_with_the_longest_source_first():
    pairs = Pairs([[4], [5, 6, 7], [8, 9]], [[4, 5], [6], [7, 8, 9]], ["", "", ""])
    batch = collate(pairs, [0, 1, 2])
    assert batch.source.t().tolist() == [[5, 6, 7], [8, 9, PAD_ID], [4, PAD_ID, PAD_ID]]
    assert batch.lengths.tolist() == [3, 2, 1]
    assert batch.target.t().tolist() == [
        [BEGIN_ID, 6, END_ID, PAD_ID, PAD_ID],
        [BEGIN_ID, 7, 8, 9, END_ID],
        [BEGIN_ID, 4, 5, END_ID, PAD_ID],
    ]
    assert batch.words == 2 + 4 + 3
