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
) -> tuple[Tensor, ...]:
    """One layer in one direction: y ``[T, B, H]``, zero beyond a row's length, and the last states.

    ``lengths`` are the steps that each row has; masks apply to x[t] and to the h that enters step t.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    assert w_hh is not None
    steps, batch, hidden = x.shape[0], x.shape[1], w_hh.shape[1]
    x_keep = torch.ones_like(x) if input_mask is None else input_mask.dense(x.dtype).expand_as(x)
    h_keep = x.new_ones(steps, batch, hidden)
    if recurrent_mask is not None:
        h_keep = recurrent_mask.dense(x.dtype).expand_as(h_keep)
    state, outputs = list(hx), [x] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        a = (x[t] * x_keep[t]) @ w_ih.t()
        b = (state[0] * h_keep[t]) @ w_hh.t()
        a = a if b_ih is None else a + b_ih
        b = b if b_hh is None else b + b_hh
        after = _step(cell, a, b, state)
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


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    layers: Sequence[Sequence[Tensor | None]],
    input_masks: Sequence,
    recurrent_masks: Sequence,
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of LSTM layers ``(w_ih, w_hh, b_ih, b_hh)``: y, and the last h and c of every layer."""
    last_h, last_c = [], []
    for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(layers):
        assert w_ih is not None
        assert w_hh is not None
        input_mask, recurrent_mask = input_masks[layer], recurrent_masks[layer]
        x_keep = torch.ones_like(x) if input_mask is None else input_mask.dense(x.dtype)
        h, c = hx[0][layer], hx[1][layer]
        outputs = []
        for t in range(x.shape[0]):
            h_in = h if recurrent_mask is None else h * recurrent_mask.dense(x.dtype)[t]
            z = (x[t] * x_keep[t]) @ w_ih.t() + h_in @ w_hh.t()
            z = z if b_ih is None else z + b_ih
            z = z if b_hh is None else z + b_hh
            hidden = z.shape[1] // 4
            i, f = torch.sigmoid(z[:, :hidden]), torch.sigmoid(z[:, hidden : 2 * hidden])
            g, o = torch.tanh(z[:, 2 * hidden : 3 * hidden]), torch.sigmoid(z[:, 3 * hidden :])
            c = f * c + i * g
            h = o * torch.tanh(c)
            outputs.append(h)
        x = torch.stack(outputs)
        last_h.append(h)
        last_c.append(c)
    return x, torch.stack(last_h), torch.stack(last_c)


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
