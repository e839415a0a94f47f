"""Words that a work moves to and from memory, given what fits on the chip."""

from collections.abc import Callable

from strop.hardware.products import Product, Work
from strop.hardware.systolic import Words

#: How often A and B are read and C is written in the course of one product.
Fetches = Callable[[Product], Words]


def memory_words(work: Work, capacity: Words, fetches: Fetches) -> Words:
    """Words from and to memory of a work, of all copies of its matrix.

    Each operand of a product moves as often as ``fetches`` says. What the products of the work have in common
    moves once for all of them where the whole of it fits: weights, the gates' gradient, and what several
    products add to, the weights' gradient in WG and the gates in FP block by block. Where the last does not
    fit, each product reads it, adds to it and writes it back.

    Args:
        work: the products.
        capacity: words of A, B and C that stay on the chip.
        fetches: how often each is moved for one product.
    """
    matrix, phase = work.matrix, work.phase
    several = sum(product.times for product in work.products) > 1
    by_block = work.schedule == "blocks"
    adds = several and (phase == "fp" if by_block else phase == "wg")
    total = Words()
    for product in work.products:
        often, c = fetches(product), product.m * product.n
        total += product.times * Words(
            product.m * product.k * often.a,
            product.k * product.n * often.b,
            c * often.c,
            c * (often.c if adds else often.c - 1),
        )
    weights, gates = matrix.words, work.rows * matrix.outputs
    common = {
        "fp": Words(total.a, weights, gates),
        "bp": Words(gates, weights, total.c),
        "wg": Words(total.a, gates, weights),
    }[phase]
    a = min(total.a, common.a) if common.a <= capacity.a else total.a
    b = min(total.b, common.b) if common.b <= capacity.b else total.b
    if adds and common.c <= capacity.c:
        return matrix.copies * Words(a, b, min(total.c, common.c))
    return matrix.copies * Words(a, b, total.c, total.c_read)
