"""Hyper-parameters of translation models, and where the data sets of the presets are to be had."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from strop.data.errors import DataError
from strop.limits import check_ranges

PresetName = Literal["luong", "multi30k", "iwslt15-en-vi", "iwslt14-de-en"]


@dataclass(frozen=True)
class Preset:
    """A model and how it is trained.

    Attributes:
        units: size of the embeddings, of every LSTM layer and of the attention.
        layers: LSTM layers of the encoder, and of the decoder.
        batch: sentence pairs per step, in all processes together.
        p: share of units dropped, in [0, 1).
        init: every parameter starts uniform in [-init, init].
        rate: of plain SGD on the loss summed over the words and averaged over the sentences.
        decay: the rate is divided by it at the end of epoch `decay_after + 1`, and of every `decay_every`
            epochs from then on.
        clip: largest 2-norm of the gradients together.
        epochs: passes over the training pairs.
        max_length: words; training pairs with a longer side are left out.
        max_size: entries of each vocabulary at most.
        min_count: words seen more rarely in training are unknown.
        beam: hypotheses side by side when the test split is translated.
    """

    units: int = 512
    layers: int = 2
    batch: int = 64
    p: float = 0.3
    init: float = 0.1
    rate: float = 1.0
    decay: float = 2.0
    decay_after: int = 7
    decay_every: int = 1
    clip: float = 5.0
    epochs: int = 12
    max_length: int = 50
    max_size: int = 50_000
    min_count: int = 1
    beam: int = 5

    def __post_init__(self) -> None:
        check_ranges(self, shares={"p"}, least={"decay_after": 0, "decay": 1})


@dataclass(frozen=True)
class DataSet:
    """Names of a data set's files.

    Attributes:
        source, target: languages.
        files: of train, valid and test, `{}` standing for the language; each may end in .gz.
        where: to be had.
        inside: subfolder in which those who publish it keep them; looked into first, it may be left out.
    """

    source: str
    target: str
    files: tuple[str, str, str]
    where: str
    inside: str = "."

    def find(
        self, folder: Path, source: str | None = None, target: str | None = None
    ) -> tuple[list[Path], list[Path]]:
        """The source and target files in `folder`. Raises DataError, naming what is missing."""
        return (
            [self._find(folder, name.format(source or self.source)) for name in self.files],
            [self._find(folder, name.format(target or self.target)) for name in self.files],
        )

    def _find(self, folder: Path, name: str) -> Path:
        for place in (folder / self.inside, folder):
            for file in (place / name, place / f"{name}.gz"):
                if file.exists():
                    return file
        raise DataError(f"{folder / name}: no such file, nor {name}.gz. {self.where}")


#: `luong`: Luong et al. 2015, §4.1, with 12 epochs, halving after 8, where dropout is used; sizes and
#: dropout as in Sarma et al. 2021, §4.2. `iwslt*`: their 65,000 steps, halved at 50,000 and 60,000 as
#: OpenNMT-py does, in whole epochs of 2,080 (en-vi) and 2,390 steps (de-en).
PRESETS: dict[PresetName, Preset] = {
    "luong": Preset(),
    # Words seen once are unknown: every unknown word of the test is then one the model has met as such.
    "multi30k": Preset(min_count=2, epochs=16, decay_after=9),
    "iwslt15-en-vi": Preset(epochs=31, decay_after=23, decay_every=5),
    "iwslt14-de-en": Preset(epochs=27, decay_after=20, decay_every=4),
}

DATA_SETS: dict[PresetName, DataSet] = {
    "multi30k": DataSet(
        "en",
        "de",
        ("train.lc.norm.tok.{}", "val.lc.norm.tok.{}", "test_2016_flickr.lc.norm.tok.{}"),
        "Multi30k, task 1, tokenised: data/task1/tok of https://github.com/multi30k/dataset",
        inside="tok",
    ),
    "iwslt15-en-vi": DataSet(
        "en",
        "vi",
        ("train.{}", "tst2012.{}", "tst2013.{}"),
        "IWSLT'15 English-Vietnamese, prepared: https://nlp.stanford.edu/projects/nmt/",
    ),
    "iwslt14-de-en": DataSet(
        "de",
        "en",
        ("train.{}", "valid.{}", "test.{}"),
        "IWSLT'14 German-English: examples/translation/prepare-iwslt14.sh of "
        "https://github.com/facebookresearch/fairseq downloads and prepares it",
        inside="tmp",  # the words; beside this folder lie their pieces (BPE)
    ),
}
