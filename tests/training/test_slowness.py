import pytest

from strop.training.slowness import SlowSteps


def test_steps_that_take_many_times_the_usual_are_counted_and_told_of_now_and_then():
    slow = SlowSteps()
    told = [slow.observe(0.1) for _ in range(64)]
    assert told == [None] * 64
    assert slow.lost == 0
    told = [message for _ in range(30) if (message := slow.observe(1.1)) is not None]
    assert slow.lost == pytest.approx(30.0)
    assert len(told) == 2  # after 10 s, and when as much again was lost
    assert "10 s lost in steps that took more than 4 times the usual 100 ms" in told[0]
    assert "--threads 1" in told[0]


def test_sequences_of_different_lengths_are_not_slow():
    slow = SlowSteps()
    assert all(slow.observe(0.1 * (1 + step % 3)) is None for step in range(500))
    assert slow.lost == 0
