import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from strop.data import embedded
from strop.data.text import DataError, load_corpus

DIGEST = """
import sys
from hashlib import sha256
from embedded import documentation
sys.stdout.write(sha256(repr(documentation()).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def splits() -> dict[str, list[list[str]]]:
    return embedded.documentation()


def test_held_out_paragraphs_and_proportions(splits):
    words = {split: sum(map(len, lines)) for split, lines in splits.items()}
    assert words["train"] > 150_000
    for split in ("valid", "test"):
        assert 0.06 < words[split] / sum(words.values()) < 0.12
    long = {split: {tuple(line) for line in lines if len(line) >= 25} for split, lines in splits.items()}
    # Sentences may recur inside paragraphs that differ; whole paragraphs do not.
    assert len(long["valid"] & long["train"]) < 0.05 * len(long["valid"])


def test_is_english(splits):
    words = [word for line in splits["train"] for word in line]
    assert words.count("the") > 5_000
    assert all(word == "N" or (word.replace("'", "").isalpha() and word.islower()) for word in words)


def test_same_whatever_the_hash_seed(splits):
    """Another process, another hash seed, no site-packages: the same text."""
    source = Path(embedded.__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(source)}
    # strop itself imports torch; its file alone needs nothing.
    script = DIGEST.replace("strop.data.embedded", "embedded")
    environment["PYTHONPATH"] = str(Path(embedded.__file__).parent)
    run = subprocess.run(
        [sys.executable, "-S", "-c", script], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == sha256(repr(splits).encode()).hexdigest()


def test_default_corpus(splits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "documentation", lambda: splits)
    corpus = load_corpus()
    assert 4_000 < len(corpus.vocabulary) <= 10_000
    assert len(corpus.train) == sum(len(line) + 1 for line in splits["train"])


def fake(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_reads_docstrings_and_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "_ENOUGH_WORDS", 1)
    fake(
        tmp_path,
        abc='"""One 1st. Two\n\n>>> code\n\nIt\'s three."""\nif True:\n    class A:\n        "Two!"\n',
        pydoc_data__topics="topics = {'if': 'It\\'s three.\\n\\nFour five'}",
        **{"site-packages__x": '"""Not here."""', "ctypes__test__x": '"""Not here."""'},
        mine='"""Not in the library."""',
    )
    lines = [line for split in embedded.documentation(tmp_path).values() for line in split]
    assert sorted(lines) == [["four", "five"], ["it's", "three"], ["one", "N", "st"], ["two"], ["two"]]


def test_refuses_an_installation_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(embedded.NoSourcesError, match="only 0 words"):
        embedded.documentation(tmp_path)

    def missing() -> dict:
        raise embedded.NoSourcesError("no sources")

    monkeypatch.setattr(embedded, "documentation", missing)
    with pytest.raises(DataError, match=r"no sources; name a folder .*--data DIR"):
        load_corpus()
