"""FP of a recurrence: a step's product with the kept units of the state, and its cell, in one kernel."""

# pyright: reportPossiblyUnboundVariable=false, reportAssignmentType=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false

import triton
import triton.language as tl

from strop.ops.triton import cells as cell
from strop.ops.triton.steps import ANY_SIZE, arrive, gates_of, places, product, span, wait


@triton.jit
def _kept(index, step, width, at, taking, LISTED: tl.constexpr, CHUNK: tl.constexpr, SHARES: tl.constexpr):
    """A chunk of the units that take part, in shares, and which of them there are."""
    position = places(at, CHUNK, SHARES)
    inside = position < taking
    k = position
    if LISTED:
        k = tl.load(index + step.to(tl.int64) * width + position, mask=inside, other=0)
    return k, inside


@triton.jit
def _weights(weights, k, inside, panel, panels, N: tl.constexpr, SHARES: tl.constexpr):
    """What units k add to all gates of a panel: whole rows of N."""
    lane = panel * N + tl.arange(0, N)
    row = weights + k.to(tl.int64) * (panels * N)
    if SHARES == 1:
        w = tl.load(row[:, None] + lane[None, :], mask=inside[:, None], other=0.0)
    else:
        w = tl.load(row[:, :, None] + lane[None, None, :], mask=inside[:, :, None], other=0.0)
    return w


@triton.jit
def _state(
    state, mask, step, k, inside, row, live, hidden, across, mask_stride, MASKED: tl.constexpr,
    SHARES: tl.constexpr,
):  # fmt: skip
    """Units k of the state that enters a step, ``[..., k, row]``, zero where not taken.

    Rows that are not there are read all the same, so that whole rows are read at once: nothing comes of them.
    """
    at_mask = mask + step.to(tl.int64) * mask_stride
    if SHARES == 1:
        taken, rows = inside[:, None], live[None, :]
        at = state + k.to(tl.int64)[:, None] * across + row[None, :]
        at_mask += row.to(tl.int64)[None, :] * hidden + k[:, None]
    else:
        taken, rows = inside[:, :, None], live[None, None, :]
        at = state + k.to(tl.int64)[:, :, None] * across + row[None, None, :]
        at_mask += row.to(tl.int64)[None, None, :] * hidden + k[:, :, None]
    h = tl.load(at, mask=taken, other=0.0)
    if MASKED:
        h = (h.to(tl.float32) * tl.load(at_mask, mask=taken & rows, other=0.0).to(tl.float32)).to(h.dtype)
    return h


@triton.jit
def enter(h0, state, arrived, batch, hidden, row_tiles, ROWS: tl.constexpr, U: tl.constexpr):
    """The initial state into both halves of ``state``: rows of packed sequences may begin at any step.

    And nobody has arrived yet.
    """
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(arrived, 0)
    unit = tl.program_id(0) * U + tl.arange(0, U)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = (unit < hidden)[:, None]
    at_h0 = h0 + row.to(tl.int64)[None, :] * hidden + unit[:, None]
    h = tl.load(at_h0, mask=there & (row < batch)[None, :], other=0.0)
    across = row_tiles * ROWS
    at = state + unit.to(tl.int64)[:, None] * across + row[None, :]
    tl.store(at, h, mask=there)
    tl.store(at + hidden.to(tl.int64) * across, h, mask=there)


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(
    gates,    # [N, G, H]: what the input adds; becomes the gates after their nonlinearities
    y, h0,
    cells,    # LSTM: c, float32 [N, H]; GRU: what h adds to gate n, float32 [N, H]
    c0,
    state,    # [2, H, row_tiles * ROWS]: h of the step before, a unit's rows side by side; halves by turns
    weights,  # [H, PANELS, P, U]
    bias,     # [G, H], recurrent
    index, count,
    kept,     # int8 [T, H], in place of the index lists if weights are on the chip
    mask, offsets, arrived, scale, steps, batch, hidden, width, row_tiles, mask_stride, first, last,
    CELL: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, LISTED: tl.constexpr,
    COUNTED: tl.constexpr, MASKED: tl.constexpr, BIASED: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    U: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, SHARES: tl.constexpr, PRECISION: tl.constexpr,
    PERSISTENT: tl.constexpr, RESIDENT: tl.constexpr, TRAPS: tl.constexpr,
):  # fmt: skip
    """Steps in the order of time; a program has a panel of units and ROWS rows of the batch.

    With RESIDENT, the number of chunks in all units, it reads its weights once and multiplies whole states
    whose dropped units are zero. Whatever other programs have no part in is read before a program waits for
    them, and stored after they were told of the new state.
    """
    N: tl.constexpr = P * U
    across = row_tiles * ROWS
    panels = tl.cdiv(hidden, U)
    panel = tl.program_id(0) % panels
    row = (tl.program_id(0) // panels) * ROWS + tl.arange(0, ROWS)
    unit = panel * U + tl.arange(0, U)
    real = (unit < hidden)[None, :]
    at_own = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    resident = ()
    for chunk in tl.static_range(RESIDENT):
        every = places(chunk * CHUNK, CHUNK, SHARES)
        resident = resident + (_weights(weights, every, every < hidden, panel, panels, N, SHARES),)  # noqa: RUF005

    # Its own units' c (of a GRU h) before the first step stays in registers.
    earliest = steps - 1 - first if REVERSE else first
    before, rows_before = span(earliest + 1 if REVERSE else earliest - 1, steps, batch, offsets, PACKED)
    earlier = (row < rows_before)[:, None] & real
    begins = ((row >= rows_before) & (row < batch))[:, None] & real
    at_before = (before + row).to(tl.int64)[:, None] * hidden + unit[None, :]
    own = tl.zeros((ROWS, U), dtype=tl.float32)
    if CELL == "lstm":
        own += tl.load(cells + at_before, mask=earlier, other=0.0)
        own += tl.load(c0 + at_own, mask=begins, other=0.0).to(tl.float32)
    if CELL == "gru":
        own += tl.load(y + at_before, mask=earlier, other=0.0).to(tl.float32)
        own += tl.load(h0 + at_own, mask=begins, other=0.0).to(tl.float32)

    if BIASED:
        at_bias = bias + unit[None, :]
        b0 = tl.load(at_bias, mask=real, other=0.0).to(tl.float32)
        if G > 1:
            b1 = tl.load(at_bias + hidden, mask=real, other=0.0).to(tl.float32)
            b2 = tl.load(at_bias + 2 * hidden, mask=real, other=0.0).to(tl.float32)
        if G > 3:
            b3 = tl.load(at_bias + 3 * hidden, mask=real, other=0.0).to(tl.float32)

    for n in range(first, last):
        step = steps - 1 - n if REVERSE else n
        start, rows = span(step, steps, batch, offsets, PACKED)
        live = row < rows
        valid = live[:, None] & real
        now = (start + row).to(tl.int64)[:, None]
        at_now = now * hidden + unit[None, :]
        gate = gates + now * (G * hidden) + unit[None, :]
        x0 = tl.load(gate, mask=valid, other=0.0).to(tl.float32)
        if G > 1:
            x1 = tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
            x2 = tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
        if G > 3:
            x3 = tl.load(gate + 3 * hidden, mask=valid, other=0.0).to(tl.float32)
        taking = width
        if COUNTED:
            taking = tl.load(count + step)
        if RESIDENT == 0:
            k, inside = _kept(index, step, width, 0, taking, LISTED, CHUNK, SHARES)
            w = _weights(weights, k, inside, panel, panels, N, SHARES)

        if PERSISTENT:  # noqa: SIM102
            if n > first:
                wait(arrived, (n - first) * tl.num_programs(0), TRAPS)
        half = n % 2
        entering = state + half.to(tl.int64) * hidden * across
        total = tl.zeros((ROWS, N) if SHARES == 1 else (SHARES, ROWS, N), dtype=tl.float32)
        for chunk in tl.static_range(RESIDENT):
            k = places(chunk * CHUNK, CHUNK, SHARES)
            inside = k < hidden
            if LISTED:
                at_kept = kept + step.to(tl.int64) * hidden + k
                inside = inside & (tl.load(at_kept, mask=inside, other=0) != 0)
            h = _state(
                entering, mask, step, k, inside, row, live, hidden, across, mask_stride, MASKED, SHARES
            )
            total = product(h, resident[chunk], total, SHARES, PRECISION)
        if RESIDENT == 0:
            h = _state(
                entering, mask, step, k, inside, row, live, hidden, across, mask_stride, MASKED, SHARES
            )
            total = product(h, w, total, SHARES, PRECISION)
            for at in range(CHUNK, taking, CHUNK):
                k, inside = _kept(index, step, width, at, taking, LISTED, CHUNK, SHARES)
                w = _weights(weights, k, inside, panel, panels, N, SHARES)
                h = _state(
                    entering, mask, step, k, inside, row, live, hidden, across, mask_stride, MASKED, SHARES
                )
                total = product(h, w, total, SHARES, PRECISION)
        if SHARES > 1:
            total = tl.sum(total, 0)
        total *= scale

        if BIASED:
            x0 += b0
            if G > 1:
                x1 += b1
            if CELL == "lstm":
                x2 += b2
                x3 += b3
        if P == 1:
            h_new = cell.rnn(x0 + total, CELL)
        else:
            a0, a1, a2, a3 = gates_of(total, ROWS, U)
            a0, a1 = a0 + x0, a1 + x1
            if CELL == "lstm":
                a0, a1, a2, a3, c, h_new = cell.lstm(a0, a1, a2 + x2, a3 + x3, own)
                own = tl.where(valid, c, own)
            else:
                of_hidden = a2
                if BIASED:  # the reset gate scales it
                    of_hidden += b2
                a0, a1, a2, h_new = cell.gru(a0, a1, x2, of_hidden, own)
                own = tl.where(valid, h_new.to(y.dtype.element_ty).to(tl.float32), own)
        h_new = h_new.to(y.dtype.element_ty)
        leaving = state + (1 - half).to(tl.int64) * hidden * across
        at_leaving = leaving + unit.to(tl.int64)[:, None] * across + row[None, :]
        if PACKED:  # the initial states of rows that begin later stay
            tl.store(at_leaving, tl.trans(h_new), mask=(unit < hidden)[:, None] & live[None, :])
        else:
            tl.store(at_leaving, tl.trans(h_new), mask=(unit < hidden)[:, None])
        if PERSISTENT:  # noqa: SIM102
            if n + 1 < last:
                arrive(arrived)
        tl.store(y + at_now, h_new, mask=valid)
        if G > 1:
            tl.store(gate, a0, mask=valid)
            tl.store(gate + hidden, a1, mask=valid)
            tl.store(gate + 2 * hidden, a2, mask=valid)
        if CELL == "lstm":
            tl.store(gate + 3 * hidden, a3, mask=valid)
            tl.store(cells + at_now, c, mask=valid)
        if CELL == "gru":
            tl.store(cells + at_now, of_hidden, mask=valid)
