"""BP of a recurrence through time: of each step the cell's derivative, then the product with its gradients.

Each half of a step needs all of the other: a unit's gradient comes from all gates, and its gates from all
parts of the sum. So a barrier parts them, and the sum over the gates is cut into splits, or too few
processors would take part.
"""

# pyright: reportPossiblyUnboundVariable=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

from strop.ops.triton import cells as cell
from strop.ops.triton.steps import ANY_SIZE, barrier, span


@triton.jit
def _through_product(
    partial, kept, mask, after, row, unit, valid, scale, batch, hidden, mask_stride,
    LISTED: tl.constexpr, MASKED: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """A state's gradient through the product of the step after it: the sum over the splits.

    Args:
        after: that step, of all rows or of each.
    """
    if LISTED:
        at_kept = kept + after.to(tl.int64) * hidden + unit[None, :]
        valid = valid & (tl.load(at_kept, mask=valid, other=0) != 0)
    at = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    dh = tl.load(partial + at, mask=valid, other=0.0)
    for split in tl.static_range(1, SPLITS):
        of_split = partial + tl.cast(split, tl.int64) * batch * hidden
        dh += tl.load(of_split + at, mask=valid, other=0.0)
    dh *= scale
    if MASKED:
        at_mask = mask + after.to(tl.int64) * mask_stride + at
        dh *= tl.load(at_mask, mask=valid, other=0.0).to(tl.float32)
    return dh


@triton.jit
def _gates_tile(
    tile, step, dy, dh_last, dc_last, gates, cells, y, h0, kept, mask, offsets, dgates, drecurrent,
    panel_grads, partial, carry, scale, steps, batch, total, hidden, mask_stride,
    CELL: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, LISTED: tl.constexpr,
    MASKED: tl.constexpr, HAS_DY: tl.constexpr, HAS_DH: tl.constexpr, HAS_DC: tl.constexpr, G: tl.constexpr,
    U: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The cell's derivative at one step, for one panel of units and ROWS rows of the batch."""
    panels = tl.cdiv(hidden, U)
    panel = tile % panels
    row = (tile // panels) * ROWS + tl.arange(0, ROWS)
    unit = panel * U + tl.arange(0, U)
    start, rows = span(step, steps, batch, offsets, PACKED)
    before, rows_before = span(step + 1 if REVERSE else step - 1, steps, batch, offsets, PACKED)
    after = step - 1 if REVERSE else step + 1
    _, rows_after = span(after, steps, batch, offsets, PACKED)
    real = (unit < hidden)[None, :]
    valid = (row < rows)[:, None] & real
    goes_on = valid & (row < rows_after)[:, None]
    ends = valid & (row >= rows_after)[:, None]
    now = (start + row).to(tl.int64)[:, None]
    at = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    at_now = now * hidden + unit[None, :]

    dh = _through_product(
        partial, kept, mask, after, row, unit, goes_on, scale, batch, hidden, mask_stride, LISTED, MASKED,
        SPLITS
    )  # fmt: skip
    if HAS_DH:
        dh += tl.load(dh_last + at, mask=ends, other=0.0).to(tl.float32)
    if HAS_DY:
        dh += tl.load(dy + at_now, mask=valid, other=0.0).to(tl.float32)
    gate = gates + now * (G * hidden) + unit[None, :]
    dgate = dgates + now * (G * hidden) + unit[None, :]
    in_panel = panel * G * U + tl.arange(0, U)[None, :]
    panel_grad = panel_grads + row.to(tl.int64)[:, None] * (panels * G * U) + in_panel
    in_batch = (row < rows)[:, None] & (unit >= 0)[None, :]
    if CELL == "lstm":
        dc = tl.load(carry + at, mask=goes_on, other=0.0)
        if HAS_DC:
            dc += tl.load(dc_last + at, mask=ends, other=0.0).to(tl.float32)
        y_at = 0 if REVERSE else batch
        initial_at = total if REVERSE else 0
        entering = tl.where(row < rows_before, y_at + before + row, initial_at + row).to(tl.int64)[:, None]
        c_before = tl.load(cells + entering * hidden + unit[None, :], mask=valid, other=0.0)
        c = tl.load(cells + (y_at + now) * hidden + unit[None, :], mask=valid, other=0.0)
        i = tl.load(gate, mask=valid, other=0.0).to(tl.float32)
        f = tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
        g = tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
        o = tl.load(gate + 3 * hidden, mask=valid, other=0.0).to(tl.float32)
        d0, d1, d2, d3, dc = cell.lstm_backward(dh, dc, i, f, g, o, c, c_before)
        tl.store(carry + at, dc, mask=valid)
        tl.store(dgate + hidden, d1, mask=valid)
        tl.store(dgate + 2 * hidden, d2, mask=valid)
        tl.store(dgate + 3 * hidden, d3, mask=valid)
        # Units beyond the last are zero: the product sums over them.
        tl.store(panel_grad + U, tl.where(real, d1, 0.0), mask=in_batch)
        tl.store(panel_grad + 2 * U, tl.where(real, d2, 0.0), mask=in_batch)
        tl.store(panel_grad + 3 * U, tl.where(real, d3, 0.0), mask=in_batch)
    elif CELL == "gru":
        dh += tl.load(carry + at, mask=goes_on, other=0.0)
        initial = valid & (row >= rows_before)[:, None]
        earlier = valid & (row < rows_before)[:, None]
        at_before = (before + row).to(tl.int64)[:, None] * hidden + unit[None, :]
        h_before = tl.load(y + at_before, mask=earlier, other=0.0).to(tl.float32)
        h_before += tl.load(h0 + at, mask=initial, other=0.0).to(tl.float32)
        r = tl.load(gate, mask=valid, other=0.0).to(tl.float32)
        z = tl.load(gate + hidden, mask=valid, other=0.0).to(tl.float32)
        n = tl.load(gate + 2 * hidden, mask=valid, other=0.0).to(tl.float32)
        of_hidden = tl.load(cells + at_now, mask=valid, other=0.0)
        d0, d1, d2, d2_recurrent, dh_before = cell.gru_backward(dh, r, z, n, of_hidden, h_before)
        tl.store(carry + at, dh_before, mask=valid)
        tl.store(dgate + hidden, d1, mask=valid)
        tl.store(dgate + 2 * hidden, d2, mask=valid)
        drec = drecurrent + now * (G * hidden) + unit[None, :]
        tl.store(drec, d0, mask=valid)
        tl.store(drec + hidden, d1, mask=valid)
        tl.store(drec + 2 * hidden, d2_recurrent, mask=valid)
        tl.store(panel_grad + U, tl.where(real, d1, 0.0), mask=in_batch)
        tl.store(panel_grad + 2 * U, tl.where(real, d2_recurrent, 0.0), mask=in_batch)
    else:
        h = tl.load(y + at_now, mask=valid, other=0.0).to(tl.float32)
        d0 = cell.rnn_backward(dh, h, CELL)
    tl.store(dgate, d0, mask=valid)
    tl.store(panel_grad, tl.where(real, d0, 0.0), mask=in_batch)


@triton.jit
def _place(tile, width, KEPT: tl.constexpr, SPLITS: tl.constexpr):
    """A tile's split of the gates, block of units and block of rows."""
    blocks = tl.cdiv(width, KEPT)
    return tile % SPLITS, (tile // SPLITS) % blocks, tile // (SPLITS * blocks)


@triton.jit
def _share(split, hidden, G: tl.constexpr, U: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr):
    """Where the gates of a split begin and end, and how many there are in all."""
    length = tl.cdiv(hidden, U) * (G * U)
    share = tl.cdiv(tl.cdiv(length, SPLITS), CHUNK) * CHUNK
    return split * share, tl.minimum((split + 1) * share, length), length


@triton.jit
def _weights(weights, k, inside, lane, end, length):
    at = weights + k.to(tl.int64)[:, None] * length + lane[None, :]
    return tl.load(at, mask=inside[:, None] & (lane < end)[None, :], other=0.0)


@triton.jit
def _add(dh, panel_grads, row, live, lane, end, length, w, PRECISION: tl.constexpr):
    at = panel_grads + row.to(tl.int64)[:, None] * length + lane[None, :]
    d = tl.load(at, mask=live & (lane < end)[None, :], other=0.0)
    return tl.dot(d, tl.trans(w), dh, input_precision=PRECISION)


@triton.jit
def _product_tile(
    tile, step, weights, index, count, offsets, panel_grads, partial, steps, batch, hidden, width, resident,
    PACKED: tl.constexpr, LISTED: tl.constexpr, COUNTED: tl.constexpr, G: tl.constexpr, U: tl.constexpr,
    ROWS: tl.constexpr, KEPT: tl.constexpr, CHUNK: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """What a split of the gates' gradients sends back to KEPT kept units and ROWS rows of the batch.

    With RESIDENT to KEPT units, dropped or not: only gradients of kept ones are read.
    """
    split, block, row_tile = _place(tile, width, KEPT, SPLITS)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    _, rows = span(step, steps, batch, offsets, PACKED)
    live = (row < rows)[:, None]
    begin, end, length = _share(split, hidden, G, U, CHUNK, SPLITS)
    position = block * KEPT + tl.arange(0, KEPT)
    k = position
    inside = position < width
    dh = tl.zeros((ROWS, KEPT), dtype=tl.float32)
    for chunk in tl.static_range(RESIDENT):
        lane = begin + chunk * CHUNK + tl.arange(0, CHUNK)
        dh = _add(dh, panel_grads, row, live, lane, end, length, resident[chunk], PRECISION)
    if RESIDENT == 0:
        if COUNTED:
            inside = position < tl.load(count + step)
        if LISTED:
            k = tl.load(index + step.to(tl.int64) * width + position, mask=inside, other=0)
        for at in range(begin, end, CHUNK):
            lane = at + tl.arange(0, CHUNK)
            w = _weights(weights, k, inside, lane, end, length)
            dh = _add(dh, panel_grads, row, live, lane, end, length, w, PRECISION)
    target = partial + (tl.cast(split, tl.int64) * batch + row)[:, None] * hidden + k[None, :]
    tl.store(target, dh, mask=live & inside[None, :])


@triton.jit(do_not_specialize=ANY_SIZE)
def backward(
    dy, dh_last, dc_last,
    gates,  # [N, G, H], after their nonlinearities
    cells, y, h0, weights,
    kept,  # int8 [T, H]
    index, count, mask, offsets,
    dgates,  # [N, G, H]
    drecurrent,  # GRU: [N, G, H], of what the hidden state adds to the gates
    panel_grads,  # [B, PANELS, G, U]: the same of one step, in the weights' order
    partial,  # float32 [SPLITS, B, H]
    carry,  # float32 [B, H]; LSTM: dc; GRU: dh but for the product's share
    arrived, scale, steps, batch, total, hidden, width, mask_stride, gate_tiles, product_tiles, first, last,
    CELL: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, LISTED: tl.constexpr,
    COUNTED: tl.constexpr, MASKED: tl.constexpr, HAS_DY: tl.constexpr, HAS_DH: tl.constexpr,
    HAS_DC: tl.constexpr, G: tl.constexpr, U: tl.constexpr, ROWS: tl.constexpr, KEPT: tl.constexpr,
    CHUNK: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr, GATES: tl.constexpr,
    PRODUCT: tl.constexpr, PERSISTENT: tl.constexpr, RESIDENT: tl.constexpr, TRAPS: tl.constexpr,
):  # fmt: skip
    """Steps against the order of time; of each the cell's derivative, and then the product.

    With RESIDENT, the number of chunks in a split, `width` is all units, and there is a program for each
    split and block of units, which reads its weights once.
    """
    resident = ()
    if PRODUCT and RESIDENT > 0:
        split, block, _ = _place(tl.program_id(0), width, KEPT, SPLITS)
        begin, end, length = _share(split, hidden, G, U, CHUNK, SPLITS)
        k = block * KEPT + tl.arange(0, KEPT)
        for chunk in tl.static_range(RESIDENT):
            lane = begin + chunk * CHUNK + tl.arange(0, CHUNK)
            own = _weights(weights, k, k < width, lane, end, length)
            resident = resident + (own,)  # noqa: RUF005
    for n in range(first, last):
        step = n if REVERSE else steps - 1 - n
        if GATES:
            for tile in range(tl.program_id(0), gate_tiles, tl.num_programs(0)):
                _gates_tile(
                    tile, step, dy, dh_last, dc_last, gates, cells, y, h0, kept, mask, offsets, dgates,
                    drecurrent, panel_grads, partial, carry, scale, steps, batch, total, hidden,
                    mask_stride, CELL, REVERSE, PACKED, LISTED, MASKED, HAS_DY, HAS_DH, HAS_DC, G, U,
                    ROWS, SPLITS
                )  # fmt: skip
        if PERSISTENT:
            barrier(arrived, (2 * (n - first) + 1) * tl.num_programs(0), TRAPS)
        if PRODUCT:
            for tile in range(tl.program_id(0), product_tiles, tl.num_programs(0)):
                _product_tile(
                    tile, step, weights, index, count, offsets, panel_grads, partial, steps, batch,
                    hidden, width, resident, PACKED, LISTED, COUNTED, G, U, ROWS, KEPT, CHUNK, SPLITS,
                    PRECISION, RESIDENT
                )  # fmt: skip
        if PERSISTENT:
            barrier(arrived, (2 * (n - first) + 2) * tl.num_programs(0), TRAPS)


@triton.jit
def initial_grad(
    dh0,  # [B, H]
    partial, carry, kept, mask,
    entered,  # int32 [B]: the step that each row enters with its initial state
    scale, batch, hidden, mask_stride,
    CELL: tl.constexpr, LISTED: tl.constexpr, MASKED: tl.constexpr, SPLITS: tl.constexpr, U: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The gradient of h0, from what the last steps of ``backward`` left."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(0) * U + tl.arange(0, U)
    valid = (row < batch)[:, None] & (unit < hidden)[None, :]
    step = tl.load(entered + row, mask=row < batch, other=0).to(tl.int64)[:, None]
    dh = _through_product(
        partial, kept, mask, step, row, unit, valid, scale, batch, hidden, mask_stride, LISTED, MASKED,
        SPLITS
    )  # fmt: skip
    at = row.to(tl.int64)[:, None] * hidden + unit[None, :]
    if CELL == "gru":
        dh += tl.load(carry + at, mask=valid, other=0.0)
    tl.store(dh0 + at, dh, mask=valid)
