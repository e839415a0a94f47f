"""What the kernels of a recurrence, ``steps_forward`` and ``steps_backward``, have in common.

Each is a loop over steps ``first`` to ``last`` of a loop over tiles. With ``PERSISTENT`` one cooperative
launch runs all steps, and a barrier of the whole grid parts them; without it a launch runs one step (of BP
half a step) and the stream parts them. The programs of Triton's interpreter run one after another, so a
barrier would never return there.

Rows: a step's rows follow one another in ``[N, …]``; ``offsets`` ``[T + 1]`` says where they begin if the
sequence is packed. ``states`` and an LSTM's ``cells`` are ``[N + B, H]``: the initial state lies where the
step before the first would be, so that every step finds the one before it in the same buffer.

Weights are packed ``[H, PANELS, G, U]``: what unit k adds to the G gates of U units lies side by side, panel
after panel, so a kept unit is contiguous in FP and in BP, and a unit that is dropped is not read.
"""

import triton
import triton.language as tl

# Triton compiles anew where an argument is 1 or a multiple of 16, from which these gain nothing.
ANY_SIZE = ["steps", "batch", "total", "tiles", "gate_tiles", "product_tiles", "first", "last"]


@triton.jit
def barrier(arrived, target):
    """Waits until ``target`` programs have arrived. All writes before it are seen by all after it."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")
    while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < target:
        pass
    tl.debug_barrier()


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
