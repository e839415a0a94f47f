"""The native CPU kernels: ``csrc/``, bound through torch's stable ABI. float32 on the CPU.

The functions are those of ``products`` and ``recurrence``, and so are their arguments. All memory that
they return is allocated here; the kernels only fill it in.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from strop.ops import memory
from strop.ops.products import Keep

_PANEL, _GROUP = 64, 16  # columns of a panel of gates, and units that it serves

_NO_LISTS = (None, None, 1.0)


def _find() -> Path | None:
    given = os.environ.get("STROP_NATIVE_LIBRARY")
    if given is not None:
        return Path(given)
    import strop

    found = (Path(folder) / "_native.so" for folder in strop.__path__)
    return next((path for path in found if path.exists()), None)


def _load() -> str | None:
    """Load the library; the reason if that fails."""
    path = _find()
    if path is None:
        return "the package was installed without them (no C++ compiler, or no torch, at build time)"
    try:
        torch.ops.load_library(path)
        torch.ops.strop.isa()
    except (OSError, RuntimeError) as error:
        return f"{path} could not be loaded: {error}"
    return None


missing: str | None = _load()
"""Why the kernels cannot be used here; None if they can."""


def isa() -> str:
    """The instruction set in use: ``avx512``, ``avx2`` or ``portable``."""
    return torch.ops.strop.isa()


def describe() -> str:
    """One line on whether the kernels are there and which instruction set they use."""
    return f"native kernels: {isa()}" if missing is None else f"native kernels are missing: {missing}"


def fma_peak(iterations: int = 20_000_000) -> float:
    """GFLOP/s of fused multiply-adds in registers, on all threads: what no product can exceed."""
    return torch.ops.strop.fma_peak(iterations)


def _lists(keep: Keep | None) -> tuple[Tensor | None, Tensor | None, float]:
    if keep is None:
        return _NO_LISTS
    count = None if keep.count is None else keep.count.contiguous()
    return keep.index.contiguous(), count, float(keep.scale)


def _empty(like: Tensor, *shape: int) -> Tensor:
    return memory.empty(shape, like.dtype)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def smallest(keys: Tensor, kept: int) -> Tensor:
    """The chosen units of a mask: see ``selection.smallest``."""
    chosen = torch.empty(keys.shape[0], kept, dtype=torch.int32, device="cpu")
    torch.ops.strop.smallest(keys.contiguous(), chosen)
    return chosen


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep | None) -> Tensor:
    """FP: see ``products.forward``."""
    y = _empty(x, *x.shape[:2], weight.shape[0])
    x, weight, bias = x.contiguous(), weight.contiguous(), _contiguous(bias)
    torch.ops.strop.linear_forward(x, weight, bias, *_lists(keep), y)
    return y


def input_grad(dy: Tensor, weight: Tensor, keep: Keep | None) -> Tensor:
    """BP: see ``products.input_grad``."""
    dx = _empty(dy, *dy.shape[:2], weight.shape[1])
    torch.ops.strop.linear_input_grad(dy.contiguous(), weight.contiguous(), *_lists(keep), dx)
    return dx


def weight_grad(x: Tensor, dy: Tensor, keep: Keep | None) -> Tensor:
    """WG: see ``products.weight_grad``."""
    dw = _empty(x, dy.shape[2], x.shape[2])
    torch.ops.strop.linear_weight_grad(x.contiguous(), dy.contiguous(), *_lists(keep), dw)
    return dw


def lstm_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """FP over the sequence: see ``recurrence.lstm_forward``.

    What is saved are the gates after their nonlinearities, in panels ``[T, ceil(H / 16), B, 64]`` of the
    four gates of 16 units, and all cell states ``[T, B, H]``.
    """
    steps, batch, hidden = x.shape[0], x.shape[1], h0.shape[1]
    y, cells = _empty(x, steps, batch, hidden), _empty(x, steps, batch, hidden)
    gates = _empty(x, steps, -(-hidden // _GROUP), batch, _PANEL)
    torch.ops.strop.lstm_forward(
        x.contiguous(),
        h0.contiguous(),
        c0.contiguous(),
        w_ih.contiguous(),
        w_hh.contiguous(),
        _contiguous(b_ih),
        _contiguous(b_hh),
        *_lists(input_keep),
        *_lists(recurrent_keep),
        _contiguous(recurrent_mask),
        y,
        gates,
        cells,
    )
    return y, cells[-1].clone(), (gates, cells)


def lstm_backward(
    dy: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    saved: tuple[Tensor, ...],
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
    need_dx: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """BP through time: see ``recurrence.lstm_backward``. The gates' gradients are in panels."""
    gates, cells = saved
    dgates = _empty(x, *gates.shape)
    dx = _empty(x, *x.shape) if need_dx else None
    dh0, dc0 = _empty(x, *h0.shape), _empty(x, *c0.shape)
    torch.ops.strop.lstm_backward(
        _contiguous(dy),
        _contiguous(dh_last),
        _contiguous(dc_last),
        c0.contiguous(),
        w_ih.contiguous(),
        w_hh.contiguous(),
        gates,
        cells,
        *_lists(input_keep),
        *_lists(recurrent_keep),
        _contiguous(recurrent_mask),
        dgates,
        dx,
        dh0,
        dc0,
    )
    return dgates, dx, dh0, dc0


def lstm_weight_grad(
    x: Tensor,
    y: Tensor,
    h0: Tensor,
    dgates: Tensor,
    input_keep: Keep | None,
    recurrent_keep: Keep | None,
    recurrent_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """WG: see ``recurrence.lstm_weight_grad``."""
    rows, hidden = 4 * y.shape[2], y.shape[2]
    dw_ih, dw_hh, db = _empty(x, rows, x.shape[2]), _empty(x, rows, hidden), _empty(x, rows)
    torch.ops.strop.lstm_weight_grad(
        x.contiguous(),
        y.contiguous(),
        h0.contiguous(),
        dgates,
        *_lists(input_keep),
        *_lists(recurrent_keep),
        _contiguous(recurrent_mask),
        dw_ih,
        dw_hh,
        db,
    )
    return dw_ih, dw_hh, db


def lstm_eval(
    x: Tensor, h0: Tensor, c0: Tensor, weights: list[Tensor], has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of layers with nothing dropped and nothing saved for a backward pass.

    Args:
        x: ``[T, B, I]``.
        h0, c0: ``[layers, B, H]`` each.
        weights: of each layer in turn w_ih, w_hh and, if ``has_bias``, b_ih, b_hh.

    Returns:
        The last layer's h of every step ``[T, B, H]``, and the last h and c of every layer.
    """
    y, h, c = _empty(x, *x.shape[:2], h0.shape[2]), _empty(x, *h0.shape), _empty(x, *c0.shape)
    x, h0, c0 = x.contiguous(), h0.contiguous(), c0.contiguous()
    torch.ops.strop.lstm_eval(x, h0, c0, [weight.contiguous() for weight in weights], has_bias, y, h, c)
    return y, h, c
