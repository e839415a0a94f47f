"""The recurrence in Triton against masked dense cells in plain autograd."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import strop
from strop.ops import dispatch
from strop.ops.cells import GRU, LSTM, RNN_RELU, RNN_TANH
from strop.ops.triton import launch, recurrence, ways
from triton_oracle import Case, Problem, assert_as_accurate, ours

CASES = [
    Case(LSTM, (3, 2, 5, 19)),
    Case(LSTM, (1, 1, 1, 1), "all", "all"),
    Case(LSTM, (2, 17, 3, 7), "none", "none"),
    Case(LSTM, (3, 3, 7, 33), "ragged", "ragged"),
    Case(LSTM, (2, 3, 4, 70), "dense", "half"),
    Case(LSTM, (3, 3, 4, 9), "dense", "dense", given=("dy",)),
    Case(LSTM, (3, 3, 4, 9), "half", "dense", bias=False, given=("dh",)),
    Case(LSTM, (3, 3, 4, 9), "dense", "rows", given=("dc",)),
    Case(LSTM, (3, 3, 4, 9), "half", "one row", reverse=True),
    Case(LSTM, (4, 3, 4, 9), "half", "half", reverse=True),
    Case(LSTM, (4, 3, 4, 9), "ragged", "half", lengths=(4, 2, 1)),
    Case(LSTM, (4, 3, 4, 9), "half", "ragged", reverse=True, lengths=(4, 2, 1)),
    Case(LSTM, (3, 3, 4, 9), "half", "rows", reverse=True, lengths=(3, 3, 2)),
    Case(GRU, (3, 2, 5, 19)),
    Case(GRU, (3, 2, 5, 9), "ragged", "ragged", reverse=True, bias=False),
    Case(GRU, (3, 3, 5, 9), "dense", "rows", given=("dy",)),
    Case(GRU, (4, 3, 4, 9), "half", "half", lengths=(4, 2, 1)),
    Case(GRU, (4, 3, 4, 9), "half", "ragged", reverse=True, lengths=(4, 2, 2)),
    Case(GRU, (2, 3, 4, 9), "none", "none"),
    Case(RNN_TANH, (3, 2, 5, 19)),
    Case(RNN_TANH, (4, 3, 4, 9), "half", "half", reverse=True, lengths=(4, 2, 1)),
    Case(RNN_RELU, (3, 2, 5, 19), "dense", "half", reverse=True),
    Case(RNN_RELU, (4, 3, 4, 9), "half", "rows", lengths=(4, 4, 1)),
]


def count_launches(monkeypatch) -> Counter[str]:
    """Launches of each kernel from here on."""
    counts: Counter[str] = Counter()
    run = launch.run

    def counting(kernel, *arguments, **settings):
        counts[kernel.fn.__name__] += 1
        run(kernel, *arguments, **settings)

    monkeypatch.setattr(recurrence, "run", counting)
    return counts


@pytest.fixture(autouse=True)
def several_processors(monkeypatch):
    """As on a GPU, whose BP is cut into splits, and whose processors have memory."""
    if launch.interpreting:
        monkeypatch.setattr(launch, "processors", lambda device: 7)
        monkeypatch.setattr(launch, "shared_memory", lambda device: 64 * 1024)
    else:  # the others have tests of their own, and compiling takes time
        monkeypatch.setattr(ways, "forced", "persistent")


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_masked_dense_cells(case, device):
    problem = Problem(case)
    truth = problem.oracle(torch.float64)
    assert_as_accurate(ours(problem, torch.float32, device), problem.oracle(torch.float32), truth)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("way", ["persistent", "on-chip"])
@pytest.mark.parametrize(
    "case",
    [Case(LSTM, (2, 17, 3, 15), "dense", "ragged"), Case(GRU, (3, 3, 4, 9), reverse=True, lengths=(3, 2, 1))],
    ids=str,
)
def test_one_launch_runs_all_steps(monkeypatch, case, way, device):
    """With one processor, and so one program, the grid's barrier returns in the interpreter too."""
    monkeypatch.setattr(ways, "forced", way)
    if launch.interpreting:
        monkeypatch.setattr(launch, "processors", lambda device: 1)
    launches = count_launches(monkeypatch)
    problem = Problem(case)
    truth = problem.oracle(torch.float64)
    assert_as_accurate(ours(problem, torch.float32, device), problem.oracle(torch.float32), truth)
    assert launches["forward"] == launches["backward"] == 1


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (Case(LSTM, (3, 3, 7, 33), "ragged", "ragged"), torch.float32),
        (Case(LSTM, (1, 1, 1, 1), "all", "all"), torch.float32),
        (Case(LSTM, (2, 67, 3, 70), "none", "half"), torch.float32),
        (Case(LSTM, (2, 3, 4, 9), "none", "none"), torch.float32),
        (Case(LSTM, (3, 3, 4, 9), "half", "rows", reverse=True, lengths=(3, 3, 2)), torch.float32),
        (Case(LSTM, (3, 2, 5, 19)), torch.float16),
        (Case(GRU, (3, 2, 5, 19), reverse=True), torch.float32),
        (Case(GRU, (4, 3, 4, 9), "half", "ragged", lengths=(4, 2, 2)), torch.float16),
        (Case(RNN_TANH, (3, 2, 5, 19), "dense", "dense"), torch.float32),
        (Case(RNN_RELU, (4, 3, 4, 9), "half", "one row", lengths=(4, 4, 1)), torch.float16),
    ],
    ids=str,
)
def test_weights_on_the_chip(monkeypatch, case, dtype, device):
    """Dense products on dropped states equal the products on kept units, and read each weight once."""
    monkeypatch.setattr(ways, "forced", "on-chip")
    if launch.interpreting:
        monkeypatch.setattr(launch, "processors", lambda device: 12)
    problem = Problem(case)
    truth = problem.oracle(torch.float64)
    assert_as_accurate(ours(problem, dtype, device), problem.oracle(dtype), truth)


def test_weights_that_do_not_fit_on_the_chip_are_refused(monkeypatch, device):
    monkeypatch.setattr(ways, "forced", "on-chip")
    monkeypatch.setattr(launch, "shared_memory", lambda device: 1024)
    problem = Problem(CASES[0])
    with pytest.raises(RuntimeError, match="'on-chip' was asked for, but 19 units, 2 rows do not fit"):
        ours(problem, torch.float32, device)
    monkeypatch.setattr(ways, "forced", None)
    monkeypatch.setenv("STROP_RECURRENCE", "fastest")
    with pytest.raises(ValueError, match="STROP_RECURRENCE must be one of on-chip, persistent, steps"):
        ours(problem, torch.float32, device)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("case", [c for c in CASES if c.shape in ((3, 2, 5, 19), (4, 3, 4, 9))], ids=str)
def test_in_half_precision(case, device):
    problem = Problem(case)
    truth = problem.oracle(torch.float64)
    assert_as_accurate(ours(problem, torch.float16, device), problem.oracle(torch.float16), truth)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_modules_run_on_it(name, packed, device):
    """Both directions of a layer, from zeros, in a module: as on plain PyTorch with the same masks."""
    model = getattr(strop, name)(5, 7, bidirectional=True, input_dropout=0.5, recurrent_dropout=0.5).to(
        device
    )
    x = torch.randn(4, 3, 5, device=device)
    given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2, 1])) if packed else x
    masks = model.draw(4, 3)
    found = {}
    for backend in ("reference", "triton"):
        model.zero_grad()
        with dispatch.use(backend):
            y, last = model(given, masks=masks)
            y = y.data if packed else y
            (y.square().sum() + sum(state.sum() for state in last)).backward()
        found[backend] = [y.detach(), *(parameter.grad for parameter in model.parameters())]
    for value, expected in zip(found["triton"], found["reference"], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
