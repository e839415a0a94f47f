from dataclasses import dataclass

import pytest
import torch

from strop.limits import check_duration, check_numbers, check_sizes, use_threads


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    layers: int | None = 2
    units: int = 8
    batch: int = 8
    rate: float = 1.0
    name: str = "x"


@pytest.mark.parametrize(
    "possible", [{"seed": 2**63 - 1}, {"seed": -1}, {"layers": 1000}, {"layers": None}, {"batch": 2**31 - 1}]
)
def test_what_is_possible_passes(possible):
    check_numbers(Settings(**possible))


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
        check_numbers(Settings(rate=rate))
    check_sizes(Settings(rate=rate))
    bound = 1e38
    check_numbers(Settings(rate=bound))
    assert torch.empty(9).uniform_(-bound, bound).isfinite().all()


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
