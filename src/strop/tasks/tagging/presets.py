"""Hyper-parameters of taggers."""

from dataclasses import dataclass
from typing import Literal, get_args

from strop.data.schemes import SCHEMES, Scheme
from strop.limits import check_ranges

Dropout = Literal["nr-random", "nr-st", "nr-rh-st"]
DROPOUTS: tuple[Dropout, ...] = get_args(Dropout)

PresetName = Literal["targer", "ma-hovy"]


@dataclass(frozen=True)
class Preset:
    """A model and how it is trained.

    Attributes:
        word_units: size of a word's embedding, and of pre-trained vectors.
        char_units: size of a character's embedding.
        char_filters: filters of the convolution over a word's characters.
        char_groups: parts of the character embedding that are convolved apart, as in torch.nn.Conv1d.
        char_width: characters that a filter spans, an odd number.
        units: of the LSTM in each direction.
        p: share dropped of the characters or the LSTM's input, and of its hidden state, in [0, 1).
        output_p: share dropped of the LSTM's output, in [0, 1).
        scheme: the tags that the model predicts, whatever scheme the data is in.
        batch: sentences, in all processes together.
        rate: of SGD on a sentence's negative log-likelihood, averaged over the batch.
        momentum: of SGD.
        decay: the rate in epoch t, counted from 0, is rate / (1 + decay · t).
        clip: largest 2-norm of the gradients together.
        epochs: passes over the training sentences.
    """

    word_units: int
    char_units: int
    char_filters: int
    char_groups: int
    char_width: int
    units: int
    p: float
    output_p: float
    scheme: Scheme
    batch: int
    rate: float
    momentum: float
    decay: float
    clip: float
    epochs: int

    def __post_init__(self) -> None:
        check_ranges(self, shares={"p", "output_p", "momentum"}, positive={"rate", "clip"})
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme: {self.scheme!r}; it must be one of {', '.join(SCHEMES)}")
        for name in ("char_units", "char_filters"):
            if getattr(self, name) % self.char_groups:
                raise ValueError(
                    f"char_groups: {self.char_groups}; it must divide {name}, {getattr(self, name)}"
                )
        if self.char_width % 2 == 0:
            raise ValueError(f"char_width: {self.char_width}; it must be odd, to be centred on a character")


#: `targer`: the framework that Sarma et al. (2021) took, Chernodub et al. 2019, with the defaults of its
#: program: 30 filters for each of the 25 numbers of a character's embedding, so that the LSTM reads 850.
#: `ma-hovy`: the paper behind it, Ma and Hovy 2016, section 3 and table 1; their LSTM reads 130.
#: Both for 60 epochs, where Sarma et al. stop.
PRESETS: dict[PresetName, Preset] = {
    "targer": Preset(
        word_units=100,
        char_units=25,
        char_filters=750,
        char_groups=25,
        char_width=3,
        units=100,
        p=0.5,
        output_p=0.0,
        scheme="iob2",
        batch=10,
        rate=0.01,
        momentum=0.9,
        decay=0.05,
        clip=5.0,
        epochs=60,
    ),
    "ma-hovy": Preset(
        word_units=100,
        char_units=30,
        char_filters=30,
        char_groups=1,
        char_width=3,
        units=200,
        p=0.5,
        output_p=0.5,
        scheme="iobes",
        batch=10,
        rate=0.015,
        momentum=0.9,
        decay=0.05,
        clip=5.0,
        epochs=60,
    ),
}
