"""The options of `strop convert-check`: nothing here needs PyTorch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Options:
    """Try strop.convert on a copy of your model, and time a training step before and after.

    FUNCTION is called without arguments and returns the model and its example inputs, as strop.convert takes
    them (a tensor, a tuple of positional or a dict of keyword arguments):

        def build():
            return Tagger(), torch.randint(1000, (35, 20))

    Give inputs of the size that you train with. The report says what gain is expected of each layer, the
    times below it what was measured of the whole model. A step is forward and backward of all outputs; the
    loss and the optimiser, which conversion does not change, are not part of it. Nothing of yours is changed.
    """

    target: Annotated[Positional[str], arg(metavar="FILE.py:FUNCTION")]
    """A Python file, which is executed, and a function in it."""

    recurrent_dropout: float | None = None
    """Share of the hidden states to drop on their way to the next step, in [0, 1)."""

    pattern: Literal["structured", "fixed", "random", "variational"] = "structured"
    """How masks are drawn."""

    only_if_faster: bool = True
    """Leave dropouts that are not expected to pay; --no-only-if-faster takes over all that can be."""

    seconds: float = 20.0
    """How long to measure, roughly; at least 5 rounds are run."""

    threads: int | None = None
    """Threads for both; torch's own choice if not given."""
