"""Cycles and words of dense products: against SCALE-Sim's published results, and by hand."""

from dataclasses import replace

import pytest

from strop.hardware import Array, Product, find_array
from strop.hardware.systolic import DATAFLOWS, buffer_words, cycles, fetches, folds

# "Golden" results in SCALE-Sim's repository (test/general), 32 x 32; (M, K, N). Its cycles are the number of
# the last one, from 0.
GOLDEN = [
    ("ws", (256, 256, 128), 11_199, (262_144, 32_768, 262_144)),
    # Its counter has 64 writes more in each of 32 folds: 34,816.
    ("os", (256, 256, 128), 10_175, (262_144, 262_144, 32_768)),
    ("is", (256, 256, 128), 14_207, (65_536, 262_144, 262_144)),
    # AlexNet's first layer. Its counter says 34,848, 3,294,225 and 3,484,800.
    ("ws", (3025, 363, 96), 112_283, (3_294_225, 34_848, 3_484_800)),
]
SQUARE = replace(find_array("edge"), sram_a=2**20, sram_b=2**20, sram_c=2**20)


def array(rows: int, columns: int, **more) -> Array:
    return replace(SQUARE, rows=rows, columns=columns, **more)


@pytest.mark.parametrize(("dataflow", "sizes", "last", "words"), GOLDEN)
def test_published_results_of_scale_sim(dataflow, sizes, last, words):
    product = Product(*sizes)
    assert cycles(product, SQUARE, dataflow) - 1 == last
    moved = buffer_words(product, SQUARE, dataflow)
    assert (moved.a, moved.b, moved.c, moved.c_read) == (*words, 0)


@pytest.mark.parametrize(("dataflow", "last"), [("ws", 119), ("os", 89), ("is", 152)])
def test_ragged_sizes_as_scale_sim_ran_them(dataflow, last):
    assert cycles(Product(10, 9, 7), array(4, 4), dataflow) - 1 == last


def test_dataflows_mirror_each_other():
    """Weight and input stationary are the same for the transposed product."""
    for sizes in ((10, 9, 7), (1, 1, 1), (64, 3, 200), (5, 130, 31)):
        product, transposed = Product(*sizes), Product(*sizes[::-1])
        for machine in (array(4, 4), array(8, 3)):
            assert cycles(product, machine, "ws") == cycles(transposed, machine, "is")
            mirrored = buffer_words(transposed, machine, "is")
            words = buffer_words(product, machine, "ws")
            assert (words.a, words.b, words.c) == (mirrored.b, mirrored.a, mirrored.c)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_products_that_just_fit_and_just_do_not(dataflow):
    machine = array(8, 8)
    fits, wider, deeper = Product(8, 8, 8), Product(9, 8, 8), Product(8, 9, 9)
    assert folds(fits, machine, dataflow) == (1, 1)
    assert 1 in folds(wider, machine, dataflow)
    assert cycles(Product(8, 8, 8, times=7), machine, dataflow) == 7 * cycles(fits, machine, dataflow)
    assert cycles(deeper, machine, dataflow) > cycles(fits, machine, dataflow)


def test_a_single_element():
    one = array(1, 1)
    product = Product(5, 3, 2)
    assert cycles(product, one, "ws") == (2 + 1 + 5 - 2) * 3 * 2
    assert cycles(product, one, "is") == (2 + 1 + 2 - 2) * 3 * 5
    assert cycles(product, one, "os") == (1 + 1 + 3 - 2) * 5 * 2


def test_double_buffering_hides_loading():
    """A fold takes as long as it is used or loaded; the first load and the last drain are seen."""
    buffered = array(4, 4, double_buffered=True)
    product = Product(10, 9, 7)  # 3 x 2 folds of weights, 10 rows streamed
    assert cycles(product, buffered, "ws") == 4 + 5 * 10 + (10 + 4 + 4 - 2)
    short = Product(2, 9, 7)  # loading takes longer than using
    assert cycles(short, buffered, "ws") == 4 + 5 * 4 + (2 + 4 + 4 - 2)
    for flow, single in (("ws", Product(10, 4, 4)), ("is", Product(4, 4, 10))):
        assert cycles(single, buffered, flow) == cycles(single, array(4, 4), flow)
    assert cycles(product, buffered, "os") == cycles(product, array(4, 4), "os")


def test_several_arrays_share_folds():
    product = Product(100, 12, 12)  # 9 folds of weights
    one = cycles(product, array(4, 4), "ws")
    assert cycles(product, array(4, 4, count=3), "ws") == one // 3
    assert cycles(product, array(4, 4, count=4), "ws") == one // 9 * 3
    assert cycles(product, array(4, 4, count=100), "ws") == one // 9


def test_what_does_not_fit_is_fetched_again():
    """By the folds that use it: a 4 x 4 array, buffers of 64 words of 16 bits in use."""
    small = array(4, 4, sram_a=1, sram_b=1, sram_c=1)
    assert small.capacity("sram_a") == 256
    product = Product(20, 40, 30)  # A 800, B 1200, C 600 words
    assert vars(fetches(product, small, "ws")) == {"a": 8, "b": 1, "c": 1, "c_read": 0}
    assert vars(fetches(product, small, "is")) == {"a": 1, "b": 5, "c": 1, "c_read": 0}
    # 4 columns of B are 160 words, which fit.
    assert vars(fetches(product, small, "os")) == {"a": 8, "b": 1, "c": 1, "c_read": 0}
    deep = Product(20, 400, 30)
    assert fetches(deep, small, "os").b == 5
    tall = Product(200, 40, 30)  # 4 columns of C are 800 words
    assert fetches(tall, small, "ws").c == 10
    roomy = array(4, 4)
    for flow in DATAFLOWS:
        assert vars(fetches(product, roomy, flow)) == {"a": 1, "b": 1, "c": 1, "c_read": 0}
