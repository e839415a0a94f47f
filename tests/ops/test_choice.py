"""Which way is taken, by a clock that the test sets: a GPU's is for a GPU."""

from __future__ import annotations

import pytest
import torch

from strop.ops import choice

CPU = torch.device("cpu")
TIMES = {"a": choice.Times(3.0, 1.0), "b": choice.Times(2.0, 2.0), "c": choice.Times(5.0, 5.0)}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """What ``once`` returns names its times; what it raises is raised."""
    monkeypatch.setattr(choice, "_fixed", 0)
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


def test_what_fails_is_out_and_says_why():
    assert choice.fastest(("key",), what, {"x": fails, **named("c")}, CPU, "x") == "c"
    assert "x not possible (RuntimeError: out of resources)" in str(choice.choices()[0])
    with pytest.raises(RuntimeError, match="out of resources"):
        choice.fastest(("other",), what, {"x": fails, "y": fails}, CPU, "x")


def test_nothing_is_measured_for_one_way_or_where_it_must_be_the_same_in_every_process(monkeypatch):
    monkeypatch.setattr(choice, "time_of", None)
    assert choice.fastest(("key",), what, named("a"), CPU, "b") == "a"
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.fastest(("key",), what, named("a", "b"), CPU, "b") == "b"
    finally:
        torch.use_deterministic_algorithms(False)
    assert choice.choices() == []


def test_a_graph_that_is_captured_takes_what_is_fastest_on_the_device_alone(monkeypatch):
    choice.fastest(("key",), what, named("a", "b"), CPU, "b")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    cuda = torch.device("cuda")
    assert choice.fastest(("key",), what, named("a", "b"), cuda, "b") == "a"
    assert choice.fastest(("unmet",), what, named("a", "b"), cuda, "b") == "b"
