"""What the library must compute, written independently of it: plain autograd on dense masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask) -> Tensor:
    """A linear layer on a dropped input."""
    if mask is not None:
        x = x * mask.dense(x.dtype)
    y = torch.einsum("tbk,nk->tbn", x, weight)
    return y if bias is None else y + bias


def one_by_one(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices as a plain loop sums it, on a CPU that rounds before it adds."""
    total = a[:, :1] * b[:1]
    for k in range(1, len(b)):
        total = total + a[:, k : k + 1] * b[k]
    return total


def layer(
    cell: str,
    x: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    input_mask,
    recurrent_mask,
    *,
    reverse: bool = False,
    lengths: Sequence[int] | None = None,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> tuple[Tensor, ...]:
    """One layer in one direction: y ``[T, B, H]``, zero beyond a row's length, and the last states.

    ``lengths`` are the steps that each row has; masks apply to x[t] and to the h that enters step t.
    ``weights`` are w_ih, w_hh, b_ih, b_hh and, of an LSTM with projections, w_hr.
    """
    w_ih, w_hh, b_ih, b_hh, *projection = weights
    assert w_ih is not None
    assert w_hh is not None
    steps, batch, hidden = x.shape[0], x.shape[1], w_hh.shape[1]
    x_keep = torch.ones_like(x) if input_mask is None else input_mask.dense(x.dtype).expand_as(x)
    h_keep = x.new_ones(steps, batch, hidden)
    if recurrent_mask is not None:
        h_keep = recurrent_mask.dense(x.dtype).expand_as(h_keep)
    state, outputs = list(hx), [x] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        a = product(x[t] * x_keep[t], w_ih.t())
        b = product(state[0] * h_keep[t], w_hh.t())
        a = a if b_ih is None else a + b_ih
        b = b if b_hh is None else b + b_hh
        after = _step(cell, a, b, state)
        if projection and projection[0] is not None:
            after[0] = product(after[0], projection[0].t())
        here = torch.tensor([steps] * batch if lengths is None else lengths).unsqueeze(1) > t
        state = [torch.where(here, new, old) for new, old in zip(after, state, strict=True)]
        outputs[t] = state[0] * here
    return torch.stack(outputs), *state


def _step(cell: str, a: Tensor, b: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """torch's formulas, from both products with their biases."""
    if cell == "LSTM":
        i, f, g, o = (a + b).chunk(4, 1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    if cell == "GRU":
        (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
        z = torch.sigmoid(az + bz)
        n = torch.tanh(an + torch.sigmoid(ar + br) * bn)
        return [(1 - z) * n + z * state[0]]
    return [torch.tanh(a + b) if cell == "RNN_TANH" else torch.relu(a + b)]


def stack(
    cell: str,
    x: Tensor,
    hx: Sequence[Tensor],
    layers: Sequence[Sequence[Tensor | None]],
    input_masks: Sequence,
    recurrent_masks: Sequence,
    *,
    bidirectional: bool = False,
    lengths: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """A stack of layers, with weights, masks and states of each direction of each layer in turn.

    Returns:
        y ``[T, B, directions * H]``, and the last states, ``[layers * directions, B, H]`` each.
    """
    directions, lasts = 2 if bidirectional else 1, []
    for first in range(0, len(layers), directions):
        ys = []
        for number in range(first, first + directions):
            own, masks = [state[number] for state in hx], (input_masks[number], recurrent_masks[number])
            y, *last = layer(cell, x, own, layers[number], *masks, reverse=number > first, lengths=lengths)
            ys.append(y)
            lasts.append(last)
        x = torch.cat(ys, 2)
    return x, *(torch.stack(each) for each in zip(*lasts, strict=True))


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    layers: Sequence[Sequence[Tensor | None]],
    input_masks: Sequence,
    recurrent_masks: Sequence,
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of LSTM layers ``(w_ih, w_hh, b_ih, b_hh)``: y, and the last h and c of every layer."""
    y, h, c = stack("LSTM", x, hx, layers, input_masks, recurrent_masks)
    return y, h, c


def assert_exact(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Float64 to 1e-10."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == torch.float64
        torch.testing.assert_close(
            actual[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_as_accurate(
    actual: dict[str, Tensor], float32: Sequence[dict[str, Tensor]], float64: dict[str, Tensor]
) -> None:
    """No further from float64 than twice PyTorch's own float32 is, in norm and in the largest error.

    PyTorch's error is the largest of several ways to write the same in PyTorch: for tensors this small
    the order of a sum alone changes it by factors. The floor is two roundings at the scale of the
    operands (about 1 in these tests), for the whole tensor however large. Without it tensors of a
    handful of elements fail by chance: there PyTorch's error can be nothing at all, and twice nothing
    is nothing.
    """
    eps = torch.finfo(torch.float32).eps
    for name, truth in float64.items():
        assert actual[name].dtype == torch.float32, name
        assert actual[name].shape == truth.shape, name
        ours = actual[name].double() - truth
        torchs = [results[name].double() - truth for results in float32]
        floor = 2 * eps * max(1.0, truth.abs().max().item())
        for kind, order in (("norm", 2), ("largest", float("inf"))):
            error = torch.linalg.vector_norm(ours, order).item()
            allowed = max(torch.linalg.vector_norm(theirs, order).item() for theirs in torchs)
            assert error <= 2 * allowed + floor, f"{name}: {kind} error {error:.3g}, torch's {allowed:.3g}"
    assert actual.keys() == float64.keys()


def check(
    backend,
    actual: dict[str, Tensor],
    compute: Callable[[torch.dtype], dict[str, Tensor]],
    *others: Callable[[torch.dtype], dict[str, Tensor]],
) -> None:
    """Compare with ``compute(dtype)``, the oracle's results, as tightly as the backend's dtype allows.

    ``others`` are further ways to write it in PyTorch, for ``assert_as_accurate``.
    """
    if backend.dtype == torch.float64:
        assert_exact(actual, compute(torch.float64))
    else:
        float32 = [each(torch.float32) for each in (compute, *others)]
        assert_as_accurate(actual, float32, compute(torch.float64))
