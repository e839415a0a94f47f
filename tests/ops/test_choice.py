"""Which way is taken, by a clock that the test sets: a GPU's is for a GPU."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext

import pytest
import torch

from strop.functional import ways
from strop.ops import choice

time_of = choice.time_of
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TIMES = {"a": choice.Times(3.0, 1.0), "b": choice.Times(2.0, 2.0), "c": choice.Times(5.0, 5.0)}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """What ``once`` returns names its times; what it raises is raised."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(choice, "autotune", True)
    monkeypatch.setattr(choice, "time_of", lambda once, device: TIMES[once()])


def what():
    return "work"


def named(*names: str):
    return {name: lambda name=name: name for name in names}


def fails():
    raise RuntimeError("out of resources\nand more")


def test_the_fastest_is_taken_measured_once_and_says_why(monkeypatch):
    assert choice.fastest(("key",), what, named("a", "b", "c"), CPU, "c") == "b"
    monkeypatch.setattr(choice, "time_of", None)
    assert choice.fastest(("key",), what, named("a", "b", "c"), CPU, "c") == "b"
    (said,) = map(str, choice.choices())
    assert said.startswith("work: b, in a graph a. a 3.000 ms (1.000 in a graph), b 2.000 ms")


def test_what_fails_is_out_on_a_gpu_and_says_why(monkeypatch):
    monkeypatch.setattr(choice, "is_capturing", lambda device: False)
    assert choice.fastest(("key",), what, {"x": fails, **named("c")}, CUDA, "x") == "c"
    assert "x not possible (RuntimeError: out of resources)" in str(choice.choices()[0])
    with pytest.raises(RuntimeError, match="out of resources"):
        choice.fastest(("other",), what, {"x": fails, "y": fails}, CUDA, "x")


def test_a_gpu_that_answers_nothing_any_more_is_no_failure_of_a_way(monkeypatch):
    """Every later call would fail as the first one did."""

    def broken(device):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(choice, "is_capturing", lambda device: False)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        choice.fastest(("key",), what, {"x": fails, **named("c")}, CUDA, "x")
    assert choice.choices() == []


@pytest.mark.parametrize(
    ("device", "error"), [(CPU, RuntimeError("mine")), (CPU, TimeoutError()), (CUDA, TimeoutError())], ids=str
)
def test_errors_that_are_not_a_launchs_are_not_swallowed(monkeypatch, device, error):
    monkeypatch.setattr(choice, "is_capturing", lambda device: False)

    def interrupted():
        raise error

    with pytest.raises(type(error)):
        choice.fastest(("key",), what, {"x": interrupted, **named("c")}, device, "x")
    assert choice.choices() == []
    assert choice.fastest(("key",), what, named("a", "c"), device, "c") == "a"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_need_not_wait_for_a_measurement_of_its_parent():
    with choice._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if choice._lock.acquire(timeout=5) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_timed_for_one_way_or_where_it_must_be_the_same_in_every_process(monkeypatch):
    monkeypatch.setattr(choice, "time_of", None)
    with monkeypatch.context() as patch:
        patch.setattr(choice, "autotune", False)
        assert choice.fastest(("key",), what, named("a", "b"), CPU, "b") == "b"
    assert choice.fastest(("key",), what, named("a"), CPU, "b") == "a"
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.fastest(("key",), what, named("a", "b"), CPU, "b") == "b"
    finally:
        torch.use_deterministic_algorithms(False)
    assert choice.choices() == []


def test_a_graph_that_is_captured_takes_what_is_fastest_on_the_device_alone(monkeypatch):
    choice.fastest(("key",), what, named("a", "b"), CPU, "b")
    monkeypatch.setattr(choice, "is_capturing", lambda device: device == CUDA)
    assert choice.fastest(("key",), what, named("a", "b"), CUDA, "b") == "a"
    assert choice.fastest(("unmet",), what, named("a", "b"), CUDA, "b") == "b"


def test_the_operands_device_is_asked_whether_it_captures(monkeypatch):
    """Not the current one, which may be another GPU."""
    current = [0]

    @contextmanager
    def on(device):
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[0] == 1)
    asked = [choice.is_capturing(torch.device(name)) for name in ("cuda:0", "cuda:1", "cpu")]
    assert asked == [False, True, False]


def test_the_device_sleeps_no_longer_than_the_host_can_need(monkeypatch):
    """Under a sanitizer the host takes seconds for a call."""
    slept = []
    monkeypatch.setattr(choice, "_elapsed", lambda once, cycles: slept.append(cycles) or 1.0)
    monkeypatch.setattr(choice, "perf_counter", iter((0.0, 1000.0)).__next__)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    time_of(lambda: None, CUDA)
    assert 0 < max(slept) <= 10**8


def test_backward_passes_are_measured_in_the_thread_that_holds_the_lock(monkeypatch):
    """Autograd gives a GPU's to a thread of its own, which could choose nothing in a measurement."""
    alone = []

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            alone.append(not torch._C._is_multithreading_enabled())
            return grads[0]

    def layer(x, flat):
        return Layer.apply(x * flat[0]), None

    monkeypatch.setattr(choice, "time_of", lambda once, device: choice.Times(*[float(once() is None)] * 2))
    operands = torch.ones(3), [torch.ones(3)]
    ways.fastest(lambda: ("key",), what, {"a": layer, "b": layer}, *operands, "a")
    assert alone == [True] * 4
    assert torch._C._is_multithreading_enabled()
