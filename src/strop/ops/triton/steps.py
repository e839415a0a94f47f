"""What the kernels of a recurrence, ``steps_forward`` and ``steps_backward``, have in common.

Each is a loop over steps ``first`` to ``last``. A program has the same units and rows at all of them. With
``PERSISTENT`` one cooperative launch runs all steps, and programs ``arrive`` and ``wait`` for each other;
without it a launch runs one step (of BP half a step) and the stream parts them. The programs of Triton's
interpreter run one after another, so a wait would never return there.

Rows: a step's rows follow one another in ``[N, …]``; ``offsets`` ``[T + 1]`` says where they begin if the
sequence is packed.

Weights are packed ``[H, PANELS, P, U]``: what unit k adds to the P gates of U units lies side by side, panel
after panel, so a kept unit is contiguous in FP and in BP, and a unit that is dropped is not read. P is the
number of gates, or 4 for the 3 of a GRU: its fourth is zero.

A sum is cut into SHARES, one for each warp, so that no operand is read by two warps: the product of three
dimensions ``[SHARES, …]`` is that of two for each share.
"""

import triton
import triton.language as tl

# Triton compiles anew where an argument is 1 or a multiple of 16, from which these gain nothing.
ANY_SIZE = ["steps", "batch", "row_tiles", "gate_tiles", "product_tiles", "first", "last", "mask_stride"]

# Some ten seconds, where a program waits for microseconds: whatever it waits for will not come.
MOST_POLLS = tl.constexpr(2**24)


@triton.jit
def arrive(arrived):
    """Tells the grid that this program is here, and shows it all that was written before."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")


@triton.jit
def wait(arrived, target, TRAPS: tl.constexpr):
    """Returns when ``target`` programs have arrived, whose writes are seen from then on.

    With TRAPS a wait without an end becomes an error of the launch ("unspecified launch failure").
    """
    polls = 0
    while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < target:
        if TRAPS:
            polls += 1
            tl.inline_asm_elementwise(
                "{ .reg .pred late; setp.gt.s32 late, $1, $2; @late trap; mov.b32 $0, $1; }",
                "=r,r,r",
                [polls, MOST_POLLS],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
    tl.debug_barrier()


@triton.jit
def barrier(arrived, target, TRAPS: tl.constexpr):
    """Waits until ``target`` programs have arrived. All writes before it are seen by all after it."""
    arrive(arrived)
    wait(arrived, target, TRAPS)


@triton.jit
def places(at, CHUNK: tl.constexpr, SHARES: tl.constexpr):
    """CHUNK positions from ``at`` on: ``[CHUNK]``, or ``[SHARES, CHUNK / SHARES]``."""
    if SHARES == 1:
        position = at + tl.arange(0, CHUNK)
    else:
        each: tl.constexpr = CHUNK // SHARES
        position = at + tl.arange(0, SHARES)[:, None] * each + tl.arange(0, each)[None, :]
    return position


@triton.jit
def product(a, b, total, SHARES: tl.constexpr, PRECISION: tl.constexpr):
    """``total`` and, share by share, the transpose of ``a`` ``[…, K, M]`` times ``b`` ``[…, K, N]``."""
    if SHARES == 1:
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    else:
        total = tl.dot(tl.permute(a, (0, 2, 1)), b, total, input_precision=PRECISION)
    return total


@triton.jit
def gates_of(total, ROWS: tl.constexpr, U: tl.constexpr):
    """The four gates of ``[ROWS, 4 * U]``, each ``[ROWS, U]``."""
    pairs = tl.permute(tl.reshape(total, (ROWS, 2, 2, U)), (0, 3, 1, 2))
    even, odd = tl.split(pairs)
    a0, a2 = tl.split(even)
    a1, a3 = tl.split(odd)
    return a0, a1, a2, a3


@triton.jit
def span(step, steps, batch, offsets, PACKED: tl.constexpr):
    """A step's first row, and how many it has: none outside the sequence."""
    inside = (step >= 0) & (step < steps)
    if PACKED:
        start = tl.load(offsets + step, mask=inside, other=0)
        rows = tl.load(offsets + step + 1, mask=inside, other=0) - start
    else:
        start = step * batch
        rows = tl.where(inside, batch, 0)
    return start, rows
