"""The recurrence on a GPU: see ``ops.recurrence`` for the functions and their arguments.

The input's products over all steps are one dense product on the dropped input, and so are the weights'
gradients: tensor cores gain nothing where single columns are skipped. What the steps wait for, the product
with the hidden state, reads the kept units' weights alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.ops.triton import launch, steps_backward, steps_forward
from strop.ops.triton.columns import drop, kept_map, pack
from strop.ops.triton.launch import Tiles, run
from strop.ops.triton.products import forward_rows, input_grad_rows

persistent: bool | None = None
"""Whether one cooperative launch runs a whole sequence; None: wherever that is possible."""


class _Sequence(NamedTuple):
    """A layer's cell, and where the rows of its steps lie."""

    kind: str
    gates: int
    reverse: bool
    steps: int
    batch: int
    rows: int
    hidden: int
    offsets: Tensor | None
    sizes: Tensor | None

    @classmethod
    def of(cls, layer: Layer, x: Tensor, h0: Tensor) -> _Sequence:
        """Of the input or the output ``x``."""
        cell = layer.cell
        batch, hidden = h0.shape
        sizes = layer.batch_sizes
        rows = x.shape[0] if sizes is not None else x.shape[0] * batch
        steps = x.shape[0] if sizes is None else sizes.shape[0]
        offsets = None
        if sizes is not None:
            offsets = torch.zeros(steps + 1, dtype=torch.int32)
            torch.cumsum(sizes, 0, out=offsets[1:])
            offsets = offsets.to(x.device)
        return cls(cell.name.lower(), cell.gates, layer.reverse, steps, batch, rows, hidden, offsets, sizes)

    def like(self, width: int) -> tuple[int, ...]:
        """The shape of ``[T, B, width]``, or packed ``[N, width]``."""
        return (self.rows, width) if self.sizes is not None else (self.steps, self.batch, width)

    def last_rows(self, y: Tensor) -> Tensor:
        """The last h in time of each row of the batch: ``[B, H]``."""
        flat = y.view(self.rows, self.hidden)
        if self.reverse or self.sizes is None:
            first = 0 if self.reverse else self.rows - self.batch
            return flat[first : first + self.batch].clone()
        lengths = self._lengths()
        begin = torch.cumsum(self.sizes, 0) - self.sizes
        return flat[(begin[lengths - 1] + torch.arange(self.batch)).to(y.device)]

    def _lengths(self) -> Tensor:
        """Steps of each row, on the CPU."""
        assert self.sizes is not None
        return (self.sizes.unsqueeze(0) > torch.arange(self.batch).unsqueeze(1)).sum(1)

    def entered(self, device: torch.device) -> Tensor:
        """int32 ``[B]``: the step that each row enters with its initial state."""
        if not self.reverse or self.sizes is None:
            first = self.steps - 1 if self.reverse else 0
            return torch.full((self.batch,), first, dtype=torch.int32, device=device)
        return (self._lengths() - 1).to(torch.int32).to(device)

    def tiles(self, width: int, like: Tensor) -> Tiles:
        return launch.tiles(self.gates, self.hidden, self.batch, width, like.dtype, like.device)

    def tiles_of_gates(self, tiles: Tiles) -> int:
        """Panels of units times tiles of rows."""
        return -(-self.hidden // tiles.lanes) * -(-self.batch // tiles.rows)


class _Drop(NamedTuple):
    """The recurrent drop as the kernels take it; a tensor that is not there is any other."""

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    mask: Tensor
    scale: float
    width: int
    mask_stride: int
    flags: dict[str, bool]

    @classmethod
    def of(cls, keep: Keep | None, mask: Tensor | None, h0: Tensor) -> _Drop:
        if keep is not None and mask is not None:
            raise ValueError("only one of recurrent_keep and recurrent_mask can be given")
        index = count = multiplier = h0
        scale, width, stride = 1.0, h0.shape[1], 0
        if keep is not None:
            index, scale, width = keep.index.contiguous(), float(keep.scale), keep.index.shape[1]
            count = index if keep.count is None else keep.count.contiguous()
        if mask is not None:
            multiplier = mask.expand(-1, *h0.shape).contiguous()
            stride = h0.numel() if mask.shape[0] > 1 else 0
        flags = {
            "LISTED": keep is not None,
            "COUNTED": keep is not None and keep.count is not None,
            "MASKED": mask is not None,
        }
        return cls(index, count, multiplier, scale, width, stride, flags)


def _is_persistent() -> bool:
    return not launch.interpreting if persistent is None else persistent


def _programs(tiles: int, device: torch.device, whole: bool) -> int:
    """One for each tile; in a launch that runs all steps no more than one a processor, which run at once."""
    return min(tiles, launch.processors(device)) if whole else tiles


def saved_like(layer: Layer, x: Tensor, hidden_size: int) -> tuple[Tensor, ...]:
    """Empty tensors like those that ``forward`` saves for x."""
    gates, lanes = layer.cell.gates, launch.LANES
    weights = x.new_empty(hidden_size, -(-hidden_size // lanes), gates, lanes)
    if gates == 1:
        return (weights,)
    rows = x.shape[:-1].numel()
    batch = x.shape[1] if layer.batch_sizes is None else int(layer.batch_sizes[0])
    cells = rows + batch if layer.cell.has_c else rows
    of_rows = x.new_empty(rows, gates * hidden_size)
    return weights, of_rows, x.new_empty(cells, hidden_size, dtype=torch.float32)


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
    of an LSTM all cell states, float32 ``[N + B, H]``, of a GRU what the hidden state adds to gate n, ``[N,
    H]``.
    """
    sequence = _Sequence.of(layer, x, h0)
    dropped = _Drop.of(recurrent_keep, recurrent_mask, h0)
    tiles = sequence.tiles(dropped.width, x)
    hidden, rows, batch = sequence.hidden, sequence.rows, sequence.batch
    bias, bias_n = _biases(sequence, b_ih, b_hh)
    gates = forward_rows(x.reshape(rows, -1), w_ih, bias, input_keep, batch, sequence.offsets)
    weights = pack(w_hh, sequence.gates, tiles.lanes)
    first, initial = (0, rows) if sequence.reverse else (batch, 0)
    states = h0.new_empty(rows + batch, hidden)
    states[initial : initial + batch] = h0
    cells = h0
    if sequence.kind == "lstm":
        assert c0 is not None
        cells = h0.new_empty(rows + batch, hidden, dtype=torch.float32)
        cells[initial : initial + batch] = c0
    elif sequence.kind == "gru":
        cells = h0.new_empty(rows, hidden, dtype=torch.float32)
    whole = _is_persistent()
    programs = sequence.tiles_of_gates(tiles)
    for begin, end in [(0, sequence.steps)] if whole else [(n, n + 1) for n in range(sequence.steps)]:
        run(
            steps_forward.forward,
            (_programs(programs, x.device, whole),),
            gates,
            states,
            cells,
            weights,
            h0 if bias_n is None else bias_n,
            dropped.index,
            dropped.count,
            dropped.mask,
            h0 if sequence.offsets is None else sequence.offsets,
            torch.zeros(1, dtype=torch.int32, device=x.device) if whole else h0,
            dropped.scale,
            sequence.steps,
            batch,
            rows,
            hidden,
            dropped.width,
            dropped.mask_stride,
            programs,
            begin,
            end,
            CELL=sequence.kind,
            REVERSE=sequence.reverse,
            PACKED=sequence.offsets is not None,
            BIASED=bias_n is not None,
            G=sequence.gates,
            U=tiles.lanes,
            ROWS=tiles.rows,
            CHUNK=tiles.chunk,
            PRECISION=launch.precision(x.dtype),
            PERSISTENT=whole,
            warps=tiles.warps,
            cooperative=whole,
            **dropped.flags,
        )
    # On the states' memory, but no view of them: a result must not be one.
    where = (states.untyped_storage(), first * hidden, sequence.like(hidden))
    y = h0.new_empty(0).set_(*where)  # pyright: ignore[reportCallIssue, reportArgumentType]
    if sequence.kind != "lstm":
        saved = (weights, gates, cells) if sequence.kind == "gru" else (weights,)
        return y, sequence.last_rows(y), None, saved
    c = sequence.last_rows(cells[first : first + rows]).to(h0.dtype)
    return y, sequence.last_rows(y), c, (weights, gates, cells)


def _biases(
    sequence: _Sequence, b_ih: Tensor | None, b_hh: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What is added with the input, and a GRU's recurrent bias of gate n, which the reset gate scales."""
    if b_hh is None:
        return b_ih, None
    if sequence.kind != "gru":
        return (b_hh if b_ih is None else b_ih + b_hh), None
    hidden = sequence.hidden
    bias = torch.zeros_like(b_hh) if b_ih is None else b_ih.clone()
    bias[: 2 * hidden] += b_hh[: 2 * hidden]
    return bias, b_hh[2 * hidden :].contiguous()


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
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor, Tensor | None]:
    """BP through time: see ``ops.recurrence.backward``.

    Gradients of the gates are ``[N, G * H]``; of a GRU there are two, the second of what the hidden state
    adds.
    """
    sequence = _Sequence.of(layer, y, h0)
    dropped = _Drop.of(recurrent_keep, recurrent_mask, h0)
    tiles = sequence.tiles(dropped.width, x)
    hidden, rows, batch = sequence.hidden, sequence.rows, sequence.batch
    weights, gates, cells = saved if len(saved) == 3 else (saved[0], h0, h0)
    kept = h0 if recurrent_keep is None else kept_map(recurrent_keep, hidden)
    dgates = h0.new_empty(rows, sequence.gates * hidden)
    drecurrent = torch.empty_like(dgates) if sequence.kind == "gru" else dgates
    panel_grads = h0.new_empty(batch, *weights.shape[1:])
    partial = h0.new_empty(tiles.splits, batch, hidden, dtype=torch.float32)
    carry = h0.new_empty(batch, hidden, dtype=torch.float32)
    whole = _is_persistent()
    gate_tiles = sequence.tiles_of_gates(tiles)
    product_tiles = -(-dropped.width // tiles.kept) * tiles.splits * -(-batch // tiles.rows)
    both = {"GATES": True, "PRODUCT": True}
    halves = [(gate_tiles, both | {"PRODUCT": False}), (product_tiles, both | {"GATES": False})]
    if whole:
        launches = [(0, sequence.steps, max(gate_tiles, product_tiles), both)]
    else:
        launches = [(n, n + 1, *half) for n in range(sequence.steps) for half in halves]
    for begin, end, programs, parts in launches:
        run(
            steps_backward.backward,
            (_programs(programs, x.device, whole),),
            h0 if dy is None else dy.contiguous(),
            h0 if dh is None else dh.contiguous(),
            h0 if dc is None else dc.contiguous(),
            gates,
            cells,
            y,
            h0,
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
            torch.zeros(1, dtype=torch.int32, device=x.device) if whole else h0,
            dropped.scale,
            sequence.steps,
            batch,
            rows,
            hidden,
            dropped.width,
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
            U=tiles.lanes,
            ROWS=tiles.rows,
            KEPT=tiles.kept,
            CHUNK=tiles.chunk,
            SPLITS=tiles.splits,
            PRECISION=launch.precision(x.dtype),
            PERSISTENT=whole,
            warps=tiles.warps,
            cooperative=whole,
            **parts,
            **dropped.flags,
        )
    dh0 = torch.empty_like(h0)
    run(
        steps_backward.initial_grad,
        (-(-hidden // 64), -(-batch // 16)),
        dh0,
        partial,
        carry,
        kept,
        dropped.mask,
        sequence.entered(x.device),
        dropped.scale,
        batch,
        hidden,
        dropped.mask_stride,
        CELL=sequence.kind,
        LISTED=dropped.flags["LISTED"],
        MASKED=dropped.flags["MASKED"],
        SPLITS=tiles.splits,
        U=64,
        ROWS=16,
    )
    dx = None
    if need_dx:
        dx = input_grad_rows(dgates, w_ih, input_keep, batch, sequence.offsets).view(x.shape)
    grads = (dgates, drecurrent) if sequence.kind == "gru" else (dgates,)
    return grads, dx, dh0, carry.to(h0.dtype) if sequence.kind == "lstm" else None


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
    sequence = _Sequence.of(layer, y, h0)
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
    db_hh = db_ih if of_hidden is of_input else of_hidden.sum(0)
    return of_input.mT @ flat, of_hidden.mT @ entering, db_ih, db_hh
