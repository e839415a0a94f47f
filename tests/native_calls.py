"""Well-formed calls of every native op, and what they must give, for tests that then spoil the calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strop.ops import products, recurrence
from strop.ops.products import Keep

PANEL, GROUP = 64, 16
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A call of ``torch.ops.strop.<op>``; ``units`` are the outputs of a product, or hidden units.

    ``lists`` and ``recurrent`` say how the columns of either operand are dropped: see ``keep_lists``.
    """

    op: str
    steps: int
    batch: int
    inputs: int
    units: int
    lists: str = "none"
    recurrent: str = "none"
    optional: bool = True
    layers: int = 1
    seed: int = 0


def schema(op: str) -> torch.FunctionSchema:
    """The op's signature, as registered."""
    return getattr(torch.ops.strop, op).default._schema


def results_of(op: str) -> list[str]:
    """Names of the arguments that the op writes."""
    return [a.name for a in schema(op).arguments if a.alias_info is not None and a.alias_info.is_write]


def keep_lists(
    kind: str, steps: int, columns: int, generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None, float]:
    """Index lists, counts and scale: ``none`` dropped, ``all``, ``half``, ``one`` or ``nothing``
    kept, ``ragged``.
    """
    if kind == "none":
        return None, None, 1.0
    width = {"all": columns, "half": (columns + 1) // 2, "one": 1, "nothing": 0, "ragged": columns}[kind]
    rows = torch.rand(steps, columns, generator=generator).argsort(1)[:, :width].sort(1).values
    if kind != "ragged":
        return rows.int().contiguous(), None, 1.75
    count = torch.randint(0, columns + 1, (steps,), generator=generator)
    rows = torch.stack([row[torch.randperm(columns, generator=generator)] for row in rows])
    used = torch.arange(columns) < count.unsqueeze(1)
    rows = rows.masked_fill(~used, columns).sort(1).values
    return rows.int().contiguous(), count.int(), 1.75


def to_panels(gates: Tensor) -> Tensor:
    """``[T, B, 4H]`` in the native layout ``[T, ceil(H / 16), B, 64]``, zero where there is no unit."""
    steps, batch, rows = gates.shape
    hidden, panels = rows // 4, -(-rows // 4 // GROUP)
    padded = gates.new_zeros(steps, batch, 4, panels * GROUP)
    padded[..., :hidden] = gates.view(steps, batch, 4, hidden)
    return (
        padded.view(steps, batch, 4, panels, GROUP)
        .permute(0, 3, 1, 2, 4)
        .reshape(steps, panels, batch, PANEL)
    )


def from_panels(gates: Tensor, hidden: int) -> Tensor:
    """The inverse of ``to_panels``."""
    steps, panels, batch, _ = gates.shape
    apart = gates.view(steps, panels, batch, 4, GROUP).permute(0, 2, 3, 1, 4)
    return apart.reshape(steps, batch, 4, panels * GROUP)[..., :hidden].reshape(steps, batch, 4 * hidden)


def well_formed(call: Call) -> Arguments:
    """Arguments by name, in the schema's order; results are NaN."""
    generator = torch.Generator().manual_seed(call.seed)
    T, B, N, H = call.steps, call.batch, call.inputs, call.units

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def optional(*size: int) -> Tensor | None:
        return normal(*size) if call.optional else None

    def weight(rows: int, columns: int) -> Tensor:
        return normal(rows, columns) / columns**0.5

    if call.op == "smallest":
        # Few different keys for some calls, so that many are equal.
        keys = torch.randint(-(2**31), 2**31, (T, N), generator=generator) // (2**30 if call.optional else 1)
        return {"keys": keys.int(), "chosen": torch.full((T, min(N, H)), -7, dtype=torch.int32)}
    index, count, scale = keep_lists(call.lists, T, N, generator)
    arguments: Arguments = {"index": index, "count": count, "scale": scale}
    if call.op.startswith("linear"):
        arguments |= {
            "x": normal(T, B, N),
            "weight": weight(H, N),
            "bias": optional(H),
            "dy": normal(T, B, H),
        }
        sizes = {"y": (T, B, H), "dx": (T, B, N), "dw": (H, N)}
    else:
        arguments |= {f"input_{name}": arguments.pop(name) for name in ("index", "count", "scale")}
        element = {"element mask": T, "element mask for all steps": 1}.get(call.recurrent)
        lists = keep_lists("none" if element else call.recurrent, T, H, generator)
        arguments |= zip(("recurrent_index", "recurrent_count", "recurrent_scale"), lists, strict=True)
        keep = None if element is None else torch.rand(element, B, H, generator=generator) < 0.5
        arguments["recurrent_mask"] = None if keep is None else 2.0 * keep
        panels = (T, -(-H // GROUP), B, PANEL)
        arguments |= {"x": normal(T, B, N), "y": normal(T, B, H), "h0": normal(B, H), "c0": normal(B, H)}
        arguments |= {"w_ih": weight(4 * H, N), "w_hh": weight(4 * H, H)}
        arguments |= {"b_ih": optional(4 * H), "b_hh": optional(4 * H)}
        arguments |= {"dy": optional(T, B, H), "dh": optional(B, H), "dc": optional(B, H)}
        arguments["gates"] = to_panels(normal(T, B, 4 * H).sigmoid())
        arguments |= {"cells": normal(T, B, H), "dgates": to_panels(normal(T, B, 4 * H))}
        sizes = {"y": (T, B, H), "gates": panels, "cells": (T, B, H), "dgates": panels, "dx": (T, B, N)}
        sizes |= {"dh0": (B, H), "dc0": (B, H), "dw_ih": (4 * H, N), "dw_hh": (4 * H, H), "db": (4 * H,)}
    if call.op == "lstm_eval":
        arguments |= {"h0": normal(call.layers, B, H), "c0": normal(call.layers, B, H)}
        layers = [(weight(4 * H, N if layer == 0 else H), weight(4 * H, H)) for layer in range(call.layers)]
        biases = (normal(4 * H), normal(4 * H)) if call.optional else ()
        arguments |= {"weights": [w for pair in layers for w in (*pair, *biases)], "has_bias": call.optional}
        sizes |= {"h": (call.layers, B, H), "c": (call.layers, B, H)}
    nan = float("nan")
    arguments |= {name: torch.full(sizes[name], nan) for name in results_of(call.op)}
    return {a.name: arguments[a.name] for a in schema(call.op).arguments}


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(each) for each in value]
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.detach().resolve_neg().double()
    return value


def _keep(arguments: Arguments, prefix: str, columns: int) -> Keep | None:
    index, count = arguments[f"{prefix}index"], arguments[f"{prefix}count"]
    if index is None:
        assert count is None
        return None
    if count is not None:  # the native ops do not read what stands beyond the count
        index = index.masked_fill(torch.arange(index.shape[1]) >= count.unsqueeze(1), columns)
    return Keep(index, count, torch.tensor(arguments[f"{prefix}scale"]).float().item())


def expected(op: str, arguments: Arguments) -> dict[str, Tensor]:
    """The op's results by the reference in float64; gates and their gradients as ``[T, B, 4H]``.

    Raises:
        Exception: the reference refuses the arguments.
    """
    a = {name: _double(value) for name, value in arguments.items()}
    if op.startswith("linear"):
        keep = _keep(a, "", (a["weight"] if op == "linear_input_grad" else a["x"]).shape[-1])
        if op == "linear_forward":
            return {"y": products.forward(a["x"], a["weight"], a["bias"], keep)}
        if op == "linear_input_grad":
            return {"dx": products.input_grad(a["dy"], a["weight"], keep)}
        return {"dw": products.weight_grad(a["x"], a["dy"], keep)}
    if op == "smallest":
        order = a["keys"].sort(dim=1, stable=True).indices[:, : a["chosen"].shape[1]]
        return {"chosen": order.sort(1).values.double()}
    if op == "lstm_eval":
        return _expected_eval(a)
    inputs, hidden = a["w_ih" if op == "lstm_backward" else "x"].shape[-1], a[results_of(op)[-1]].shape[-1]
    hidden = hidden // 4 if op == "lstm_weight_grad" else hidden
    masks = _keep(a, "input_", inputs), _keep(a, "recurrent_", hidden), a["recurrent_mask"]
    if op == "lstm_forward":
        weights = (a["w_ih"], a["w_hh"], a["b_ih"], a["b_hh"])
        y, _, (gates, cells) = recurrence.lstm_forward(a["x"], a["h0"], a["c0"], *weights, *masks)
        return {"y": y, "gates": gates, "cells": cells}
    if op == "lstm_backward":
        cells, nothing = a["cells"], torch.zeros_like(a["cells"])
        saved = (from_panels(a["gates"], hidden), cells)
        dgates, dx, dh0, dc0 = recurrence.lstm_backward(
            *(a["dy"], a["dh"], a["dc"], nothing, nothing, nothing[0], a["c0"], a["w_ih"], a["w_hh"]),
            *(saved, *masks, a["dx"] is not None),
        )
        return {"dgates": dgates, "dh0": dh0, "dc0": dc0} | ({} if dx is None else {"dx": dx})
    dgates = from_panels(a["dgates"], hidden)
    gradients = recurrence.lstm_weight_grad(a["x"], a["y"], a["h0"], dgates, *masks)
    return dict(zip(("dw_ih", "dw_hh", "db"), gradients, strict=True))


def _expected_eval(a: Arguments) -> dict[str, Tensor]:
    x, hs, cs = a["x"], [], []
    each = 4 if a["has_bias"] else 2
    assert len(a["weights"]) == each * len(a["h0"])
    for layer, (h0, c0) in enumerate(zip(a["h0"], a["c0"], strict=True)):
        weights = a["weights"][layer * each : (layer + 1) * each] + [None] * (4 - each)
        x, c, _ = recurrence.lstm_forward(x, h0, c0, *weights, None, None, None)
        hs.append(x[-1])
        cs.append(c)
    return {"y": x, "h": torch.stack(hs), "c": torch.stack(cs)}


def actual(op: str, arguments: Arguments) -> dict[str, Tensor]:
    """The results that a call has written, laid out as ``expected`` gives them."""
    results = {name: arguments[name] for name in results_of(op) if arguments[name] is not None}
    for name in {"gates", "dgates"} & results.keys():
        results[name] = from_panels(results[name], arguments["w_hh"].shape[1])
    return results


def run(op: str, arguments: Arguments) -> None:
    """Call the op."""
    getattr(torch.ops.strop, op)(*arguments.values())
