"""What the Triton kernels must compute: plain autograd, a row and a step at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from strop.ops.cells import GRU, LSTM, RNN_TANH, Cell
from strop.ops.products import Keep
from strop.ops.recurrence import Layer


class Case(NamedTuple):
    """A layer, its sizes, and what is dropped of its input and of its hidden state."""

    cell: Cell
    shape: tuple[int, int, int, int]  # T, B, I, H
    on_input: str = "half"
    on_hidden: str = "half"
    reverse: bool = False
    lengths: tuple[int, ...] | None = None
    bias: bool = True
    given: tuple[str, ...] = ("dy", "dh", "dc")

    def __str__(self) -> str:
        words = [self.cell.name, "x".join(map(str, self.shape)), self.on_input, self.on_hidden]
        words += ["reverse"] * self.reverse + ["packed"] * (self.lengths is not None)
        words += ["no bias"] * (not self.bias)
        return " ".join(words) + ("" if len(self.given) == 3 else f" {'+'.join(self.given)}")


def make_keep(kind: str, steps: int, units: int, generator: torch.Generator) -> Keep | None:
    """Index lists by hand, written without the drawing code."""
    sizes = {
        "none": [0] * steps,
        "all": [units] * steps,
        "half": [(units + 1) // 2] * steps,
        "ragged": [(3 * t + 2) % (units + 1) for t in range(steps)],
    }.get(kind)
    if sizes is None:
        return None
    width = max(sizes)
    rows = [torch.randperm(units, generator=generator)[:size].sort().values.tolist() for size in sizes]
    index = torch.tensor([row + [units] * (width - len(row)) for row in rows], dtype=torch.int32)
    count = torch.tensor(sizes, dtype=torch.int32) if kind == "ragged" else None
    return Keep(index.view(steps, width), count, 1.75)


def dense(keep: Keep | None, mask: Tensor | None, steps: int, batch: int, units: int) -> Tensor:
    """The multiplier ``[T, B, K]`` that a drop stands for."""
    if mask is not None:
        return mask.expand(steps, batch, units)
    full = torch.full((steps, batch, units), 1.0 if keep is None else 0.0, dtype=torch.float64)
    if keep is not None:
        for t, row in enumerate(keep.index.tolist()):
            full[t, :, row[: None if keep.count is None else int(keep.count[t])]] = keep.scale
    return full


class Problem:
    """A case's operands and upstream gradients in float64; sequences packed where it has lengths."""

    def __init__(self, case: Case) -> None:
        steps, batch, features, hidden = case.shape
        self.case = case
        generator = torch.Generator().manual_seed(3)

        def normal(*size: int) -> Tensor:
            # Exact in float16, so that every dtype starts from the same numbers.
            return torch.randn(*size, generator=generator).half().double()

        lengths = case.lengths or (steps,) * batch
        sizes = [sum(length > t for length in lengths) for t in range(steps)]
        self.rows = torch.tensor([[t, b] for t in range(steps) for b in range(sizes[t])])
        gates = case.cell.gates * hidden
        self.sizes = torch.tensor(sizes) if case.lengths else None
        self.input_keep = make_keep(case.on_input, steps, features, generator)
        self.recurrent_keep = make_keep(case.on_hidden, steps, hidden, generator)
        self.mask = None
        if case.on_hidden in ("rows", "one row"):
            draws = 1 if case.on_hidden == "one row" else steps
            self.mask = (torch.rand(draws, batch, hidden, generator=generator) < 0.5).double() * 2
        self.x = normal(len(self.rows), features)
        self.h0, self.c0 = normal(batch, hidden), normal(batch, hidden)
        self.w_ih, self.w_hh = normal(gates, features) / 2, normal(gates, hidden) / 4
        self.b_ih, self.b_hh = (normal(gates), normal(gates)) if case.bias else (None, None)
        self.dy = normal(len(self.rows), hidden) if "dy" in case.given else None
        self.dh = normal(batch, hidden) if "dh" in case.given else None
        self.dc = normal(batch, hidden) if "dc" in case.given and case.cell is LSTM else None

    def oracle(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Outputs and all gradients, one row and one step at a time."""
        case, (steps, batch, features, hidden) = self.case, self.case.shape
        names = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")
        v = {n: getattr(self, n).to(dtype).requires_grad_() for n in names if getattr(self, n) is not None}
        on_input = dense(self.input_keep, None, steps, batch, features).to(dtype)
        on_hidden = dense(self.recurrent_keep, self.mask, steps, batch, hidden).to(dtype)
        place = {(int(t), int(b)): i for i, (t, b) in enumerate(self.rows)}
        zero = torch.zeros(case.cell.gates * hidden, dtype=dtype)
        b_ih, b_hh = v.get("b_ih", zero), v.get("b_hh", zero)
        ys: dict[int, Tensor] = {}
        hs, cs = [], []
        for b in range(batch):
            h, c = v["h0"][b], v["c0"][b]
            own = [t for t in range(steps) if (t, b) in place]
            for t in reversed(own) if case.reverse else own:
                i = place[t, b]
                of_x = v["w_ih"] @ (v["x"][i] * on_input[t, b]) + b_ih
                of_h = v["w_hh"] @ (h * on_hidden[t, b]) + b_hh
                if case.cell is LSTM:
                    gi, gf, gg, go = (of_x + of_h).chunk(4)
                    c = gf.sigmoid() * c + gi.sigmoid() * gg.tanh()
                    h = go.sigmoid() * c.tanh()
                elif case.cell is GRU:
                    (xr, xz, xn), (hr, hz, hn) = of_x.chunk(3), of_h.chunk(3)
                    z = (xz + hz).sigmoid()
                    h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
                else:
                    h = (of_x + of_h).tanh() if case.cell is RNN_TANH else (of_x + of_h).relu()
                ys[i] = h
            hs.append(h)
            cs.append(c)
        y, h, c = torch.stack([ys[i] for i in range(len(ys))]), torch.stack(hs), torch.stack(cs)
        upstream = [(y, self.dy), (h, self.dh), (c, self.dc)]
        used = [(out, grad.to(dtype)) for out, grad in upstream if grad is not None]
        wanted = {n: tensor for n, tensor in v.items() if n != "c0" or case.cell is LSTM}
        grads = torch.autograd.grad([o for o, _ in used], list(wanted.values()), [g for _, g in used])
        results = {"y": y, "h": h} | ({"c": c} if case.cell is LSTM else {})
        results |= {f"d{name}": grad for name, grad in zip(wanted, grads, strict=True)}
        return {name: value.detach() for name, value in results.items()}


def assert_as_accurate(
    actual: dict[str, Tensor], torchs: dict[str, Tensor], truth: dict[str, Tensor]
) -> None:
    """No further from float64 than twice PyTorch's own error in that dtype, and two roundings."""
    assert actual.keys() == truth.keys()
    for name, exact in truth.items():
        dtype = torchs[name].dtype
        assert actual[name].dtype == dtype, name
        assert actual[name].shape == exact.shape, name
        ours, theirs = ((value.double() - exact).abs() for value in (actual[name], torchs[name]))
        floor = 2 * torch.finfo(dtype).eps * max(1.0, exact.abs().max().item())
        error, allowed = ours.max().item(), theirs.max().item()
        assert error <= 2 * allowed + floor, f"{name}: error {error:.3g}, torch's {allowed:.3g}"


def ours(problem: Problem, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """The same by the Triton backend's three functions."""
    from strop.ops.triton import recurrence  # not before it is known where Triton runs

    case, (steps, batch, _, _) = problem.case, problem.case.shape

    def to(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device, dtype)

    def rows(value: Tensor | None) -> Tensor | None:
        value = to(value)
        return value if value is None or case.lengths else value.view(steps, batch, -1)

    def keep(value: Keep | None) -> Keep | None:
        if value is None:
            return None
        return Keep(
            value.index.to(device), None if value.count is None else value.count.to(device), value.scale
        )

    layer = Layer(case.cell, case.reverse, problem.sizes)
    x, h0, c0 = rows(problem.x), to(problem.h0), to(problem.c0) if case.cell is LSTM else None
    weights = (to(problem.w_ih), to(problem.w_hh))
    masks = (keep(problem.input_keep), keep(problem.recurrent_keep), to(problem.mask))
    y, h, c, saved = recurrence.forward(
        layer, x, h0, c0, *weights, to(problem.b_ih), to(problem.b_hh), *masks
    )
    dgates, dx, dh0, dc0 = recurrence.backward(
        layer, rows(problem.dy), to(problem.dh), to(problem.dc), x, y, h0, c0, *weights, saved, *masks, True
    )
    dw_ih, dw_hh, db_ih, db_hh = recurrence.weight_grad(layer, x, y, h0, dgates, *masks)
    assert y.shape == (*x.shape[:-1], h0.shape[1])
    results = {"y": y.flatten(0, -2), "h": h, "c": c, "dx": dx.flatten(0, -2), "dh0": dh0, "dc0": dc0}
    results |= {"dw_ih": dw_ih, "dw_hh": dw_hh}
    results |= {"db_ih": db_ih, "db_hh": db_hh} if case.bias else {}
    return {name: value.cpu() for name, value in results.items() if value is not None}
