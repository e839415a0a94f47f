"""Well-formed calls of every native op, and what they must give, for tests that then spoil the calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strop.ops import cells, products, recurrence
from strop.ops.products import Keep
from strop.ops.recurrence import Layer

PANEL, GROUP = 64, 16
CELLS = (cells.LSTM, cells.GRU, cells.RNN_TANH, cells.RNN_RELU)
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
    cell: int = 0  # its number in CELLS
    reverse: bool = False  # or, for recurrence_eval, bidirectional
    packed: bool = False
    projection: int = 0  # units of an LSTM's h, if it is projected
    bf16: bool = False


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


def _counts(batch_sizes: Tensor | None, rows: int, batch: int) -> list[int]:
    return [batch] * (rows // batch) if batch_sizes is None else batch_sizes.tolist()


def panels(hidden: int, gates: int) -> int:
    """Panels of 64 columns: 16 units of each gate in turn."""
    return -(-gates * -(-hidden // GROUP) // 4)


def to_panels(rows: Tensor, hidden: int, counts: list[int]) -> Tensor:
    """``[N, gates * H]`` in the native layout, ``[panels, rows of the step, 64]`` for each step; zero
    where there is no unit."""
    n, gates = len(rows), rows.shape[1] // hidden
    blocks, count = -(-hidden // GROUP), panels(hidden, gates)
    padded = rows.new_zeros(n, gates, blocks * GROUP)
    padded[..., :hidden] = rows.view(n, gates, hidden)
    groups = rows.new_zeros(n, count * 4, GROUP)
    groups[:, : blocks * gates] = padded.view(n, gates, blocks, GROUP).transpose(1, 2).flatten(1, 2)
    steps = groups.view(n, count, PANEL).split(counts)
    return torch.cat([step.transpose(0, 1).reshape(len(step), -1) for step in steps])


def from_panels(rows: Tensor, hidden: int, gates: int, counts: list[int]) -> Tensor:
    """The inverse of ``to_panels``."""
    blocks, count = -(-hidden // GROUP), panels(hidden, gates)
    steps = [step.reshape(count, len(step), PANEL).transpose(0, 1) for step in rows.split(counts)]
    groups = torch.cat([step.reshape(len(step), count * 4, GROUP) for step in steps])
    apart = groups[:, : blocks * gates].view(len(rows), blocks, gates, GROUP).transpose(1, 2)
    return apart.reshape(len(rows), gates, blocks * GROUP)[..., :hidden].reshape(len(rows), -1)


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
    arguments: Arguments = {"index": index, "count": count, "scale": scale, "bf16": call.bf16}
    if call.op.startswith("linear"):
        arguments |= {
            "x": normal(T, B, N),
            "weight": weight(H, N),
            "bias": optional(H),
            "dy": normal(T, B, H),
        }
        sizes = {"y": (T, B, H), "dx": (T, B, N), "dw": (H, N)}
        if "cross_entropy" in call.op:
            arguments |= _cross_entropy(call, generator)
            factors = (-(-H // PANEL), T, B)
            sizes |= {"loss": (T, B), "exponentials": (*factors, PANEL), "factors": factors, "db": (H,)}
    else:
        cell = CELLS[call.cell]
        G, lstm, gru = cell.gates, cell is cells.LSTM, cell is cells.GRU
        projected = bool(lstm and call.projection and call.op != "recurrence_eval")
        P = call.projection if projected else H  # units of h
        arguments |= {"cell": call.cell, "reverse": call.reverse, "bidirectional": call.reverse}
        sizes = torch.randint(1, B + 1, (T,), generator=generator).sort(descending=True).values
        sizes[0] = B
        batch_sizes = sizes if call.packed else None
        R = int(sizes.sum()) if call.packed else T * B
        counts = _counts(batch_sizes, R, B)
        arguments |= {f"input_{name}": arguments.pop(name) for name in ("index", "count", "scale")}
        element = {"element mask": T, "element mask for all steps": 1}.get(call.recurrent)
        lists = keep_lists("none" if element else call.recurrent, T, P, generator)
        arguments |= zip(("recurrent_index", "recurrent_count", "recurrent_scale"), lists, strict=True)
        keep = None if element is None else torch.rand(element, B, P, generator=generator) < 0.5
        arguments["recurrent_mask"] = None if keep is None else 2.0 * keep
        arguments |= {"batch_sizes": batch_sizes, "x": normal(R, N), "y": normal(R, P)}
        arguments |= {"h0": normal(B, P), "c0": normal(B, H) if lstm else None}
        arguments |= {"w_ih": weight(G * H, N), "w_hh": weight(G * H, P)}
        arguments["w_hr"] = weight(P, H) if projected else None
        arguments |= {"b_ih": optional(G * H), "b_hh": optional(G * H)}
        arguments |= {"dy": optional(R, P), "dh": optional(B, P), "dc": optional(B, H) if lstm else None}
        arguments["gates"] = to_panels(normal(R, G * H).sigmoid(), H, counts)
        arguments["states"] = normal(R, H) if lstm or gru else None
        arguments["dgates"] = to_panels(normal(R, G * H), H, counts)
        arguments["drecurrent"] = to_panels(normal(R, G * H), H, counts) if gru else None
        row = panels(H, G) * PANEL
        sizes = {"y": (R, P), "gates": (R, row), "states": (R, H) if lstm or gru else None}
        sizes |= (
            {"unprojected": (R, H), "dprojected": (R, P)}
            if projected
            else {"unprojected": None, "dprojected": None}
        )
        sizes |= {"dgates": (R, row), "drecurrent": (R, row) if gru else None, "dx": (R, N)}
        sizes |= {"dh0": (B, P), "dc0": (B, H) if lstm else None}
        sizes |= {"dw_ih": (G * H, N), "dw_hh": (G * H, P)}
        sizes |= {"db_ih": (G * H,), "db_hh": (G * H,) if gru else None}
    if call.op == "recurrence_eval":
        D = 2 if call.reverse else 1
        total = call.layers * D
        arguments |= {"x": normal(T, B, N), "h0": normal(total, B, H)}
        arguments["c0"] = normal(total, B, H) if lstm else None
        biases = (normal(G * H), normal(G * H)) if call.optional else ()
        pairs = [(weight(G * H, N if n < D else D * H), weight(G * H, H)) for n in range(total)]
        arguments |= {"weights": [w for pair in pairs for w in (*pair, *biases)], "has_bias": call.optional}
        sizes |= {"y": (T, B, D * H), "h": (total, B, H), "c": (total, B, H) if lstm else None}
    nan = float("nan")
    shapes = {name: sizes[name] for name in results_of(call.op)}
    arguments |= {n: None if shape is None else torch.full(shape, nan) for n, shape in shapes.items()}
    return {a.name: arguments[a.name] for a in schema(call.op).arguments}


def hidden_of(arguments: Arguments) -> int:
    """The cell's units, of which h has others if they are projected."""
    rows = arguments["dw_ih" if "dw_ih" in arguments else "w_ih"].shape[0]
    return rows // CELLS[arguments["cell"]].gates


def _cross_entropy(call: Call, generator: torch.Generator) -> Arguments:
    """Targets, smoothing and, for the gradient, what the forward pass saves of logits of no matter whom."""
    T, B, H = call.steps, call.batch, call.units
    logits = torch.randn(T, B, H, generator=generator)
    panels = to_class_panels(logits, -math.inf)
    largest = panels.amax(-1)
    exponentials = torch.exp(panels - largest.unsqueeze(-1))
    factors = torch.exp(largest - logits.logsumexp(-1))
    return {
        "target": torch.randint(-1, H, (T, B), generator=generator, dtype=torch.int32),
        "smoothing": 0.25 if call.seed % 2 else 0.0,
        "dloss": torch.randn(T, B, generator=generator),
        "exponentials": exponentials,
        "factors": factors,
    }


def to_class_panels(logits: Tensor, padding: float) -> Tensor:
    """``[T, B, N]`` in panels ``[ceil(N / 64), T, B, 64]``."""
    panels = -(-logits.shape[-1] // PANEL)
    padded = logits.new_full((*logits.shape[:2], panels * PANEL), padding)
    padded[..., : logits.shape[-1]] = logits
    return padded.unflatten(-1, (panels, PANEL)).movedim(2, 0).contiguous()


def from_class_panels(panels: Tensor, classes: int) -> Tensor:
    """The inverse of ``to_class_panels``."""
    return panels.movedim(0, 2).flatten(2)[..., :classes]


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
        if "cross_entropy" in op:
            return _expected_cross_entropy(op, a, keep)
        if op == "linear_forward":
            return {"y": products.forward(a["x"], a["weight"], a["bias"], keep)}
        if op == "linear_input_grad":
            return {"dx": products.input_grad(a["dy"], a["weight"], keep)}
        return {"dw": products.weight_grad(a["x"], a["dy"], keep)}
    if op == "smallest":
        order = a["keys"].sort(dim=1, stable=True).indices[:, : a["chosen"].shape[1]]
        return {"chosen": order.sort(1).values.double()}
    cell = CELLS[a["cell"]]
    if op == "recurrence_eval":
        return _expected_eval(cell, a)
    layer = Layer(cell, a["reverse"], a["batch_sizes"])
    units, hidden = a["h0"].shape[1], hidden_of(arguments)
    inputs = a["w_ih" if op == "recurrence_backward" else "x"].shape[-1]
    masks = _keep(a, "input_", inputs), _keep(a, "recurrent_", units), a["recurrent_mask"]
    counts = _counts(a["batch_sizes"], len(a["y"]), len(a["h0"]))

    def sequence(rows: Tensor | None) -> Tensor | None:
        """As the reference takes it: with an axis of time unless packed."""
        if rows is None or a["batch_sizes"] is not None:
            return rows
        return rows.view(-1, len(a["h0"]), rows.shape[1])

    def gates(name: str) -> Tensor:
        return from_panels(a[name], hidden, cell.gates, counts)

    if op == "recurrence_forward":
        weights = (a["w_ih"], a["w_hh"], a["b_ih"], a["b_hh"])
        head = (layer, sequence(a["x"]), a["h0"], a["c0"])
        y, *_, saved = recurrence.forward(*head, *weights, *masks, a["w_hr"])
        found = dict(zip(("gates", "states", "unprojected"), saved, strict=False))
        return found | {"y": y.reshape(len(a["x"]), units)}
    if op == "recurrence_backward":
        saved = (gates("gates"),) if a["states"] is None else (gates("gates"), a["states"])
        saved = (
            saved if a["w_hr"] is None else (*saved, a["states"])
        )  # the last is for the product of WG alone
        of_x = sequence(a["y"].new_zeros(len(a["y"]), inputs))
        (of_input, of_hidden, *of_projection), dx, dh0, dc0 = recurrence.backward(
            *(layer, sequence(a["dy"]), a["dh"], a["dc"], of_x, sequence(a["y"]), a["h0"], a["c0"]),
            *(a["w_ih"], a["w_hh"], saved, *masks, a["dx"] is not None, a["w_hr"]),
        )
        found = {"dgates": of_input, "dh0": dh0, "dx": None if dx is None else dx.reshape(-1, inputs)}
        found |= {"dprojected": of_projection[0]} if of_projection else {}
        found |= {"dc0": dc0, "drecurrent": of_hidden if a["drecurrent"] is not None else None}
        return {name: value for name, value in found.items() if value is not None}
    dgates = gates("dgates"), gates("dgates" if a["drecurrent"] is None else "drecurrent")
    found = recurrence.weight_grad(layer, sequence(a["x"]), sequence(a["y"]), a["h0"], dgates, *masks)
    names = ("dw_ih", "dw_hh", "db_ih") + (() if a["db_hh"] is None else ("db_hh",))
    return dict(zip(names, found, strict=False))


def _expected_cross_entropy(op: str, a: Arguments, keep: Keep | None) -> dict[str, Tensor]:
    target, smoothing, classes = a["target"].long(), a["smoothing"], a["weight"].shape[0]
    counts = (target >= 0).unsqueeze(-1)
    wanted = torch.nn.functional.one_hot(target.clamp(min=0), classes).double()
    wanted = torch.lerp(wanted, torch.full_like(wanted, 1 / classes), smoothing)
    if op == "linear_cross_entropy":
        logits = products.forward(a["x"], a["weight"], a["bias"], keep)
        # A weight of 0 takes no part, whatever the logit.
        terms = torch.where(wanted == 0, 0, -wanted * logits.log_softmax(-1))
        loss = torch.where(counts.squeeze(-1), terms.sum(-1), 0)
        saved = {} if a["exponentials"] is None else {"probabilities": logits.softmax(-1)}
        return {"loss": loss} | saved
    exponentials = from_class_panels(a["exponentials"] * a["factors"].unsqueeze(-1), classes)
    dlogits = torch.where(counts, (exponentials - wanted) * a["dloss"].unsqueeze(-1), 0)
    gradients = {
        "dx": lambda: products.input_grad(dlogits, a["weight"], keep),
        "dw": lambda: products.weight_grad(a["x"], dlogits, keep),
        "db": lambda: dlogits.sum((0, 1)),
    }
    return {name: compute() for name, compute in gradients.items() if a[name] is not None}


def _expected_eval(cell: cells.Cell, a: Arguments) -> dict[str, Tensor]:
    x, hs, cs = a["x"], [], []
    each, directions = 4 if a["has_bias"] else 2, 2 if a["bidirectional"] else 1
    assert len(a["weights"]) == each * len(a["h0"])
    for first in range(0, len(a["h0"]), directions):
        ys = []
        for number in range(first, first + directions):
            weights = a["weights"][number * each : (number + 1) * each] + [None] * (4 - each)
            c0 = None if a["c0"] is None else a["c0"][number]
            layer = Layer(cell, number > first)
            y, h, c, _ = recurrence.forward(layer, x, a["h0"][number], c0, *weights, None, None, None)
            ys.append(y)
            hs.append(h)
            cs.append(c)
        x = torch.cat(ys, -1)
    return {"y": x, "h": torch.stack(hs)} | ({} if a["c0"] is None else {"c": torch.stack(cs)})


def actual(op: str, arguments: Arguments) -> dict[str, Tensor]:
    """The results that a call has written, laid out as ``expected`` gives them."""
    results = {name: arguments[name] for name in results_of(op) if arguments[name] is not None}
    for name in {"gates", "dgates", "drecurrent"} & results.keys():
        gates, hidden = CELLS[arguments["cell"]].gates, hidden_of(arguments)
        counts = _counts(arguments["batch_sizes"], len(results[name]), len(arguments["h0"]))
        results[name] = from_panels(results[name], hidden, gates, counts)
    if op == "linear_cross_entropy" and "exponentials" in results:
        probabilities = results.pop("exponentials") * results.pop("factors").unsqueeze(-1)
        results["probabilities"] = from_class_panels(probabilities, arguments["weight"].shape[0])
    return results


def run(op: str, arguments: Arguments) -> None:
    """Call the op."""
    getattr(torch.ops.strop, op)(*arguments.values())
