"""Every native op against hostile arguments: it refuses them and says why, or it computes what it must.

``make sanitize`` runs this under AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at
the first access out of bounds, with ``STROP_FUZZ_EXAMPLES`` many examples of each op.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native_calls import Arguments, Call, actual, expected, results_of, well_formed
from strop.ops import native

EXAMPLES = int(os.environ.get("STROP_FUZZ_EXAMPLES", "60"))
WITHOUT_TENSORS = {"isa", "has_bf16", "fma_peak"}
REGISTERED = {
    name.removeprefix("strop::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("strop::")
}
OPS = sorted(REGISTERED - WITHOUT_TENSORS)
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
# Our own errors; torch's own about a kind of argument, and about a kind of tensor.
HELPFUL = re.compile(
    r"must|need|give either|Expected (a value of type|Tensor)|not run 'strop|attempted to run this operator"
    r"|no tensor arguments|negation fallback does not support"
)

pytestmark = pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")


def _along(change: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """An attack on one dimension, chosen by ``at``."""
    return lambda t, at: change(t, at % t.dim()).contiguous() if t.dim() else t


def _poke(value: float) -> Callable[[Tensor, int], Tensor]:
    """An attack on one element, chosen by ``at``."""

    def attack(t: Tensor, at: int) -> Tensor:
        t = t.clone()
        if t.numel():
            t.view(-1)[at % t.numel()] = value
        return t

    return attack


def _strided(t: Tensor, at: int) -> Tensor:
    """The same values, every other element of something larger."""
    return torch.stack((t, t), -1)[..., 0]


def _shifted(t: Tensor, at: int) -> Tensor:
    """The same values, contiguous, in the middle of something larger; still aligned to an element."""
    flat = torch.cat((t.new_zeros(1 + at % 16), t.flatten(), t.new_zeros(3)))
    return flat[1 + at % 16 :][: t.numel()].view(t.shape)


def _misaligned(t: Tensor, at: int) -> Tensor:
    if t.numel() == 0 or t.element_size() == 1:
        return t
    raw = torch.zeros(t.numel() * t.element_size() + 8, dtype=torch.uint8).numpy()
    moved = torch.frombuffer(raw, dtype=t.dtype, offset=1 + at % 3, count=t.numel())
    return moved.copy_(t.flatten()).view(t.shape)


def _freed(t: Tensor, at: int) -> Tensor:
    """Its storage has been given back, as sharded training does with weights between their uses."""
    t = t.clone()
    t.untyped_storage().resize_(0 if at % 2 else max(0, t.untyped_storage().nbytes() - 4))
    return t


SHAPES: dict[str, Callable[[Tensor, int], Any]] = {
    "one more": _along(lambda t, d: torch.cat((t, t.narrow(d, 0, min(1, t.shape[d]))), d)),
    "one fewer": _along(lambda t, d: t.narrow(d, 0, max(0, t.shape[d] - 1))),
    "one of them": _along(lambda t, d: t.narrow(d, 0, min(1, t.shape[d]))),
    "none of them": _along(lambda t, d: t.narrow(d, 0, 0)),
    "twice": _along(lambda t, d: torch.cat((t, t), d)),
    "axis more": lambda t, at: t.unsqueeze(at % (t.dim() + 1)),
    "axis fewer": lambda t, at: t.flatten(0, 1) if t.dim() > 1 else t.sum(),
    "axes swapped": lambda t, at: t.transpose(0, -1) if t.dim() else t,
    "axes swapped in memory": lambda t, at: t.transpose(0, -1).contiguous() if t.dim() else t,
    "expanded": lambda t, at: t[..., :1].expand(t.shape) if t.dim() else t,
    "strided": _strided,
    "shifted": _shifted,
    "misaligned": _misaligned,
    "freed": _freed,
    "missing": lambda t, at: None,
    "a number": lambda t, at: 3.0,
    "meta": lambda t, at: t.to("meta"),
    "sparse": lambda t, at: t.to_sparse(),
}
FLOATS = SHAPES | {
    "neg view": lambda t, at: torch.ops.aten._neg_view(-t),
    "parameter": lambda t, at: torch.nn.Parameter(t),
    "nan": _poke(math.nan),
    "inf": _poke(math.inf),
    "-inf": _poke(-math.inf),
    "large": _poke(1e15),
    "denormal": _poke(1e-42),
    "other dtype": lambda t, at: t.to(
        (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64)[at % 6]
    ),
}
INTEGERS = SHAPES | {
    "-1": _poke(-1),
    "least": _poke(INT_MIN),
    "greatest": _poke(INT_MAX),
    "zero": _poke(0),
    "a bit too large": lambda t, at: _poke(int(t.max()) + 1 + at % 2)(t, at) if t.numel() else t,
    "reversed": lambda t, at: t.flip(-1),
    "repeated": lambda t, at: t[..., :1].expand(t.shape).contiguous() if t.numel() else t,
    "all at once": lambda t, at: torch.randint(INT_MIN, INT_MAX, t.shape, dtype=t.dtype),
    "other dtype": lambda t, at: t.to((torch.int64, torch.int16, torch.float32, torch.bool)[at % 4]),
}
SCALES = {str(s): s for s in (math.nan, math.inf, -math.inf, 1e300, 3.5e38, -2.0, 0.0, 1e-300, 3, None, "1")}
NUMBERS = {"-1": -1, "4": 4, "0": 0, "1": 1, "2": 2, "3": 3, "none": None, "large": 2**62}
WEIGHTS: dict[str, Callable[[list[Tensor], int], Any]] = {
    "empty": lambda w, at: [],
    "one fewer": lambda w, at: w[:-1],
    "one more": lambda w, at: [*w, w[0]],
    "reversed": lambda w, at: w[::-1],
    "missing": lambda w, at: None,
} | {
    f"one {name}": lambda w, at, attack=attack: [
        *w[: at % len(w)],
        attack(w[at % len(w)], at),
        *w[at % len(w) + 1 :],
    ]
    for name, attack in FLOATS.items()
    if name != "missing"
}


def attacks_on(name: str, value: Any) -> list[str]:
    """What can be done to an argument."""
    if isinstance(value, Tensor):
        # A result is float32: nothing of another size fits over it.
        alias = ["alias"] if value.element_size() == 4 else []
        return [*(FLOATS if value.is_floating_point() else INTEGERS), *alias]
    if name == "cell":
        return list(NUMBERS)
    if name.endswith(("scale", "smoothing")):
        return list(SCALES)
    return list(WEIGHTS) if isinstance(value, list) else ["flip"] if isinstance(value, bool) else []


def attack(op: str, arguments: Arguments, name: str, how: str, at: int) -> bool:
    """Spoil one argument in place; whether the op has to refuse it whatever it holds."""
    value = arguments[name]
    if how == "flip":
        arguments[name] = not value
    elif name.endswith(("scale", "smoothing")):
        arguments[name] = SCALES[how]
        return name == "smoothing" and how not in ("0.0", "1e-300")
    elif name == "cell":
        arguments[name] = NUMBERS[how]
    elif isinstance(value, list):
        arguments[name] = WEIGHTS[how](value, at)
    elif how == "alias":
        return _alias(op, arguments, name, at)
    else:
        arguments[name] = (FLOATS if value.is_floating_point() else INTEGERS)[how](value, at)
        # A result must be writable memory of its own; one column expanded is itself.
        shared = (how == "expanded" and value.shape[-1] > 1) or how == "neg view"
        return name in results_of(op) and shared and value.numel() > 1
    return False


def _alias(op: str, arguments: Arguments, name: str, at: int) -> bool:
    """Lay an argument over a result, if it fits; whether it did."""
    value = arguments[name]
    hosts = [
        host
        for host in results_of(op)
        if host != name and isinstance(arguments[host], Tensor) and arguments[host].numel() >= value.numel()
    ]
    if not hosts or value.numel() == 0:
        return False
    host = arguments[hosts[at % len(hosts)]]
    if host.layout != torch.strided or host.device.type != "cpu" or host.dtype != torch.float32:
        return False
    if not host.is_contiguous() or host.is_neg():
        return False
    if host.untyped_storage().nbytes() < host.numel() * 4 or isinstance(host, torch.nn.Parameter):
        return False
    arguments[name] = host.view(value.dtype).flatten()[: value.numel()].view(value.shape).copy_(value)
    return True


def finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _rounded(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.bfloat16().float() if is_float else value


def _largest(values: Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def check(op: str, arguments: Arguments, results: dict[str, Tensor]) -> None:
    """What an op wrote, against the reference."""
    sound = finite([value for name, value in arguments.items() if name not in results_of(op)])
    rounds = bool(arguments.get("bf16"))
    close = 2e-2 if rounds else 1e-4  # operands are rounded at 2^-9
    dropping = any(value is not None for name, value in arguments.items() if name.endswith("index"))
    exact = expected(op, arguments)
    # A rounded state is an operand of the next step: rounding what is given shows how far that leads.
    led = expected(op, {name: _rounded(value) for name, value in arguments.items()}) if rounds else exact
    for name, value in exact.items():
        result = results[name].detach().double()
        assert result.shape == value.shape, name
        if sound:
            largest, far = (_largest(each) for each in (value, led[name] - value))
            torch.testing.assert_close(
                *(result, value),
                rtol=close,
                atol=close * max(1.0, largest) + 4 * far,
                msg=lambda m, n=name: f"{n}: {m}",
            )
        elif not dropping:  # a dropped column does without its NaN
            assert not (value.isnan() & result.isfinite()).any(), f"{name}: a NaN was lost"


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


LISTS = ("none", "all", "half", "one", "nothing", "ragged")
ROWS = (1, 2, 3, 5, 6, 7, 13, 41)
UNITS = (1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 145)


@st.composite
def calls(draw: st.DrawFn, op: str) -> Call:
    lists = st.sampled_from(LISTS)
    wide = draw(st.integers(0, 9)) == 0
    return Call(
        op,
        steps=draw(st.sampled_from((1, 2) if wide else (1, 2, 3, 5, 8))),
        batch=draw(st.sampled_from((1, 3) if wide else ROWS)),
        inputs=draw(st.sampled_from((511, 1536, 1537, 2560, 2561) if wide else UNITS)),
        units=draw(st.sampled_from((1, 5, 17) if wide else UNITS)),
        lists=draw(lists),
        recurrent=draw(st.one_of(lists, st.just("element mask"), st.just("element mask for all steps"))),
        optional=draw(st.booleans()),
        layers=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 9)),
        cell=draw(st.integers(0, 3)),
        reverse=draw(st.booleans()),
        packed=draw(st.booleans()),
        projection=draw(st.sampled_from((0, 0, 1, 5, 16, 63, 65, 130))),
        bf16=draw(st.booleans()) and native.has_bf16,
    )


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("op", OPS)
@settings(max_examples=EXAMPLES)
@given(data=st.data(), threads=st.integers(1, 3), attacks=st.integers(0, 2))
def test_hostile_arguments_are_refused_or_right(op, data, threads, attacks):
    one = op.removesuffix("_of_two")
    each = [well_formed(data.draw(calls(one))) for _ in range(1 if op == one else 2)]
    targets = [
        (number, name) for number, own in enumerate(each) for name in own if attacks_on(name, own[name])
    ]
    done, must_refuse = [], False
    for _ in range(attacks):
        number, name = data.draw(st.sampled_from(targets))
        how = data.draw(st.sampled_from(attacks_on(name, each[number][name])))
        at = data.draw(st.integers(0, 10**6))
        must_refuse |= attack(one, each[number], name, how, at)
        done.append((number, name, how, at))
        if how == "alias":
            break
        targets.remove((number, name))
    torch.set_num_threads(threads)
    refusal = None
    try:
        getattr(torch.ops.strop, op)(*(value for arguments in each for value in arguments.values()))
    except RuntimeError as error:
        refusal = str(error)
    if refusal is not None:
        assert done, f"refused a sound call: {refusal}"
        assert HELPFUL.search(refusal), refusal
        return
    assert not must_refuse, "accepted what it cannot compute with"
    for arguments in each:
        check(one, arguments, actual(one, arguments))


@pytest.mark.parametrize("iterations", [0, -1, -(2**63)])
def test_the_peak_needs_iterations(iterations):
    with pytest.raises(RuntimeError, match="iterations must be positive"):
        torch.ops.strop.fma_peak(iterations)
    assert torch.ops.strop.fma_peak(1) > 0
