from dataclasses import dataclass

import pytest
import torch

from strop.limits import check_duration, check_ranges, check_sizes, find_device, use_threads


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    layers: int | None = 2
    units: int = 8
    batch: int = 8
    rate: float = 1.0
    p: float = 0.5
    name: str = "x"


@pytest.mark.parametrize(
    "possible", [{"seed": 2**63 - 1}, {"seed": -1}, {"layers": 1000}, {"layers": None}, {"batch": 2**31 - 1}]
)
def test_what_is_possible_passes(possible):
    check_sizes(Settings(**possible))


@pytest.mark.parametrize(
    "absurd", [{"seed": 2**63}, {"seed": -(2**63)}, {"layers": 1001}, {"batch": 2**31}, {"units": 100_001}]
)
def test_what_is_out_of_proportion_is_named(absurd):
    (name, value), *_ = absurd.items()
    with pytest.raises(ValueError, match=f"{name}: {value}; at most"):
        check_sizes(Settings(**absurd))


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -float("inf"), 1e39, -1e39])
def test_what_float32_cannot_hold_is_named(rate):
    with pytest.raises(ValueError, match=r"rate: .*; it must be a number"):
        check_ranges(Settings(seed=1, rate=rate), shares=())
    check_sizes(Settings(rate=rate))
    bound = 1e38
    check_ranges(Settings(seed=1, rate=bound), shares=())
    assert torch.empty(9).uniform_(-bound, bound).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": 1.0}, r"p: 1.0; it must be in \[0, 1\)"),
        ({"p": -0.1}, r"p: -0.1; it must be in \[0, 1\)"),
        ({"rate": 0.0}, "rate: 0.0; it must be more than 0"),
        ({"rate": -1.0}, "rate: -1.0; it must be at least 0"),
        ({"units": 0}, "units: 0; it must be at least 1"),
        ({"batch": 1}, "batch: 1; it must be at least 2"),
        ({"seed": -1}, "seed: -1; it must be at least 0"),
    ],
)
def test_what_is_out_of_its_range_is_named(wrong, message):
    def check(settings):
        check_ranges(settings, shares={"p"}, least={"seed": 0, "batch": 2})

    check(Settings(seed=0, layers=None, batch=2, p=0.0))
    with pytest.raises(ValueError, match=message):
        check(Settings(**wrong))


def test_a_device_that_cannot_compute_is_named():
    assert find_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta"):
        with pytest.raises(ValueError, match=f"device: '{name}' cannot be used here .*; cpu always can"):
            find_device(name)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_no_time_to_wait_is_named(seconds):
    with pytest.raises(ValueError, match=r"seconds: .*; a finite time"):
        check_duration("seconds", seconds)


def test_threads_are_torchs():
    before = torch.get_num_threads()
    try:
        use_threads(3)
        use_threads(None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for wrong, message in [(0, "at least 1"), (-1, "at least 1"), (1025, "at most 1,024")]:
        with pytest.raises(ValueError, match=f"threads: {wrong}; {message}"):
            use_threads(wrong)
