"""The three products on a GPU: see ``ops.products`` for the functions and their arguments.

By default a dense product (cuBLAS) on operands whose dropped columns are zero; on kept columns alone where
that is predicted to be faster (``gathered.pays``). The functions on rows take a whole sequence ``[N, K]``, of
``batch`` rows a step or packed with ``offsets``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strop.ops.products import Keep
from strop.ops.triton import gathered
from strop.ops.triton.columns import drop


def forward_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keep: Keep | None,
    batch: int,
    offsets: Tensor | None = None,
) -> Tensor:
    """FP on rows."""
    if keep is not None and gathered.pays(x, batch, x.shape[1], keep):
        return gathered.forward(x, weight, bias, keep, batch, offsets)
    return torch.nn.functional.linear(drop(x, keep, batch, offsets), weight, bias)


def input_grad_rows(
    dy: Tensor, weight: Tensor, keep: Keep | None, batch: int, offsets: Tensor | None = None
) -> Tensor:
    """BP on rows."""
    if keep is not None and gathered.pays(dy, batch, weight.shape[1], keep):
        return gathered.input_grad(dy, weight, keep, batch, offsets)
    dx = dy @ weight
    return drop(dx, keep, batch, offsets, out=dx)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, keep: Keep | None, bf16: bool = False) -> Tensor:
    """FP: see ``products.forward``."""
    return forward_rows(x.flatten(0, 1), weight, bias, keep, x.shape[1]).unflatten(0, x.shape[:2])


def input_grad(dy: Tensor, weight: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """BP: see ``products.input_grad``."""
    return input_grad_rows(dy.flatten(0, 1), weight, keep, dy.shape[1]).unflatten(0, dy.shape[:2])


def weight_grad(x: Tensor, dy: Tensor, keep: Keep | None, bf16: bool = False) -> Tensor:
    """WG: see ``products.weight_grad``. Dense always: every column is kept at some step."""
    return dy.flatten(0, 1).mT @ drop(x.flatten(0, 1), keep, x.shape[1])
