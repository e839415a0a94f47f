"""BP of a recurrence through time: of each step the cell's derivative, then the product with its gradients.

Each half of a step needs all of the other: a unit's gradient comes from all gates, and its gates from all
parts of the sum. So programs wait for each other between them, and the sum over the gates is cut into splits,
or too few processors would take part.
"""

# pyright: reportPossiblyUnboundVariable=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from strop.ops.triton import cells as cell
from strop.ops.triton.steps import ANY_SIZE, arrive, places, product, span, wait


@triton.jit
def _through_product(
    partial, mask, after, row, unit, kept, scale, batch, hidden, mask_stride, MASKED: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """A state's gradient through the product of the step after it: the sum over the splits, where kept.

    Args:
        after: that step, of all rows or of each.
    """
    at = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    dh = tl.load(partial + at, mask=kept, other=0.0)
    for split in tl.static_range(1, SPLITS):
        of_split = partial + tl.cast(split, tl.int64) * batch * hidden
        dh += tl.load(of_split + at, mask=kept, other=0.0)
    dh *= scale
    if MASKED:
        at_mask = mask + after.to(tl.int64) * mask_stride + at
        dh *= tl.load(at_mask, mask=kept, other=0.0).to(tl.float32)
    return dh


@triton.jit
def _among_kept(kept, after, unit, valid, hidden, LISTED: tl.constexpr):
    """Which of ``valid`` belong to units that were kept at step ``after``."""
    if LISTED:
        at = kept + after.to(tl.int64) * hidden + unit[None, :]
        valid = valid & (tl.load(at, mask=valid, other=0) != 0)
    return valid


@triton.jit
def _place(tile, width, KEPT: tl.constexpr, SPLITS: tl.constexpr):
    """A tile's split of the gates, block of units and block of rows."""
    blocks = tl.maximum(tl.cdiv(width, KEPT), 1)
    return tile % SPLITS, (tile // SPLITS) % blocks, tile // (SPLITS * blocks)


@triton.jit
def _share(split, hidden, N: tl.constexpr, U: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr):
    """Where the gates of a split begin and end, and how many there are in all."""
    length = tl.cdiv(hidden, U) * N
    share = tl.cdiv(tl.cdiv(length, SPLITS), CHUNK) * CHUNK
    return split * share, tl.minimum((split + 1) * share, length), length


@triton.jit
def _lanes(rows, inside, at, end, length, CHUNK: tl.constexpr, SHARES: tl.constexpr):
    """A chunk of the gates of some rows of ``length`` gates: ``[..., gate, row]``."""
    lane = places(at, CHUNK, SHARES)
    if SHARES == 1:
        there = (lane < end)[:, None] & inside[None, :]
        tile = tl.load(rows[None, :] + lane[:, None], mask=there, other=0.0)
    else:
        there = (lane < end)[:, :, None] & inside[None, None, :]
        tile = tl.load(rows[None, None, :] + lane[:, :, None], mask=there, other=0.0)
    return tile


@triton.jit(do_not_specialize=ANY_SIZE)
def backward(
    dy, dh_last, dc_last,
    gates,  # [N, G, H], after their nonlinearities
    cells, y, h0, c0, weights,
    kept,  # int8 [T, H]
    index, count, mask, offsets,
    dgates,  # [N, G, H]
    drecurrent,  # GRU: [N, G, H], of what the hidden state adds to the gates
    panel_grads,  # [B, PANELS, P, U]: the same of one step, in the weights' order
    partial,  # float32 [SPLITS, B, H]
    carry,  # float32 [B, H]; LSTM: dc; GRU: dh but for the product's share
    arrived, scale, steps, batch, hidden, width, mask_stride, gate_tiles, product_tiles, first, last,
    CELL: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, LISTED: tl.constexpr,
    COUNTED: tl.constexpr, MASKED: tl.constexpr, HAS_DY: tl.constexpr, HAS_DH: tl.constexpr,
    HAS_DC: tl.constexpr, G: tl.constexpr, P: tl.constexpr, U: tl.constexpr, ROWS: tl.constexpr,
    KEPT: tl.constexpr, CHUNK: tl.constexpr, SHARES: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr, GATES: tl.constexpr, PRODUCT: tl.constexpr, PERSISTENT: tl.constexpr,
    RESIDENT: tl.constexpr, TRAPS: tl.constexpr,
):  # fmt: skip
    """Steps against the order of time; of each the cell's derivative, and then the product.

    A program has a panel of units and ROWS rows for the one; for the other a split of the gates, KEPT kept
    units and ROWS rows. With RESIDENT, the number of chunks in a split, `width` is all units, and it reads
    its weights once. What no other program has a part in is read before a program waits for them, and stored
    after they were told of what they need.
    """
    N: tl.constexpr = P * U
    program, programs = tl.program_id(0), tl.num_programs(0)
    panels = tl.cdiv(hidden, U)
    length = panels * N
    panel = program % panels
    row = (program // panels) * ROWS + tl.arange(0, ROWS)
    unit = panel * U + tl.arange(0, U)
    real = (unit < hidden)[None, :]
    own_batch = tl.where(program < gate_tiles, batch, 0)  # a program without gates has no rows
    at_own = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    own_grads = panel_grads + row.to(tl.int64)[:, None] * length + panel * N + tl.arange(0, U)[None, :]
    # Of its own units, carried in registers from step to step.
    own = tl.zeros((ROWS, U), dtype=tl.float32)
    if G > 1:  # noqa: SIM102
        if GATES:
            earlier_rows = tl.where(first > 0, own_batch, 0)
            own = tl.load(carry + at_own, mask=(row < earlier_rows)[:, None] & real, other=0.0)

    split, block, row_tile = _place(program, width, KEPT, SPLITS)
    product_row = row_tile * ROWS + tl.arange(0, ROWS)
    begin, end, _ = _share(split, hidden, N, U, CHUNK, SPLITS)
    position = block * KEPT + tl.arange(0, KEPT)
    own_width = tl.where(program < product_tiles, width, 0)
    resident = ()
    if PRODUCT and RESIDENT > 0:
        rows_of_weights = weights + position.to(tl.int64) * length
        for chunk in tl.static_range(RESIDENT):
            at = begin + chunk * CHUNK
            tile = _lanes(rows_of_weights, position < width, at, end, length, CHUNK, SHARES)
            resident = resident + (tile,)  # noqa: RUF005

    for n in range(first, last):
        step = n if REVERSE else steps - 1 - n
        start, rows = span(step, steps, batch, offsets, PACKED)
        if GATES:
            before, rows_before = span(step + 1 if REVERSE else step - 1, steps, batch, offsets, PACKED)
            after = step - 1 if REVERSE else step + 1
            _, rows_after = span(after, steps, batch, offsets, PACKED)
            in_batch = (row < tl.minimum(rows, own_batch))[:, None] & (unit >= 0)[None, :]
            valid = in_batch & real
            goes_on = valid & (row < rows_after)[:, None]
            ends = valid & (row >= rows_after)[:, None]
            now = (start + row).to(tl.int64)[:, None]
            at_now = now * hidden + unit[None, :]
            gate = gates + now * (G * hidden) + unit[None, :]
            was_kept = _among_kept(kept, after, unit, goes_on, hidden, LISTED)
            dh = tl.zeros((ROWS, U), dtype=tl.float32)
            if HAS_DH:
                dh += tl.load(dh_last + at_own, mask=ends, other=0.0).to(tl.float32)
            if HAS_DY:
                dh += tl.load(dy + at_now, mask=valid, other=0.0).to(tl.float32)
            initial = valid & (row >= rows_before)[:, None]
            earlier = valid & (row < rows_before)[:, None]
            at_before = (before + row).to(tl.int64)[:, None] * hidden + unit[None, :]
            if G == 1:
                g0 = tl.load(y + at_now, mask=valid, other=0.0).to(tl.float32)
            else:
                g0 = tl.load(gate, mask=valid, other=0.0).to(tl.float32)
                g1 = tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
                g2 = tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
                of_cell = tl.load(cells + at_now, mask=valid, other=0.0)
            if CELL == "lstm":
                g3 = tl.load(gate + 3 * hidden, mask=valid, other=0.0).to(tl.float32)
                c_before = tl.load(cells + at_before, mask=earlier, other=0.0)
                c_before += tl.load(c0 + at_own, mask=initial, other=0.0).to(tl.float32)
                dc = tl.where(goes_on, own, 0.0)
                if HAS_DC:
                    dc += tl.load(dc_last + at_own, mask=ends, other=0.0).to(tl.float32)
            if CELL == "gru":
                h_before = tl.load(y + at_before, mask=earlier, other=0.0).to(tl.float32)
                h_before += tl.load(h0 + at_own, mask=initial, other=0.0).to(tl.float32)
                dh += tl.where(goes_on, own, 0.0)

            if PERSISTENT:  # noqa: SIM102
                if n > first:
                    wait(arrived, 2 * (n - first) * programs, TRAPS)
            dh += _through_product(
                partial, mask, after, row, unit, was_kept, scale, batch, hidden, mask_stride, MASKED, SPLITS
            )
            if CELL == "lstm":
                d0, d1, d2, d3, dc = cell.lstm_backward(dh, dc, g0, g1, g2, g3, of_cell, c_before)
                d2_recurrent = d2
                own = tl.where(valid, dc, own)
            elif CELL == "gru":
                d0, d1, d2, d2_recurrent, dh_before = cell.gru_backward(dh, g0, g1, g2, of_cell, h_before)
                own = tl.where(valid, dh_before, own)
            else:
                d0 = cell.rnn_backward(dh, g0, CELL)
            # Units beyond the last are zero, and so is a fourth gate of three: the product sums over them.
            tl.store(own_grads, tl.where(real, d0, 0.0), mask=in_batch)
            if P > 1:
                tl.store(own_grads + U, tl.where(real, d1, 0.0), mask=in_batch)
                tl.store(own_grads + 2 * U, tl.where(real, d2_recurrent, 0.0), mask=in_batch)
                last_gate = tl.zeros((ROWS, U), dtype=tl.float32)
                if G > 3:
                    last_gate = tl.where(real, d3, 0.0)
                tl.store(own_grads + 3 * U, last_gate, mask=in_batch)
            if PERSISTENT:
                arrive(arrived)
            dgate = dgates + now * (G * hidden) + unit[None, :]
            tl.store(dgate, d0, mask=valid)
            if G > 1:
                tl.store(dgate + hidden, d1, mask=valid)
                tl.store(dgate + 2 * hidden, d2, mask=valid)
            if G > 3:
                tl.store(dgate + 3 * hidden, d3, mask=valid)
            if CELL == "gru":
                of_hidden = drecurrent + now * (G * hidden) + unit[None, :]
                tl.store(of_hidden, d0, mask=valid)
                tl.store(of_hidden + hidden, d1, mask=valid)
                tl.store(of_hidden + 2 * hidden, d2_recurrent, mask=valid)
        if PRODUCT:
            k = position
            inside = position < own_width
            if RESIDENT == 0:
                if COUNTED:
                    inside = position < tl.minimum(own_width, tl.load(count + step))
                if LISTED:
                    k = tl.load(index + step.to(tl.int64) * width + position, mask=inside, other=0)
                rows_of_weights = weights + k.to(tl.int64) * length
                w = _lanes(rows_of_weights, inside, begin, end, length, CHUNK, SHARES)
            live = product_row < rows
            rows_of_grads = panel_grads + product_row.to(tl.int64) * length
            if PERSISTENT:
                wait(arrived, (2 * (n - first) + 1) * programs, TRAPS)
            total = tl.zeros((ROWS, KEPT) if SHARES == 1 else (SHARES, ROWS, KEPT), dtype=tl.float32)
            for chunk in tl.static_range(RESIDENT):
                at = begin + chunk * CHUNK
                d = _lanes(rows_of_grads, live, at, end, length, CHUNK, SHARES)
                total = product(d, resident[chunk], total, SHARES, PRECISION)
            if RESIDENT == 0:
                d = _lanes(rows_of_grads, live, begin, end, length, CHUNK, SHARES)
                total = product(d, w, total, SHARES, PRECISION)
                for at in range(begin + CHUNK, end, CHUNK):
                    w = _lanes(rows_of_weights, inside, at, end, length, CHUNK, SHARES)
                    d = _lanes(rows_of_grads, live, at, end, length, CHUNK, SHARES)
                    total = product(d, w, total, SHARES, PRECISION)
            if SHARES > 1:
                total = tl.sum(total, 0)
            at_target = (tl.cast(split, tl.int64) * batch + product_row)[:, None] * hidden + k[None, :]
            tl.store(partial + at_target, total, mask=live[:, None] & inside[None, :])
            if PERSISTENT:  # noqa: SIM102
                if n + 1 < last:
                    arrive(arrived)
    if G > 1:  # noqa: SIM102
        if GATES:
            tl.store(carry + at_own, own, mask=(row < own_batch)[:, None] & real)


@triton.jit(do_not_specialize=ANY_SIZE)
def initial_grad(
    dh0,  # [B, H]
    partial, carry, kept, mask,
    entered,  # packed: int32 [B], the step that each row enters with its initial state; else all at `first`
    first, scale, batch, hidden, mask_stride,
    PACKED: tl.constexpr, CELL: tl.constexpr, LISTED: tl.constexpr, MASKED: tl.constexpr,
    SPLITS: tl.constexpr, U: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradient of h0, from what the last steps of ``backward`` left."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(0) * U + tl.arange(0, U)
    valid = (row < batch)[:, None] & (unit < hidden)[None, :]
    step = (row * 0 + first)[:, None]
    if PACKED:
        step = tl.load(entered + row, mask=row < batch, other=0)[:, None]
    was_kept = _among_kept(kept, step, unit, valid, hidden, LISTED)
    dh = _through_product(
        partial, mask, step, row, unit, was_kept, scale, batch, hidden, mask_stride, MASKED, SPLITS
    )
    at = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    if CELL == "gru":
        dh += tl.load(carry + at, mask=valid, other=0.0)
    tl.store(dh0 + at, dh, mask=valid)
