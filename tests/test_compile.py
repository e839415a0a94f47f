"""torch.compile: one graph, the same numbers, the same masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import strop
from strop.functional import compiled
from strop.ops import dispatch
from strop.pattern import CASES, Pattern

DROPS = {"dropout": 0.5, "input_dropout": 0.5, "recurrent_dropout": 0.5}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def check(step: Callable[..., Tensor], parameters: list[nn.Parameter], *inputs: Any, how: str = "aot_eager"):
    """Three training steps, compiled and not, from the same random state."""
    fast = torch.compile(step, fullgraph=True, backend=how)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = step(*inputs)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        actual = fast(*inputs)
        assert torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(actual, expected)
        grads = [torch.autograd.grad(loss, parameters) for loss in (actual, expected)]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bernoulli"])
def test_a_training_step_is_one_graph_with_the_same_numbers(backend, name, exact):
    pattern = Pattern.named(name, 0.0, exact=exact)
    lstm = strop.LSTM(6, 8, 2, **DROPS, pattern=pattern).to(backend.dtype)
    head = strop.Linear(8, 5, dropout=0.5, pattern=pattern).to(backend.dtype)
    x, target = torch.randn(4, 3, 6, dtype=backend.dtype), torch.randint(5, (12,))

    def step(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(lstm(x)[0]).flatten(0, 1), target)

    check(step, [*lstm.parameters(), *head.parameters()], x)


@pytest.mark.parametrize("kind", [strop.LSTM, strop.GRU, strop.RNN])
@pytest.mark.parametrize(
    "arguments", [{}, {"bidirectional": True, "batch_first": True}, {"bias": False}], ids=str
)
def test_every_module(kind, arguments):
    module, x = kind(6, 8, 2, **DROPS, **arguments), torch.randn(4, 3, 6)
    check(lambda x: module(x)[0].pow(2).sum(), [*module.parameters()], x)


def test_projections():
    module, x = strop.LSTM(6, 8, 2, **DROPS, proj_size=5, bidirectional=True), torch.randn(4, 3, 6)
    check(lambda x: module(x)[0].pow(2).sum(), [*module.parameters()], x)


@pytest.mark.parametrize("kind", [strop.LSTMCell, strop.GRUCell, strop.RNNCell])
def test_cells_in_a_loop(kind):
    cell = kind(6, 8, input_dropout=0.5, recurrent_dropout=0.5)

    def step(x: Tensor) -> Tensor:
        state, total = None, x.new_zeros(())
        for each in x.unbind():
            state = cell(each, state)
            total = total + (state if isinstance(state, Tensor) else state[0]).pow(2).sum()
        return total

    check(step, [*cell.parameters()], torch.randn(3, 2, 6))


def sizes_compiled(
    call: Callable[..., Any], make: Callable[[int, int], tuple[Any, ...]], dynamic: bool | None
):
    """How many graphs serve many numbers of steps and of rows, in training."""
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(call, fullgraph=True, backend=counter, dynamic=dynamic)
    for number, (steps, batch) in enumerate([(4, 3), (5, 4), (7, 9), (11, 6)]):
        found = []
        for run in (fast, call):
            torch.manual_seed(number)
            y = run(*make(steps, batch))
            found.append(y if isinstance(y, Tensor) else y[0])
        torch.testing.assert_close(*found)
        if found[0].requires_grad:
            found[0].sum().backward()
    return counter.frame_count


def sequence(steps: int, batch: int) -> tuple[Tensor]:
    return (torch.randn(steps, batch, 8),)


LAYERS = [strop.LSTM, strop.GRU, strop.RNN]
KINDS = [*LAYERS, strop.LSTMCell, strop.GRUCell, strop.RNNCell, strop.Linear]


@pytest.mark.parametrize("drops", [True, False], ids=["dropping", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_sizes_share_two_graphs(kind, drops):
    """The first is for the first size alone, as torch.compile does it."""
    shares = {"dropout": 0.5} if kind is strop.Linear else {"input_dropout": 0.5, "recurrent_dropout": 0.5}
    module = kind(8, 16, **shares if drops else {})
    rows = issubclass(kind, nn.RNNCellBase)
    make = (lambda steps, batch: (torch.randn(steps * batch, 8),)) if rows else sequence
    assert sizes_compiled(module, make, None) <= 2


@pytest.mark.parametrize("pattern", [n for n in CASES if n != "structured"])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bernoulli"])
def test_all_sizes_share_two_graphs_in_every_pattern(pattern, exact):
    module = strop.LSTM(
        8, 16, 2, **DROPS, pattern=Pattern.named(pattern, 0.0, exact=exact), bidirectional=True
    )
    assert sizes_compiled(module, sequence, True) <= 2


def test_all_sizes_share_two_graphs_with_states_masks_and_a_loss():
    lstm, fc = (
        strop.LSTM(8, 16, **DROPS | {"dropout": 0.0}),
        strop.Linear(8, 16, dropout=0.5, batch_first=True),
    )

    def states(steps: int, batch: int) -> Any:
        return *sequence(steps, batch), tuple(torch.randn(1, batch, 16) for _ in range(2))

    def masks(steps: int, batch: int) -> Any:
        return *states(steps, batch), lstm.draw(steps, batch)

    def targets(steps: int, batch: int) -> Any:
        return *sequence(steps, batch), torch.randint(16, (steps, batch))

    for call, make in ((lstm, states), (lstm, masks), (fc.cross_entropy, targets)):
        torch._dynamo.reset()
        assert sizes_compiled(call, make, None) <= 2


@pytest.mark.parametrize("kind", LAYERS)
def test_all_sizes_share_two_graphs_in_evaluation(kind):
    module = kind(8, 16, 2, **DROPS).eval().requires_grad_(False)
    assert sizes_compiled(module, sequence, None) <= 2


def test_frozen_weights_and_the_cross_entropy():
    lstm, head = strop.LSTM(6, 8, 2, **DROPS).requires_grad_(False), strop.Linear(8, 5, dropout=0.5)
    x, target = nn.Parameter(torch.randn(4, 3, 6)), torch.randint(5, (4, 3))
    check(lambda x: head.cross_entropy(lstm(x)[0], target), [x, *head.parameters()], x)


TORCHS_OWN = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")


@TORCHS_OWN
@pytest.mark.skipif(not dispatch.available("native"), reason="there is one backend here")
def test_cached_code_for_one_backend_is_not_taken_for_another(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    lstm, x = strop.LSTM(6, 8, recurrent_dropout=0.5), torch.randn(4, 3, 6)
    for name in ("native", "reference"):
        torch._dynamo.reset()
        with dispatch.use(name):
            check(lambda x: lstm(x)[0].pow(2).sum(), [*lstm.parameters()], x, how="inductor")


@TORCHS_OWN
def test_the_default_compiler():
    lstm, x = strop.LSTM(6, 8, 2, **DROPS), torch.randn(4, 3, 6)
    check(lambda x: lstm(x)[0].pow(2).sum(), [*lstm.parameters()], x, how="inductor")


@pytest.mark.parametrize("how", ["aot_eager", pytest.param("inductor", marks=TORCHS_OWN)])
def test_checkpoints_recompute_with_the_same_masks(how):
    lstm, head, x = strop.LSTM(6, 8, 2, **DROPS), strop.Linear(8, 5, dropout=0.5), torch.randn(4, 3, 6)

    def step(x: Tensor) -> Tensor:
        return checkpoint(lambda x: head(lstm(x)[0]), x, use_reentrant=False).pow(2).sum()

    check(step, [*lstm.parameters(), *head.parameters()], x, how=how)


@pytest.mark.parametrize("make", [lambda: strop.LSTM(6, 8, 2), lambda: strop.GRU(6, 8, 2, **DROPS).eval()])
def test_layers_that_drop_nothing_train(backend, make):
    module, x = make(), torch.randn(4, 3, 6)  # in float32, for which torch has an operator of its own
    check(lambda x: module(x)[0].pow(2).sum(), [*module.parameters()], x)


def test_evaluation_and_given_masks():
    lstm, x = strop.LSTM(6, 8, 2, **DROPS).eval(), torch.randn(4, 3, 6)
    masks = lstm.draw(4, 3)
    for arguments in ({}, {"masks": masks}):
        fast = torch.compile(lambda x, a=arguments: lstm(x, **a)[0], fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(fast(x), lstm(x, **arguments)[0])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_autocast(low, p):
    module, x = strop.LSTM(6, 8, 2, recurrent_dropout=p), torch.randn(4, 3, 6)

    def step(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", dtype=low):
            y, (h, c) = module(x)
            return y, h, c

    actual, expected = [], []
    for found, run in ((actual, torch.compile(step, fullgraph=True, backend="aot_eager")), (expected, step)):
        torch.manual_seed(0)
        outputs = run(x)
        loss = sum(each.float().pow(2).sum() for each in outputs)
        found += [*outputs, *torch.autograd.grad(loss, [*module.parameters()])]
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)


def samples(op: str, cell: str, dtype: torch.dtype, units: int) -> tuple[Any, ...]:
    """Arguments of an operator, with gradients wanted of all that can have one; h has so many units."""
    gates = {"LSTM": 4, "GRU": 3}.get(cell, 1)

    def leaf(*size: int) -> Tensor:
        return torch.randn(size, dtype=dtype).requires_grad_()

    keep = (torch.tensor([[0, 2], [1, 2], [0, 1]], dtype=torch.int32), None, 1.5)
    if op == "linear_forward":
        return leaf(3, 2, 4), leaf(5, 4), leaf(5), *keep, False
    c0 = leaf(2, 5) if cell == "LSTM" else None
    weights = (leaf(gates * 5, 4), leaf(gates * 5, units), leaf(gates * 5), leaf(gates * 5))
    w_hr = None if units == 5 else leaf(units, 5)
    return cell, True, False, "", None, leaf(3, 2, 4), leaf(2, units), c0, *weights, w_hr, *keep, *keep, None


@pytest.mark.parametrize(
    ("op", "cell", "units"),
    [
        ("linear_forward", "", 0),
        *(("recurrence_forward", cell, 5) for cell in ("LSTM", "GRU", "RNN_RELU")),
        ("recurrence_forward", "LSTM", 3),
    ],
)
def test_operators_keep_torchs_rules(backend, op, cell, units):
    torch.library.opcheck(getattr(compiled, op), samples(op, cell, backend.dtype, units))


@TORCHS_OWN
def test_draws_of_the_same_size_stay_apart():
    def two() -> tuple[Tensor, Tensor]:
        drawn = [Pattern(0.5).draw(8, 32, 2) for _ in range(2)]
        assert drawn[0] is not None
        assert drawn[1] is not None
        return drawn[0].index + 0, drawn[1].index + 0

    first, second = torch.compile(two, fullgraph=True, backend="inductor")()
    assert not torch.equal(first, second)


def test_a_generator_cannot_be_traced():
    lstm = strop.LSTM(6, 8, **DROPS | {"dropout": 0.0})
    generator = torch.Generator()
    with pytest.raises(Exception, match="draw the masks outside"):
        torch.compile(
            lambda: lstm.draw(3, 2, generator=generator).input[0].index + 0, backend="eager", fullgraph=True
        )()


def test_the_backend_is_chosen_at_run_time():
    lstm, x = strop.LSTM(6, 8, recurrent_dropout=0.5), torch.randn(4, 3, 6)
    fast = torch.compile(lambda x: lstm(x)[0], fullgraph=True, backend="aot_eager")
    with dispatch.use("reference"):
        fast(x).sum().backward()
    assert lstm.weight_hh_l0.grad is not None
