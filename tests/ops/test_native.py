"""What the native kernels promise beyond single products: exactness at size, whatever the threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import oracle
import strop
from native_calls import Call, results_of, run, well_formed
from strop.ops import cells, native, native_recurrence
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.pattern import Mask, Pattern

pytestmark = pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")

RECURRENCE_OPS = ("recurrence_forward", "recurrence_backward", "recurrence_weight_grad")
LINEAR_OPS = ("linear_forward", "linear_input_grad", "linear_weight_grad")
CROSS_ENTROPY_OPS = ("linear_cross_entropy", "linear_cross_entropy_grad")
# Sizes that 2, 3 and 5 threads do not divide: steps, batch, panels, kept columns.
CALLS = [
    *(Call(op, 7, 21, 67, 131, "half", "half", cell=cell) for op in RECURRENCE_OPS for cell in range(4)),
    *(Call(op, 7, 21, 67, 131, "half", "half", cell=1, reverse=True, packed=True) for op in RECURRENCE_OPS),
    *(
        Call(op, 7, 21, 67, 131, "half", "half", projection=67, packed=packed)
        for op in RECURRENCE_OPS
        for packed in (False, True)
    ),
    *(Call(op, 4, 5, 1537, 17, "ragged", "ragged") for op in RECURRENCE_OPS),
    *(Call(op, 3, 13, 33, 200, "none", "element mask") for op in RECURRENCE_OPS),
    *(Call(op, 1, 2, 9, 3, "one", "one") for op in RECURRENCE_OPS),
    *(Call(op, 7, 21, 67, 195, lists) for op in LINEAR_OPS for lists in ("none", "half", "ragged")),
    *(Call(op, 2, 3, 3001, 130, "half") for op in LINEAR_OPS),
    *(
        Call(op, 7, 21, 67, 131, "half", "ragged", cell=cell, bf16=native.has_bf16)
        for op in RECURRENCE_OPS
        for cell in range(4)
    ),
    *(Call(op, 2, 3, 3001, 130, "half", bf16=native.has_bf16) for op in (*LINEAR_OPS, *CROSS_ENTROPY_OPS)),
    *(Call(op, 7, 21, 67, 1300, lists) for op in CROSS_ENTROPY_OPS for lists in ("none", "half", "ragged")),
    *(Call(op, 2, 3, 130, 131, "half", seed=1) for op in CROSS_ENTROPY_OPS),
    *(Call("recurrence_eval", 7, 21, 67, 131, layers=2, cell=cell) for cell in range(4)),
    Call("recurrence_eval", 300, 1, 67, 131, layers=3),
    Call("recurrence_eval", 300, 1, 67, 131, layers=2, cell=1, reverse=True),
    Call("recurrence_eval", 1, 1, 67, 131, layers=2),
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(call: Call, threads: int) -> dict[str, Tensor]:
    torch.set_num_threads(1)  # torch's own functions may depend on it
    arguments = well_formed(call)
    torch.set_num_threads(threads)
    run(call.op, arguments)
    return {name: arguments[name] for name in results_of(call.op) if arguments[name] is not None}


@pytest.mark.parametrize(
    "call",
    CALLS,
    ids=lambda c: (
        f"{c.op}-{c.cell}-{c.steps}x{c.batch}x{c.inputs}x{c.units}-{c.projection}-{c.lists}-{c.bf16}"
    ),
)
def test_results_do_not_depend_on_the_number_of_threads(call):
    one = results(call, 1)
    assert not any(value.isnan().any() for value in one.values())
    for threads in (1, 2, 3, 5):
        for name, value in results(call, threads).items():
            assert torch.equal(value, one[name]), f"{name} with {threads} threads"


@pytest.mark.parametrize(("threads", "elsewhere"), [(5, 1), (1, 5), (2, 3)])
def test_another_thread_may_change_the_number_of_threads(threads, elsewhere):
    """The number is each thread's own, and a worker that starts later takes the last one that was set."""
    call = Call("recurrence_backward", 3, 7, 5, 130, "half", "half")
    one = results(call, 1)
    torch.set_num_threads(threads)
    other = threading.Thread(target=torch.set_num_threads, args=(elsewhere,))
    other.start()
    other.join()
    for _ in range(3):
        arguments = well_formed(call)
        run(call.op, arguments)
        for name, value in one.items():
            assert torch.equal(arguments[name], value), name


OF_TWO = [call for call in CALLS if call.op in RECURRENCE_OPS]


@pytest.mark.parametrize("call", OF_TWO, ids=lambda c: f"{c.op}-{c.cell}-{c.units}-{c.projection}-{c.bf16}")
def test_two_operations_side_by_side_write_what_each_writes_alone(call):
    calls = call, replace(call, seed=call.seed + 1, reverse=not call.reverse)
    alone = [results(each, 1) for each in calls]
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(1)
        both = [well_formed(each) for each in calls]
        torch.set_num_threads(threads)
        getattr(torch.ops.strop, f"{call.op}_of_two")(*(a for each in both for a in each.values()))
        for arguments, expected in zip(both, alone, strict=True):
            for name, value in expected.items():
                assert torch.equal(arguments[name], value), f"{name} with {threads} threads"


@pytest.mark.parametrize("op", RECURRENCE_OPS)
def test_a_bad_argument_of_the_second_is_refused_before_the_first_writes(op):
    first, second = (well_formed(Call(op, 7, 21, 67, 131, "half", "half", seed=seed)) for seed in (0, 1))
    second["h0"] = second["h0"].double()
    with pytest.raises(RuntimeError, match="h0"):
        getattr(torch.ops.strop, f"{op}_of_two")(*first.values(), *second.values())
    for name in results_of(op):
        assert first[name] is None or first[name].isnan().all(), name


class Training:
    """A small model that trains on its own masks and data; ``weights`` are those it ends with."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.lstm = strop.LSTM(19, 35, 2, dropout=0.5, input_dropout=0.5, recurrent_dropout=0.5)
        self.head = strop.Linear(35, 70, dropout=0.5)
        parameters = [*self.lstm.parameters(), *self.head.parameters()]
        with torch.no_grad():
            for parameter in parameters:
                parameter.uniform_(-0.2, 0.2, generator=generator)
        optimizer = torch.optim.SGD(parameters, 1.0)
        for _ in range(4):
            x = torch.randn(5, 4, 19, generator=generator)
            target = torch.randint(70, (5 * 4,), generator=generator)
            y, _ = self.lstm(x, masks=self.lstm.draw(5, 4, generator=generator))
            logits = self.head(y, self.head.draw(5, 4, generator=generator))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), target).backward()
            optimizer.step()
        self.weights = torch.cat([parameter.detach().flatten() for parameter in parameters])


def test_two_threads_train_as_each_alone():
    seeds = (1, 2)
    alone = [Training(seed).weights for seed in seeds]
    assert not torch.equal(*alone)
    together: dict[int, Tensor] = {}
    start = threading.Barrier(len(seeds))

    def train(seed: int) -> None:
        start.wait()
        together[seed] = Training(seed).weights

    threads = [threading.Thread(target=train, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, weights in zip(seeds, alone, strict=True):
        assert torch.equal(together[seed], weights)


def keep(mask: Mask | None) -> Keep | None:
    if mask is None:
        return None
    assert mask.index is not None
    return Keep(mask.index, mask.count, mask.scale)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize(
    ("shape", "projection"),
    [
        *(
            (shape, 0)
            for shape in [(35, 20, 130, 130), (5, 21, 100, 130), (20, 33, 97, 161), (12, 7, 65, 200)]
        ),
        *((shape, 65) for shape in [(35, 20, 130, 130), (12, 7, 65, 200)]),
    ],
    ids=str,
)
def test_lstm_is_as_accurate_as_pytorch_at_size(shape, projection, p):
    """In norm no further from float64 than twice what the dense LSTM in PyTorch's float32 is; no floor."""
    steps, batch, features, hidden = shape
    units = projection or hidden
    generator = torch.Generator().manual_seed(13)

    def weight(*size: int) -> Tensor:
        return (2 * torch.rand(*size, generator=generator) - 1) / hidden**0.5

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    x, h0, c0 = normal(steps, batch, features), normal(batch, units) / 10, normal(batch, hidden) / 10
    w_ih, w_hh, b_ih, b_hh = (weight(4 * hidden, n) for n in (features, units, 1, 1))
    layer = (w_ih, w_hh, b_ih.flatten(), b_hh.flatten())
    projecting = (weight(projection, hidden),) if projection else ()
    upstream = (normal(steps, batch, units), normal(batch, units), normal(batch, hidden))
    pattern = Pattern.named("structured", p)
    masks = [pattern.draw(steps, columns, batch, generator=generator) for columns in (features, units)]
    names = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr")[: 7 + len(projecting)]

    def by_autograd(dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = [value.to(dtype).requires_grad_() for value in (x, h0, c0, *layer, *projecting)]
        hx = (leaves[1].unsqueeze(0), leaves[2].unsqueeze(0))
        y, h, c = oracle.lstm(leaves[0], hx, [leaves[3:]], masks[:1], masks[1:])
        grads = torch.autograd.grad((y, h[0], c[0]), leaves, [value.to(dtype) for value in upstream])
        found = {"y": y, "h": h[0], "c": c[0]} | {f"d{n}": g for n, g in zip(names, grads, strict=True)}
        return {name: value.detach().double() for name, value in found.items()}

    lists, what = (*map(keep, masks), None), Layer(cells.LSTM)
    y, h, c, saved = native_recurrence.forward(what, x, h0, c0, *layer, *lists, *projecting)
    dgates, dx, dh0, dc0 = native_recurrence.backward(
        what, *upstream, x, y, h0, c0, w_ih, w_hh, saved, *lists, True, *projecting
    )
    dw_ih, dw_hh, db_ih, db_hh, *dw_hr = native_recurrence.weight_grad(what, x, y, h0, dgates, *lists)
    found = {"y": y, "h": h, "c": c, "dx": dx, "dh0": dh0, "dc0": dc0}
    found |= {"dw_ih": dw_ih, "dw_hh": dw_hh, "db_ih": db_ih, "db_hh": db_hh}
    found |= dict(zip(("dw_hr",), dw_hr, strict=False))
    truth, torchs = by_autograd(torch.float64), by_autograd(torch.float32)
    for name, value in truth.items():
        ours = (found[name].double() - value).norm()
        theirs = (torchs[name] - value).norm()
        assert ours <= 2 * theirs, f"{name}: {ours / theirs:.2f} times the error of PyTorch's float32"


@pytest.mark.parametrize("shape", [(35, 20, 200, 777), (7, 21, 513, 130)], ids=str)
def test_linear_is_as_accurate_as_pytorch_at_size(shape):
    steps, batch, inputs, outputs = shape
    generator = torch.Generator().manual_seed(17)
    x = torch.randn(steps, batch, inputs, generator=generator)
    weight = (2 * torch.rand(outputs, inputs, generator=generator) - 1) / inputs**0.5
    dy = torch.randn(steps, batch, outputs, generator=generator)
    mask = Pattern.named("structured", 0.5).draw(steps, inputs, batch, generator=generator)
    assert mask is not None

    def dense(dtype: torch.dtype) -> dict[str, Tensor]:
        a, w, d, m = x.to(dtype), weight.to(dtype), dy.to(dtype), mask.dense(dtype)
        dx, dw = (d @ w) * m, d.flatten(0, 1).t() @ (a * m).flatten(0, 1)
        return {"y": ((a * m) @ w.t()).double(), "dx": dx.double(), "dw": dw.double()}

    lists = keep(mask)
    found = {
        "y": native.forward(x, weight, None, lists),
        "dx": native.input_grad(dy, weight, lists),
        "dw": native.weight_grad(x, dy, lists),
    }
    truth, torchs = dense(torch.float64), dense(torch.float32)
    for name, value in truth.items():
        ours, theirs = (found[name].double() - value).norm(), (torchs[name] - value).norm()
        assert ours <= 2 * theirs, f"{name}: {ours / theirs:.2f} times the error of PyTorch's float32"


def test_users_defaults_do_not_matter():
    lstm, x = strop.LSTM(20, 33, recurrent_dropout=0.5), torch.randn(3, 2, 20)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            y, _ = lstm(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (y.dtype, y.device.type) == (torch.float32, "cpu")
    y.sum().backward()


def test_a_nan_stays_one():
    nan = torch.tensor(0x7FC00001, dtype=torch.int32).view(torch.float32)  # its low bits reach the exponent
    y, _ = strop.LSTM(4, 5).eval()(nan.expand(2, 3, 4).contiguous())
    assert y.isnan().all()


def test_infinite_rows_leave_the_others_alone():
    """33 units: the last panel has lanes without a unit, where 0 times infinity must not be summed up."""
    x = torch.randn(2, 3, 4)
    x[:, 1] = torch.inf
    x.requires_grad_()
    lstm = strop.LSTM(4, 33, recurrent_dropout=0.5)
    with torch.no_grad():
        lstm.weight_ih_l0.abs_()  # no inf - inf: gates saturate and their gradients are zero
    y, _ = lstm(x)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
