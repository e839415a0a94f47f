"""The options of `strop advise`: nothing here needs PyTorch."""

from dataclasses import dataclass
from typing import Literal

from strop.bench.options import CommonOptions

Cell = Literal["lstm", "gru", "rnn"]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure which dropout is fastest for layers of your sizes, on this machine, and where it does not pay.

    Forward and backward of torch's layers, with nn.Dropout on their input, are timed against strop's: with
    nothing dropped, with the inputs of all layers dropped (NR+ST), and with hidden states dropped too on
    their way to the next step (NR+RH+ST). For a whole model there is `strop convert-check`.
    """

    cell: Cell = "lstm"
    """What the layers are made of."""

    input_size: int = 650
    """Units of the input."""

    hidden_size: int = 650
    """Units of every layer."""

    layers: int = 2
    """Layers of the stack."""

    batch: int = 20
    """Sequences in a batch."""

    steps: int = 35
    """Time steps of a sequence."""

    p: tuple[float, ...] = (0.25, 0.5, 0.65)
    """Shares of units to drop, in (0, 1)."""
