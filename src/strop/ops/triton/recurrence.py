"""The recurrence on a GPU: see ``ops.recurrence`` for the functions and their arguments.

The input's products over all steps are one dense product on the dropped input, and so are the weights'
gradients: tensor cores gain nothing where single columns are skipped. What the steps wait for, the product
with the hidden state, runs in the fastest of the ``ways``.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.ops.triton import launch, steps_backward, steps_forward, tiles, ways
from strop.ops.triton.columns import drop, kept_map, pack
from strop.ops.triton.launch import run
from strop.ops.triton.products import forward_rows, input_grad_rows
from strop.ops.triton.sequence import Drop, Sequence
from strop.ops.triton.tiles import Tiles


def saved_like(layer: Layer, x: Tensor, hidden_size: int) -> tuple[Tensor, ...]:
    """Empty tensors like those that ``forward`` saves for x."""
    gates = layer.cell.gates
    batch = x.shape[1] if layer.batch_sizes is None else int(layer.batch_sizes[0])
    lanes = tiles.lanes(gates, hidden_size, batch, x.dtype, x.device)
    weights = x.new_empty(hidden_size, -(-hidden_size // lanes), tiles.padded(gates), lanes)
    if gates == 1:
        return (weights,)
    rows = prod(x.shape[:-1])
    of_rows = x.new_empty(rows, gates * hidden_size)
    return weights, of_rows, x.new_empty(rows, hidden_size, dtype=torch.float32)


def forward(
    layer: Layer,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
    """FP over the sequence: see ``ops.recurrence.forward``.

    What is saved are the packed recurrent weights, the gates after their nonlinearities ``[N, G * H]``, and
    of an LSTM all cell states, of a GRU what the hidden state adds to gate n, float32 ``[N, H]``.
    """
    sequence = Sequence.of(layer, x, h0)
    dropped = Drop.of(recurrent_keep, recurrent_mask, h0)
    plans = ways.plans_for(sequence, dropped.width, x, backward=False)

    def run_by(way: str) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
        operands = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, input_keep, recurrent_keep)
        return _forward(way, plans[way], sequence, dropped, *operands)

    variant = (b_hh is not None,)
    return run_by(ways.choose(sequence, dropped, x, plans, run_by, "forward", variant))


def _forward(
    way: str,
    plan: Tiles,
    sequence: Sequence,
    dropped: Drop,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]]:
    hidden, rows, batch = sequence.hidden, sequence.rows, sequence.batch
    gates = forward_rows(x.reshape(rows, -1), w_ih, b_ih, input_keep, batch, sequence.offsets)
    weights = pack(w_hh, sequence.gates, plan.lanes, tiles.padded(sequence.gates))
    y = h0.new_empty(sequence.like(hidden))
    cells = h0 if sequence.gates == 1 else h0.new_empty(rows, hidden, dtype=torch.float32)
    row_tiles = -(-batch // plan.rows)
    state = h0.new_empty(2, hidden, row_tiles * plan.rows)
    arrived = torch.empty(1, dtype=torch.int32, device=x.device)
    entering = (h0, state, arrived, batch, hidden, row_tiles)
    run(steps_forward.enter, (-(-hidden // 16), row_tiles), *entering, ROWS=plan.rows, U=16)
    kept = h0 if recurrent_keep is None or not plan.resident else kept_map(recurrent_keep, hidden)
    programs = ways.programs(sequence, plan, dropped.width, backward=False)
    whole = ways.in_one_launch(way, programs)
    for begin, end in [(0, sequence.steps)] if whole else [(n, n + 1) for n in range(sequence.steps)]:
        run(
            steps_forward.forward,
            (programs,),
            gates,
            y,
            h0,
            cells,
            h0 if c0 is None else c0,
            state,
            weights,
            h0 if b_hh is None else b_hh,
            dropped.index,
            dropped.count,
            kept,
            dropped.mask,
            h0 if sequence.offsets is None else sequence.offsets,
            arrived,
            dropped.scale,
            sequence.steps,
            batch,
            hidden,
            dropped.width,
            row_tiles,
            dropped.mask_stride,
            begin,
            end,
            CELL=sequence.kind,
            REVERSE=sequence.reverse,
            PACKED=sequence.offsets is not None,
            BIASED=b_hh is not None,
            G=sequence.gates,
            P=tiles.padded(sequence.gates),
            U=plan.lanes,
            ROWS=plan.rows,
            CHUNK=plan.chunk,
            SHARES=plan.shares,
            PRECISION=launch.precision(x.dtype),
            PERSISTENT=whole,
            RESIDENT=plan.resident,
            TRAPS=not launch.interpreting,
            warps=plan.warps,
            stages=plan.stages,
            cooperative=whole,
            **dropped.flags,
        )
    if sequence.kind != "lstm":
        saved = (weights, gates, cells) if sequence.kind == "gru" else (weights,)
        return y, sequence.last_rows(y), None, saved
    c = sequence.last_rows(cells, h0.dtype)
    return y, sequence.last_rows(y), c, (weights, gates, cells)


def backward(
    layer: Layer,
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    saved: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
    need_dx: bool,
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor | None, Tensor | None]:
    """BP through time: see ``ops.recurrence.backward``. From zeros there are no gradients of initial states.

    Gradients of the gates are ``[N, G * H]``; of a GRU there are two, the second of what the hidden state
    adds.
    """
    sequence = Sequence.of(layer, y, h0)
    dropped = Drop.of(recurrent_keep, recurrent_mask, h0)
    plans = ways.plans_for(sequence, dropped.width, x, backward=True)

    def run_by(way: str) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor | None]:
        plan, of_states = plans[way], not layer.from_zeros
        return _backward(
            way, plan, sequence, dropped, dy, dh, dc, y, h0, c0, saved, recurrent_keep, of_states
        )

    variant = tuple(grad is not None for grad in (dy, dh, dc))
    grads, dh0, dc0 = run_by(ways.choose(sequence, dropped, x, plans, run_by, "backward", variant))
    dx = None
    if need_dx:
        dx = input_grad_rows(grads[0], w_ih, input_keep, sequence.batch, sequence.offsets).view(x.shape)
    return grads, dx, dh0, dc0


def _backward(
    way: str,
    plan: Tiles,
    sequence: Sequence,
    dropped: Drop,
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    y: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    saved: tuple[Tensor, ...],
    recurrent_keep: Keep | None,
    of_states: bool,
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor | None]:
    """Gradients of the gates, and of h0 and c0 if ``of_states``."""
    hidden, rows, batch = sequence.hidden, sequence.rows, sequence.batch
    weights, gates, cells = saved if len(saved) == 3 else (saved[0], h0, h0)
    if recurrent_keep is None:
        kept, arrived = h0, torch.zeros(1, dtype=torch.int32, device=h0.device)
    else:
        arrived = torch.empty(1, dtype=torch.int32, device=h0.device)
        kept = kept_map(recurrent_keep, hidden, arrived)
    dgates = h0.new_empty(rows, sequence.gates * hidden)
    drecurrent = torch.empty_like(dgates) if sequence.kind == "gru" else dgates
    panel_grads = h0.new_empty(batch, *weights.shape[1:])
    partial = h0.new_empty(plan.splits, batch, hidden, dtype=torch.float32)
    carry = h0.new_empty(batch, hidden, dtype=torch.float32)
    gate_tiles, width = sequence.tiles_of_gates(plan), hidden if plan.resident else dropped.width
    product_tiles = sequence.tiles_of_product(plan, width)
    programs = ways.programs(sequence, plan, width, backward=True)
    whole = ways.in_one_launch(way, programs)
    both = {"GATES": True, "PRODUCT": True}
    halves = [(gate_tiles, both | {"PRODUCT": False}), (product_tiles, both | {"GATES": False})]
    if whole:
        launches = [(0, sequence.steps, programs, both)]
    else:
        launches = [(n, n + 1, *half) for n in range(sequence.steps) for half in halves]
    for begin, end, grid, parts in launches:
        run(
            steps_backward.backward,
            (grid,),
            h0 if dy is None else dy.contiguous(),
            h0 if dh is None else dh.contiguous(),
            h0 if dc is None else dc.contiguous(),
            gates,
            cells,
            y,
            h0,
            h0 if c0 is None else c0,
            weights,
            kept,
            dropped.index,
            dropped.count,
            dropped.mask,
            h0 if sequence.offsets is None else sequence.offsets,
            dgates,
            drecurrent,
            panel_grads,
            partial,
            carry,
            arrived,
            dropped.scale,
            sequence.steps,
            batch,
            hidden,
            width,
            dropped.mask_stride,
            gate_tiles,
            product_tiles,
            begin,
            end,
            CELL=sequence.kind,
            REVERSE=sequence.reverse,
            PACKED=sequence.offsets is not None,
            HAS_DY=dy is not None,
            HAS_DH=dh is not None,
            HAS_DC=dc is not None,
            G=sequence.gates,
            P=tiles.padded(sequence.gates),
            U=plan.lanes,
            ROWS=plan.rows,
            KEPT=plan.kept,
            CHUNK=plan.chunk,
            SHARES=plan.shares,
            SPLITS=plan.splits,
            PRECISION=launch.precision(h0.dtype),
            PERSISTENT=whole,
            RESIDENT=plan.resident,
            TRAPS=not launch.interpreting,
            warps=plan.warps,
            stages=plan.stages,
            cooperative=whole,
            **parts,
            **dropped.flags,
        )
    grads = (dgates, drecurrent) if sequence.kind == "gru" else (dgates,)
    if not of_states:
        return grads, None, None
    dh0 = torch.empty_like(h0)
    run(
        steps_backward.initial_grad,
        (-(-hidden // 64), -(-batch // 16)),
        dh0,
        partial,
        carry,
        kept,
        dropped.mask,
        h0 if sequence.offsets is None else sequence.entered(h0.device),
        0 if not sequence.reverse else sequence.steps - 1,
        dropped.scale,
        batch,
        hidden,
        dropped.mask_stride,
        PACKED=sequence.offsets is not None,
        CELL=sequence.kind,
        LISTED=dropped.flags["LISTED"],
        MASKED=dropped.flags["MASKED"],
        SPLITS=plan.splits,
        U=64,
        ROWS=16,
    )
    return grads, dh0, carry.to(h0.dtype) if sequence.kind == "lstm" else None


def weight_grad(
    layer: Layer,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    dgates: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """WG: see ``ops.recurrence.weight_grad``."""
    sequence = Sequence.of(layer, y, h0)
    of_input, of_hidden = dgates[0], dgates[-1]
    entering = drop(
        y.reshape(sequence.rows, -1),
        recurrent_keep,
        sequence.batch,
        sequence.offsets,
        mask=recurrent_mask,
        initial=h0.contiguous(),
        reverse=sequence.reverse,
    )
    flat = drop(x.reshape(sequence.rows, -1), input_keep, sequence.batch, sequence.offsets)
    db_ih = of_input.sum(0)
    db_hh = db_ih.clone() if of_hidden is of_input else of_hidden.sum(0)
    return of_input.mT @ flat, of_hidden.mT @ entering, db_ih, db_hh
