import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strop.bench import measure
from strop.bench.measure import Percentiles, PhaseClock, interleave
from strop.ops import dispatch


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40))
def test_percentiles_are_ordered_and_in_range(values: list[int]):
    p = Percentiles.of(values)
    assert min(values) <= p.p20 <= p.p50 <= p.p80 <= max(values)


def test_percentiles():
    assert Percentiles.of([5.0, 1.0, 2.0, 3.0, 4.0, 0.0]) == Percentiles(1.0, 2.5, 4.0)


def test_interleaves_and_leaves_the_first_round_out():
    calls = []

    def case(name: str):
        def once(repetition: int) -> dict[str, float]:
            calls.append((repetition, name))
            return {"overall": float(repetition)} | ({"fp": 0.5} if name == "b" else {})

        return once

    samples = interleave({"a": case("a"), "b": case("b")}, seconds=0, least=3)
    assert calls == [(i, name) for i in range(4) for name in "ab"]
    assert samples == {"a": {"overall": [1, 2, 3]}, "b": {"overall": [1, 2, 3], "fp": [0.5] * 3}}


def test_runs_as_long_as_asked():
    samples = interleave({"a": lambda _: {"n": 1.0}}, seconds=0.05, least=1)
    assert len(samples["a"]["n"]) > 5


def test_logs_get_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    times = iter([0.0, 5.0, 11.0, 11.0, 12.0, 30.0, 30.0, 50.0])
    monkeypatch.setattr(measure, "perf_counter", lambda: next(times))
    progress = measure._Progress(seconds=10)
    for line in ("a", "b", "c", "", "d"):
        progress(line)
    assert capsys.readouterr().err == "b\nd\n"


def test_clock_adds_up_phases(monkeypatch: pytest.MonkeyPatch):
    times = iter(range(100))
    monkeypatch.setattr("strop.bench.measure.perf_counter", lambda: float(next(times)))

    class Backend:
        unrelated = "kept"

        @staticmethod
        def forward(value):
            return value + 1

        backward = weight_grad = forward

    clock = PhaseClock(torch.device("cpu"))
    timed = clock(Backend)
    assert timed.unrelated == "kept"
    assert timed.forward(1) == 2
    assert timed.forward(2) == 3
    assert timed.backward(3) == 4
    assert clock.take() == {"fp": 2.0, "bp": 1.0}
    assert timed.weight_grad(3) == 4
    assert clock.take() == {"wg": 1.0}
    assert clock.take() == {}


def test_dispatch_passes_backends_through_the_wrapper():
    x = torch.empty(0)
    plain = dispatch.recurrence(x)
    with dispatch.wrapped(lambda backend: (backend,)):
        assert dispatch.recurrence(x) == (plain,)
        assert dispatch.products(x)[0].forward
    assert dispatch.recurrence(x) is plain
