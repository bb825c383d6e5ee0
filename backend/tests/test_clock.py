"""Clocks are aware, UTC, and move only as told."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from clock import FixedClock, ScaledClock, SteppedClock, SystemClock
from services.rl.errors import UsageError

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def test_a_fixed_clock_stands_until_it_is_moved():
    clock = FixedClock(START.astimezone(timezone(timedelta(hours=1))))
    assert clock.now() == clock.now() == START
    assert clock.now().tzinfo is UTC
    assert clock.advance(minutes=5) == START + timedelta(minutes=5) == clock.now()
    clock.set(START)
    assert clock.now() == START


def test_a_stepped_clock_never_tells_the_same_moment_twice():
    clock = SteppedClock(START, step_s=2)
    assert [clock.now() for _ in range(3)] == [START + timedelta(seconds=2 * i) for i in range(3)]


def test_a_scaled_clock_runs_faster_than_the_machines():
    clock, machine = ScaledClock(START, 1e6), SystemClock()
    began = machine.now()
    while clock.now() - START < timedelta(minutes=30):
        pass
    assert machine.now() - began < timedelta(minutes=1)


@pytest.mark.parametrize("make", [FixedClock, SteppedClock, lambda start: ScaledClock(start, 1)])
def test_a_clock_refuses_a_naive_start(make):
    with pytest.raises(UsageError, match="no time zone"):
        make(datetime(2026, 3, 2))  # noqa: DTZ001


def test_a_clock_that_stands_or_runs_backwards_is_refused():
    with pytest.raises(UsageError, match="above 0"):
        ScaledClock(START, 0)
