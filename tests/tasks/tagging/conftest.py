"""A toy corpus: who goes where, from the words around the names and from their spelling."""

import random
from pathlib import Path

import pytest
import torch

from strop.data.conll import TaggedCorpus, load_tagged
from strop.tasks.tagging import Preset

TINY = Preset(
    word_units=10,
    char_units=4,
    char_filters=12,
    char_groups=4,
    char_width=3,
    units=8,
    p=0.2,
    output_p=0.0,
    scheme="iob2",
    batch=5,
    rate=0.05,
    momentum=0.9,
    decay=0.05,
    clip=5.0,
    epochs=2,
)


def sentence(draw: random.Random) -> str:
    """Rows of a sentence; names are new in every one, so only their endings and neighbours tell."""

    def name(ending: str) -> str:
        return "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(2)).title() + ending

    person = [f"{name('son')} B-PER", f"{name('sky')} I-PER"][: draw.randint(1, 2)]
    place = [f"{name('ville')} B-LOC"] if draw.random() < 0.7 else ["New B-LOC", f"{name('ville')} I-LOC"]
    start = ["mr O"] if draw.random() < 0.5 else []
    middle = [
        f"{word} O" for word in draw.choice(["went to", "flew from", "likes", "hates sunny old"]).split()
    ]
    return "\n".join([*start, *person, *middle, *place, ". O"])


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    draw = random.Random(7)
    for split, count in (("train", 163), ("valid", 30), ("test", 30)):
        (folder / f"toy.{split}").write_text("\n\n".join(sentence(draw) for _ in range(count)) + "\n")
    return folder


@pytest.fixture(scope="session")
def corpus(text) -> TaggedCorpus:
    return load_tagged(text)


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """These sizes are too small to be shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Preset:
    return TINY
