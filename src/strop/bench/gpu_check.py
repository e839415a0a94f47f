"""Whether strop computes the right thing on a GPU: values and all gradients, in every precision."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import strop
from strop.nn.masks import Masks
from strop.ops import cells, dispatch
from strop.pattern import Mask

_AS_GOOD_AS = 2.0  # times PyTorch's own error in that precision
_ROUNDINGS = 2.0  # of the largest value, or of 1: tensors of a few elements may have no error by chance


@dataclass(frozen=True)
class _Case:
    module: str
    sizes: tuple[int, int, int, int]  # steps, batch, input, hidden
    pattern: str
    bidirectional: bool = False
    packed: bool = False
    everywhere: bool = False
    """In all precisions and ways; else in one way, in float32 and bfloat16: compiling takes time."""

    def __str__(self) -> str:
        more = " bidirectional" * self.bidirectional + " packed" * self.packed
        return f"{self.module} {'x'.join(map(str, self.sizes))} {self.pattern}{more}"


def _cases(tiny: bool) -> Iterable[_Case]:
    if tiny:
        yield _Case("LSTM", (2, 3, 5, 7), "structured", True, True)
        yield _Case("GRU", (2, 3, 5, 7), "random")
        return
    yield _Case("LSTM", (5, 19, 65, 130), "structured", bidirectional=True, everywhere=True)
    yield _Case("LSTM", (4, 20, 1500, 1500), "structured", everywhere=True)
    yield _Case("LSTM", (4, 20, 650, 650), "structured")
    yield _Case("LSTM", (1, 1, 1, 1), "structured")
    yield _Case("LSTM", (3, 150, 40, 50), "fixed")
    for module in ("LSTM", "GRU", "RNN"):
        yield _Case(module, (5, 19, 65, 130), "random")
        yield _Case(module, (6, 7, 33, 70), "structured", bidirectional=True, packed=True)


def faults(
    device: torch.device,
    precisions: dict[str, tuple[torch.dtype, str]],
    precision: Callable[[str], AbstractContextManager[torch.dtype]],
    tiny: bool,
    part: int = 0,
    parts: int = 1,
) -> dict[str, list[str]]:
    """By precision, what is further from float64 than twice what plain PyTorch is in it on the device.

    Of several parts, only what belongs to one is looked at.
    """
    found: dict[str, list[str]] = {}
    todo = [
        (case, name)
        for case, name in product(_cases(tiny), precisions)
        if tiny or case.everywhere or name in ("fp32", "bf16")
    ]
    for case, name in todo[part::parts]:
        torch.manual_seed(0)
        with precision(name) as dtype:
            for way in _ways(case, dtype, device):
                with _forced(way):
                    said = _faults_of(case, dtype, name, device)
                if said:
                    what = f"{case} {name}{f' {way}' if way else ''}"
                    found.setdefault(name, []).extend(f"{what}: {fault}" for fault in said)
    return found


def _ways(case: _Case, dtype: torch.dtype, device: torch.device) -> list[str | None]:
    """How the recurrence is to run: a clock may choose any of the ways that are possible."""
    from strop.ops.triton import tiles

    if device.type == "cpu":
        return [None]
    _, batch, _, hidden = case.sizes
    sizes = (cells.LSTM.gates, hidden, batch, dtype, device)
    kept = all(tiles.on_chip(*sizes, backward=backward) for backward in (False, True))
    ways: list[str | None] = ["persistent", "steps", *(["on-chip"] if kept else [])]
    return ways if case.everywhere else ways[:1]


@contextmanager
def _forced(way: str | None) -> Iterator[None]:
    from strop.ops.triton import ways

    before, ways.forced = ways.forced, way
    try:
        yield
    finally:
        ways.forced = before


def _faults_of(case: _Case, dtype: torch.dtype, name: str, device: torch.device) -> list[str]:
    try:
        return _differences(case, dtype, name, device)
    except Exception as error:  # a kernel that asks for more than the device has, for one
        traceback.print_exc()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # raises where the device answers nothing any more
        return [f"{type(error).__name__} {(str(error).splitlines() or [''])[0]}"]


def _differences(case: _Case, dtype: torch.dtype, name: str, device: torch.device) -> list[str]:
    steps, batch, features, hidden = case.sizes
    model = getattr(strop, case.module)(
        features,
        hidden,
        bidirectional=case.bidirectional,
        input_dropout=0.5,
        recurrent_dropout=0.5,
        pattern=case.pattern,
    ).to(device, dtype)
    x = torch.randn(steps, batch, features, device=device).to(dtype)
    masks = model.draw(steps, batch)
    exact_model = deepcopy(model).double().cpu()
    ours = _outcome(model, x, masks, case, "triton")
    plain = _outcome(model, x, masks, case, "reference")
    exact = _outcome(exact_model, x.double().cpu(), _on_cpu(masks), case, "reference")
    # tf32 keeps ten bits of its operands' mantissas, as float16 does.
    eps = torch.finfo(torch.float16 if name == "tf32" else dtype).eps
    said = []
    for key, value in exact.items():
        error, allowed = ((got[key] - value).abs().max().item() for got in (ours, plain))
        floor = _ROUNDINGS * eps * max(1.0, value.abs().max().item())
        if not error <= _AS_GOOD_AS * allowed + floor:  # NaN is a fault
            said.append(f"{key} is off by {error:.2e}, plain PyTorch by {allowed:.2e}")
    return said


def _on_cpu(masks: Masks) -> Masks:
    def move(mask: Mask | None) -> Mask | None:
        if mask is None:
            return None
        moved = {key: getattr(mask, key) for key in ("index", "count", "keep")}
        return replace(mask, **{key: None if t is None else t.cpu() for key, t in moved.items()})

    return Masks(tuple(map(move, masks.input)), tuple(map(move, masks.recurrent)))


def _outcome(model: nn.Module, x: Tensor, masks: Masks, case: _Case, backend: str) -> dict[str, Tensor]:
    """y, the last states and all gradients, in float64 on the CPU."""
    x = x.detach().requires_grad_()
    steps, batch = x.shape[:2]
    given: Tensor | PackedSequence = x
    if case.packed:
        given = pack_padded_sequence(x, torch.tensor([max(1, steps - row) for row in range(batch)]))
    with dispatch.use(backend):
        y, last = model(given, masks=masks)
        y = y.data if case.packed else y
        last = last if isinstance(last, tuple) else (last,)
        # Weights that differ tell one element's gradient from another's.
        weighing = torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape)
        loss = (y * weighing).sum() + sum(state.sum() for state in last)
        named = dict(model.named_parameters())
        grads = torch.autograd.grad(loss, (x, *named.values()))
    values = {"its output": y, **{f"its last state {i}": state for i, state in enumerate(last)}}
    keys = ("the input", *named)
    values |= {f"the gradient of {key}": grad for key, grad in zip(keys, grads, strict=True)}
    return {key: value.detach().double().cpu() for key, value in values.items()}
