"""The native CPU kernels of the products: ``csrc/``, bound through torch's stable ABI. float32 on the CPU.

The functions are those of ``products``, and so are their arguments. All memory that they return is
allocated here; the kernels only fill it in.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from strop.ops import memory
from strop.ops.products import Keep

_PANEL = 64  # classes whose exponentials are kept together

_NO_LISTS = (None, None, 1.0)


def _find() -> Path | None:
    given = os.environ.get("STROP_NATIVE_LIBRARY")
    if given is not None:
        return Path(given)
    # Beside the package, which is elsewhere than this file in an editable installation.
    spec = find_spec(f"{__name__.partition('.')[0]}._native")
    return None if spec is None or spec.origin is None else Path(spec.origin)


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


has_bf16: bool = missing is None and torch.ops.strop.has_bf16()
"""Whether the CPU multiplies bfloat16."""


def rounds(bf16: bool) -> bool:
    """Whether operands that may be rounded to bfloat16 are: where that is faster."""
    return bf16 and has_bf16


def describe() -> str:
    """One line on whether the kernels are there and which instruction set they use."""
    return f"native kernels: {isa()}" if missing is None else f"native kernels are missing: {missing}"


def fma_peak(iterations: int = 20_000_000) -> float:
    """GFLOP/s of fused multiply-adds in registers, on all threads: what no product can exceed."""
    return torch.ops.strop.fma_peak(iterations)


def lists(keep: Keep | None) -> tuple[Tensor | None, Tensor | None, float]:
    """Index lists, counts and scale as the kernels take them."""
    if keep is None:
        return _NO_LISTS
    count = None if keep.count is None else keep.count.contiguous()
    return keep.index.contiguous(), count, float(keep.scale)


def empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for a result; only a shape while torch traces."""
    return memory.empty(shape, like.dtype) if type(like) is Tensor else like.new_empty(shape)


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The same, None if there is none."""
    return None if tensor is None else tensor.contiguous()


def smallest(keys: Tensor, kept: int) -> Tensor:
    """The chosen units of a mask: see ``selection.smallest``."""
    chosen = torch.empty(keys.shape[0], kept, dtype=torch.int32, device="cpu")
    torch.ops.strop.smallest(keys.contiguous(), chosen)
    return chosen


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep | None, bf16: bool = False) -> Tensor:
    """FP: see ``products.forward``."""
    y = empty(x, *x.shape[:2], weight.shape[0])
    x, weight, bias = x.contiguous(), weight.contiguous(), contiguous(bias)
    torch.ops.strop.linear_forward(x, weight, bias, *lists(keep), rounds(bf16), y)
    return y


def input_grad(dy: Tensor, weight: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """BP: see ``products.input_grad``."""
    dx = empty(dy, *dy.shape[:2], weight.shape[1])
    dy, weight = dy.contiguous(), weight.contiguous()
    torch.ops.strop.linear_input_grad(dy, weight, *lists(keep), rounds(bf16), dx)
    return dx


def weight_grad(x: Tensor, dy: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """WG: see ``products.weight_grad``."""
    dw = empty(x, dy.shape[2], x.shape[2])
    x, dy = x.contiguous(), dy.contiguous()
    torch.ops.strop.linear_weight_grad(x, dy, *lists(keep), rounds(bf16), dw)
    return dw


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    smoothing: float,
    keep: Keep | None,
    save: bool,
    bf16: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """FP, and the cross entropy of every row: ``[T, B]``.

    Args:
        target: int32 ``[T, B]``, below 0 where a row does not count.
        smoothing: the share of a target that all classes have in common.
        save: whether there will be a backward pass.
        bf16: as in ``products``.

    Returns:
        The losses and, if ``save``, what ``linear_cross_entropy_grad`` needs: the exponentials of the logits
        in panels of 64 classes ``[ceil(N / 64), T, B, 64]``, each relative to the largest of its row in the
        panel, and the factors ``[ceil(N / 64), T, B]`` that make probabilities of them.
    """
    steps, batch = x.shape[:2]
    panels = -(-weight.shape[0] // _PANEL)
    loss = empty(x, steps, batch)
    saved = (empty(x, panels, steps, batch, _PANEL), empty(x, panels, steps, batch)) if save else ()
    torch.ops.strop.linear_cross_entropy(
        x.contiguous(),
        weight.contiguous(),
        contiguous(bias),
        target.contiguous(),
        smoothing,
        *lists(keep),
        rounds(bf16),
        loss,
        *(saved or (None, None)),
    )
    return loss, saved


def linear_cross_entropy_grad(
    dloss: Tensor,
    saved: tuple[Tensor, ...],
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    smoothing: float,
    keep: Keep | None,
    need: tuple[bool, bool, bool],
    bf16: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """BP and WG from the gradient of every row's loss ``[T, B]``.

    Returns:
        Gradients of x, of the weight and of the bias, as far as in ``need``.
    """
    need_x, need_weight, need_bias = need
    dx = empty(x, *x.shape) if need_x else None
    dw = empty(weight, *weight.shape) if need_weight or need_bias else None
    db = empty(weight, weight.shape[0]) if need_bias else None
    torch.ops.strop.linear_cross_entropy_grad(
        dloss.contiguous(),
        *saved,
        x.contiguous(),
        weight.contiguous(),
        target.contiguous(),
        smoothing,
        *lists(keep),
        rounds(bf16),
        dx,
        dw,
        db,
    )
    return dx, dw if need_weight else None, db
