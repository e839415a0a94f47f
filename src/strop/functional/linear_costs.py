"""Times of a linear layer that drops its input, predicted from sizes: what ``routes`` decides by.

As ``costs``, for forward and backward of one product; the constants are made by
``python benchmarks/linear_routes.py fit``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from strop.functional.costs import ISAS
from strop.functional.fitted_linear import CONSTANTS


class Sizes(NamedTuple):
    """A linear layer and its input ``[steps, batch, inputs]``.

    Attributes:
        kept: share of the input that takes part in the product.
    """

    inputs: int
    outputs: int
    steps: int
    batch: int
    kept: float


def features(sizes: Sizes, way: str, threads: int) -> tuple[float, ...]:
    """What a prediction multiplies by constants, in units that make those microseconds or so."""
    rows, weights = sizes.steps * sizes.batch, sizes.inputs * sizes.outputs
    kept = sizes.kept if way == "kernels" else 1.0  # torch multiplies by what it drops, too
    shared = (
        rows * sizes.inputs / 1e3,
        rows * sizes.outputs / 1e3,
        weights / 1e3,
        sizes.steps * weights * kept / 1e5,
        rows * weights * kept / 1e5,
    )
    return (
        *(1.0, float(threads > 1), sizes.steps, sizes.steps * sizes.inputs / 1e3),
        *shared,
        *(each / threads for each in shared),
    )


def milliseconds(sizes: Sizes, way: str, isa: str, threads: int) -> float:
    """Predicted time of forward and backward; infinite for what was not measured.

    Args:
        way: ``torch`` (``nn.Dropout`` and ``nn.Linear``), ``operator`` (torch's on a masked input) or
            ``kernels``.
    """
    constants = CONSTANTS.get((isa if isa in ISAS else ISAS[0], way))
    if constants is None:
        return math.inf
    return sum(each * one for each, one in zip(features(sizes, way, threads), constants, strict=True)) / 1e3
