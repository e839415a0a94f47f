"""FP of a recurrence: a step's product with the hidden state, and its cell, in one kernel."""

# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from strop.ops.triton import cells as cell
from strop.ops.triton.steps import ANY_SIZE, barrier, span


@triton.jit
def _weights(weights, k, inside, panel, panels, G: tl.constexpr, U: tl.constexpr):
    """What units k add to each gate of a panel; of gates that the cell has not, any."""
    at = weights + k.to(tl.int64)[:, None] * (panels * G * U) + panel * G * U + tl.arange(0, U)[None, :]
    w0 = tl.load(at, mask=inside[:, None], other=0.0)
    w1, w2, w3 = w0, w0, w0
    if G > 1:
        w1 = tl.load(at + U, mask=inside[:, None], other=0.0)
        w2 = tl.load(at + 2 * U, mask=inside[:, None], other=0.0)
    if G > 3:
        w3 = tl.load(at + 3 * U, mask=inside[:, None], other=0.0)
    return w0, w1, w2, w3


@triton.jit
def _add(a0, a1, a2, a3, h, w0, w1, w2, w3, G: tl.constexpr, PRECISION: tl.constexpr):
    a0 = tl.dot(h, w0, a0, input_precision=PRECISION)
    if G > 1:
        a1 = tl.dot(h, w1, a1, input_precision=PRECISION)
        a2 = tl.dot(h, w2, a2, input_precision=PRECISION)
    if G > 3:
        a3 = tl.dot(h, w3, a3, input_precision=PRECISION)
    return a0, a1, a2, a3


@triton.jit
def _entering(
    states, mask, step, entering, row, k, taken, hidden, mask_stride, MASKED: tl.constexpr,
):  # fmt: skip
    """Units k of the states that enter a step, zero where not taken."""
    h = tl.load(states + entering[:, None] * hidden + k[None, :], mask=taken, other=0.0)
    if MASKED:
        at = mask + step.to(tl.int64) * mask_stride + row.to(tl.int64)[:, None] * hidden + k[None, :]
        h = (h.to(tl.float32) * tl.load(at, mask=taken, other=0.0).to(tl.float32)).to(h.dtype)
    return h


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(
    gates,    # [N, G, H]: what the input adds, with biases; becomes the gates after their nonlinearities
    states,   # [N + B, H]: y, and h0 where the step before the first would be
    cells,    # LSTM: c, float32 [N + B, H] likewise; GRU: what h adds to gate n, float32 [N, H]
    weights,  # [H, PANELS, G, U]
    bias,     # GRU: of gate n, recurrent, [H]
    index, count,
    kept,     # int8 [T, H], in place of the index lists if weights are on the chip
    mask, offsets, arrived, scale, steps, batch, total, hidden, width, mask_stride, tiles, first, last,
    CELL: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, LISTED: tl.constexpr,
    COUNTED: tl.constexpr, MASKED: tl.constexpr, BIASED: tl.constexpr, G: tl.constexpr, U: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, PERSISTENT: tl.constexpr,
    RESIDENT: tl.constexpr, TRAPS: tl.constexpr,
):  # fmt: skip
    """Steps in the order of time. A tile is a panel of units and ROWS rows of the batch.

    With RESIDENT, the number of chunks in all units, there is a program for each panel, which reads its
    weights once and multiplies whole states whose dropped units are zero.
    """
    panels = tl.cdiv(hidden, U)
    resident = ()
    for chunk in tl.static_range(RESIDENT):
        every = chunk * CHUNK + tl.arange(0, CHUNK)
        own = _weights(weights, every, every < hidden, tl.program_id(0), panels, G, U)
        resident = resident + (own,)  # noqa: RUF005
    # Where y and the initial states lie.
    y_at = 0 if REVERSE else batch
    initial_at = total if REVERSE else 0
    for n in range(first, last):
        step = steps - 1 - n if REVERSE else n
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            panel = tile % panels
            row = (tile // panels) * ROWS + tl.arange(0, ROWS)
            unit = panel * U + tl.arange(0, U)
            start, rows = span(step, steps, batch, offsets, PACKED)
            before, rows_before = span(step + 1 if REVERSE else step - 1, steps, batch, offsets, PACKED)
            entering = tl.where(row < rows_before, y_at + before + row, initial_at + row).to(tl.int64)
            live = (row < rows)[:, None]
            a0 = tl.zeros((ROWS, U), dtype=tl.float32)
            a1, a2, a3 = a0, a0, a0
            for chunk in tl.static_range(RESIDENT):
                k = chunk * CHUNK + tl.arange(0, CHUNK)
                taken = live & (k < hidden)[None, :]
                if LISTED:
                    at_kept = kept + step.to(tl.int64) * hidden + k
                    taken = taken & (tl.load(at_kept, mask=k < hidden, other=0) != 0)[None, :]
                h = _entering(states, mask, step, entering, row, k, taken, hidden, mask_stride, MASKED)
                w0, w1, w2, w3 = resident[chunk]
                a0, a1, a2, a3 = _add(a0, a1, a2, a3, h, w0, w1, w2, w3, G, PRECISION)
            if RESIDENT == 0:
                taking = width
                if COUNTED:
                    taking = tl.load(count + step)
                for at in range(0, taking, CHUNK):
                    position = at + tl.arange(0, CHUNK)
                    inside = position < taking
                    k = position
                    if LISTED:
                        at_index = index + step.to(tl.int64) * width + position
                        k = tl.load(at_index, mask=inside, other=0)
                    taken = live & inside[None, :]
                    h = _entering(states, mask, step, entering, row, k, taken, hidden, mask_stride, MASKED)
                    w0, w1, w2, w3 = _weights(weights, k, inside, panel, panels, G, U)
                    a0, a1, a2, a3 = _add(a0, a1, a2, a3, h, w0, w1, w2, w3, G, PRECISION)

            valid = live & (unit < hidden)[None, :]
            now = (start + row).to(tl.int64)[:, None]
            gate = gates + now * (G * hidden) + unit[None, :]
            a0 = a0 * scale + tl.load(gate, mask=valid, other=0.0).to(tl.float32)
            at_state = (y_at + now) * hidden + unit[None, :]
            if CELL == "lstm":
                a1 = a1 * scale + tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
                a2 = a2 * scale + tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
                a3 = a3 * scale + tl.load(gate + 3 * hidden, mask=valid, other=0.0).to(tl.float32)
                c = tl.load(cells + entering[:, None] * hidden + unit[None, :], mask=valid, other=0.0)
                a0, a1, a2, a3, c, h_new = cell.lstm(a0, a1, a2, a3, c)
                tl.store(gate + 3 * hidden, a3, mask=valid)
                tl.store(cells + at_state, c, mask=valid)
            elif CELL == "gru":
                a1 = a1 * scale + tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
                of_input = tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
                of_hidden = a2 * scale
                if BIASED:
                    of_hidden += tl.load(bias + unit, mask=unit < hidden, other=0.0).to(tl.float32)[None, :]
                at_before = states + entering[:, None] * hidden + unit[None, :]
                h_before = tl.load(at_before, mask=valid, other=0.0).to(tl.float32)
                a0, a1, a2, h_new = cell.gru(a0, a1, of_input, of_hidden, h_before)
                tl.store(cells + now * hidden + unit[None, :], of_hidden, mask=valid)
            else:
                h_new = cell.rnn(a0, CELL)
            if G > 1:
                tl.store(gate, a0, mask=valid)
                tl.store(gate + hidden, a1, mask=valid)
                tl.store(gate + 2 * hidden, a2, mask=valid)
            tl.store(states + at_state, h_new, mask=valid)
        if PERSISTENT:
            barrier(arrived, (n - first + 1) * tl.num_programs(0), TRAPS)
