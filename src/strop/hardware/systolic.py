"""Cycles and buffer traffic of a dense product on a systolic array, in closed form.

An array of R x C holds one operand of a product A ``[M, K]`` times B ``[K, N]`` still: weights (B, ``ws``),
inputs (A, ``is``) or outputs (C, ``os``). What is larger than the array is cut into folds; a ragged fold at
an edge takes as long as a full one. The formulae are those of SCALE-Sim (Samajdar et al., ISPASS 2020), to
the cycle; it reports one cycle less, the number of the last.
"""

from dataclasses import dataclass
from typing import Literal

from strop.hardware.arrays import Array
from strop.hardware.products import Product

Dataflow = Literal["ws", "is", "os"]
#: What each keeps in the array.
DATAFLOWS: dict[Dataflow, str] = {
    "ws": "weight stationary",
    "is": "input stationary",
    "os": "output stationary",
}


@dataclass(frozen=True)
class Words:
    """Words moved of the operands of products.

    Attributes:
        a: read of the first factor.
        b: read of the second factor.
        c: written of the result.
        c_read: of the result, read to be added to.
    """

    a: int = 0
    b: int = 0
    c: int = 0
    c_read: int = 0

    def __add__(self, other: "Words") -> "Words":
        return Words(self.a + other.a, self.b + other.b, self.c + other.c, self.c_read + other.c_read)

    def __mul__(self, times: int) -> "Words":
        return Words(*(times * each for each in (self.a, self.b, self.c, self.c_read)))

    __rmul__ = __mul__

    @property
    def total(self) -> int:
        """All of them."""
        return self.a + self.b + self.c + self.c_read


def folds(product: Product, array: Array, dataflow: Dataflow) -> tuple[int, int]:
    """How often rows and columns of the array are filled."""
    rows, columns, _ = _mapping(product, dataflow)
    return -(-rows // array.rows), -(-columns // array.columns)


def cycles(product: Product, array: Array, dataflow: Dataflow) -> int:
    """Cycles of all ``times``, without waiting for memory.

    Stationary weights or inputs are loaded before they are used, R cycles a fold, or while the fold before is
    in use if the array is double-buffered. Outputs are shifted out as the last cycles of their fold.
    """
    _, _, streamed = _mapping(product, dataflow)
    rows, columns = folds(product, array, dataflow)
    number = -(-rows * columns // array.count)
    used = array.rows + array.columns + streamed - 2
    if dataflow == "os":
        return product.times * number * used
    if array.double_buffered:
        return product.times * (array.rows + (number - 1) * max(array.rows, streamed) + used)
    return product.times * number * (array.rows + used)


def buffer_words(product: Product, array: Array, dataflow: Dataflow) -> Words:
    """Words read of A and B, and written of C, in the buffers beside the array, by all ``times``."""
    rows, columns = folds(product, array, dataflow)
    a, b, c = product.m * product.k, product.k * product.n, product.m * product.n
    each = {
        "ws": Words(a * columns, b, c * rows),
        "is": Words(a, b * columns, c * rows),
        "os": Words(a * columns, b * rows, c),
    }
    return each[dataflow] * product.times


def fetches(product: Product, array: Array, dataflow: Dataflow) -> Words:
    """How often A and B are read from memory and C is written to it in the course of one product.

    Folds go along the array's rows first. What is used again in another fold is there still if it fits in
    half of its buffer: A or B as a whole, a fold's columns of B where outputs stay, and a fold's columns of C
    where they do not.
    """
    rows, columns = folds(product, array, dataflow)
    m, k, n = product.m, product.k, product.n
    whole_a = m * k <= array.capacity("sram_a")
    if dataflow == "os":
        part_b = k * min(n, array.columns) <= array.capacity("sram_b")
        return Words(1 if whole_a else columns, 1 if part_b else rows, 1)
    streamed, across = (m, n) if dataflow == "ws" else (n, m)
    writes = 1 if streamed * min(across, array.columns) <= array.capacity("sram_c") else rows
    if dataflow == "ws":
        return Words(1 if whole_a else columns, 1, writes)
    return Words(1, 1 if k * n <= array.capacity("sram_b") else columns, writes)


def _mapping(product: Product, dataflow: Dataflow) -> tuple[int, int, int]:
    """Extents along the array's rows and columns, and what is streamed."""
    return {
        "ws": (product.k, product.n, product.m),
        "is": (product.k, product.m, product.n),
        "os": (product.m, product.n, product.k),
    }[dataflow]
