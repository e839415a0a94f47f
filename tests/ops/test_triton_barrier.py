"""Kernels whose programs wait for each other, on a CPU: the programs of a grid run side by side."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from concurrent_grid import Deadlock, side_by_side
from strop.ops.cells import GRU, LSTM, RNN_TANH
from strop.ops.triton import launch, steps_backward, steps_forward, ways
from strop.ops.triton.steps import barrier
from triton_oracle import Case, Problem, assert_as_accurate, ours

pytestmark = pytest.mark.skipif(not launch.interpreting, reason="the interpreter's schedules")


@triton.jit
def _rounds(x, arrived, rounds, LATE: tl.constexpr, PARTED: tl.constexpr):
    """Each round every program adds up what all of them wrote in the one before."""
    programs, own = tl.num_programs(0), tl.program_id(0)
    for n in range(rounds):
        total = 0
        for other in range(programs):
            total += tl.load(x + (n % 2) * programs + other)
        tl.store(x + ((n + 1) % 2) * programs + own, total)
        if PARTED:
            barrier(arrived, (n + 1) * programs + LATE, False)


def run(seed: int, late: int = 0, parted: bool = True) -> list[int]:
    x = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.int32)
    with side_by_side(seed) as grids:
        _rounds[(3,)](x, torch.zeros(1, dtype=torch.int32), 4, LATE=late, PARTED=parted)
    assert len(grids) == 1
    assert grids[0].switches > (3 if parted else 0)
    return x[:3].tolist()


ONE_LAUNCH = [
    Case(LSTM, (3, 3, 5, 70), "half", "ragged"),
    Case(LSTM, (4, 3, 4, 35), "dense", "half", reverse=True, lengths=(4, 2, 1)),
    Case(LSTM, (3, 33, 3, 35), "dense", "rows", given=("dy",)),
    Case(GRU, (3, 3, 5, 35), "dense", "half"),
    Case(GRU, (4, 3, 4, 35), "half", "ragged", lengths=(4, 2, 2)),
    Case(RNN_TANH, (3, 2, 5, 35), "half", "half", reverse=True),
]


@pytest.fixture
def waiting(monkeypatch):
    """A GPU of seven processors, whose programs can wait for each other."""
    monkeypatch.setattr(launch, "programs_wait", True)
    monkeypatch.setattr(launch, "processors", lambda device: 7)
    monkeypatch.setattr(launch, "shared_memory", lambda device: 64 * 1024)


@pytest.mark.usefixtures("poison", "waiting")
@pytest.mark.parametrize("way", ["persistent", "on-chip"])
@pytest.mark.parametrize("case", ONE_LAUNCH, ids=str)
def test_one_launch_of_many_programs_equals_masked_dense_cells(monkeypatch, case, way):
    monkeypatch.setattr(ways, "forced", way)
    problem = Problem(case)
    truth, torchs = problem.oracle(torch.float64), problem.oracle(torch.float32)
    for seed in range(2):
        with side_by_side(seed) as grids:
            assert_as_accurate(ours(problem, torch.float32, torch.device("cpu")), torchs, truth)
        waited = [grid for grid in grids if grid.waits]
        assert len(waited) == 2
        assert all(1 < grid.size <= 7 for grid in waited)


@pytest.mark.usefixtures("poison", "waiting")
@pytest.mark.parametrize("way", ["persistent", "on-chip"])
@pytest.mark.parametrize("kernel", [steps_forward, steps_backward], ids=["forward", "backward"])
def test_where_they_do_not_wait_they_are_wrong(monkeypatch, kernel, way):
    """So that the schedules are known to find it."""
    monkeypatch.setattr(ways, "forced", way)
    monkeypatch.setattr(kernel, "wait", _goes_on)
    problem = Problem(ONE_LAUNCH[0])
    truth, torchs = problem.oracle(torch.float64), problem.oracle(torch.float32)
    with side_by_side(0), pytest.raises(AssertionError, match="error"):
        assert_as_accurate(ours(problem, torch.float32, torch.device("cpu")), torchs, truth)


@triton.jit
def _goes_on(arrived, target, TRAPS: tl.constexpr):
    pass


def test_programs_wait_for_each_other():
    assert all(run(seed) == [81] * 3 for seed in range(20))


def test_a_barrier_that_is_missing_shows():
    assert sum(run(seed, parted=False) == [81] * 3 for seed in range(20)) < 5


def test_a_deadlock_is_a_failure():
    with pytest.raises(Exception, match="programs 0, 1, 2 of 3 wait for what no other does") as caught:
        run(0, late=1)
    assert isinstance(caught.value.__cause__, Deadlock)


def test_what_a_program_raises_is_raised():
    with pytest.raises(Exception, match="divide by zero"), side_by_side(0):
        _fails[(3,)](0)


@triton.jit
def _fails(zero):
    1 // zero
