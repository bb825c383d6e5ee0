"""Days of a gate: fresh by date, worse by what they say, and never another for the same seed."""

from datetime import date

import numpy as np
import pytest

from services.rl.evaluation.gate_days import (
    STRESS_WORLDS,
    at_speeds_of,
    fresh_days,
    gate_seeds,
    stressed,
)
from services.rl.evaluation.gate_play import play_days
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario, parse_scenario

GENEVA = load_scenario("geneva")
ON = date(2026, 3, 2)
WORLD = {world.name: world for world in STRESS_WORLDS}


@pytest.fixture(scope="module")
def days():
    return fresh_days(GENEVA, ON, 20)


def slower(scenario, factor):
    raw = scenario.model_dump(mode="json")
    raw["travel"]["speed_kmh"] = [v / factor for v in raw["travel"]["speed_kmh"]]
    return parse_scenario(raw, "slower")


def test_gate_days_lie_outside_of_all_splits_and_of_other_dates():
    first, next_day = gate_seeds(ON, 1_000), gate_seeds(date(2026, 3, 3), 1_000)
    assert first.min() >= 3_000_000
    assert not set(first.tolist()) & set(next_day.tolist())


def test_a_drawn_day_played_as_data_is_the_day_of_its_seed(days):
    engine = Engine(GENEVA, len(days))
    engine.start(gate_seeds(ON, len(days)))
    policy = make_policy("matching", GENEVA)
    policy.play(engine)
    rewards = [engine.kpis(e)["reward"] for e in range(len(days))]
    assert play_days(policy, GENEVA, days).of("reward") == pytest.approx(rewards)


def test_threads_and_batches_change_nothing(days):
    policy = make_policy("matching", GENEVA)
    many = days * 3
    once, twice = (play_days(policy, GENEVA, many, threads=n).sums for n in (1, 3))
    assert np.array_equal(once, twice)
    assert np.array_equal(once[:20], once[20:40])


def test_more_demand_is_about_a_third_more(days):
    worse = stressed(WORLD["demand"], days)
    ratio = sum(len(d.bookings) for d in worse) / sum(len(d.bookings) for d in days)
    assert ratio == pytest.approx(1.3, abs=0.03)


def test_one_vehicle_breaks_down_and_does_not_come_back(days):
    for day in stressed(WORLD["breakdown"], days):
        broken = np.isfinite(day.drivers["breakdown_min"])
        assert broken.sum() == 1
        assert np.isinf(day.drivers["repaired_min"][broken]).all()


def test_immediate_requests_double_and_are_known_only_when_they_come(days):
    for before, day in zip(days, stressed(WORLD["immediate"], days), strict=True):
        was, now = before.bookings["immediate"].sum(), day.bookings["immediate"].sum()
        assert now == min(2 * was, len(day.bookings))
        sudden = day.bookings[day.bookings["immediate"]]
        assert (sudden["created_min"] == sudden["promised_min"]).all()
        assert len(before.bookings) == len(day.bookings)


def test_each_world_is_worse_for_the_heuristic_and_leaves_the_days_as_they_were(days):
    policy = make_policy("matching", GENEVA)
    kept = [day.bookings.tobytes() for day in days]  # bytes: an unknown fare is NaN
    plain = play_days(policy, GENEVA, days)
    level = 100 * plain.of("served").sum() / plain.of("due").sum()
    for world in STRESS_WORLDS:
        found = play_days(policy, GENEVA, stressed(world, days))
        assert 100 * found.of("served").sum() / found.of("due").sum() < level, world.name
    assert [day.bookings.tobytes() for day in days] == kept


def test_the_same_days_are_worse_in_the_same_way(days):
    for world in STRESS_WORLDS:
        a, b = stressed(world, days), stressed(world, days)
        for x, y in zip(a, b, strict=True):
            assert x.bookings.tobytes() == y.bookings.tobytes()
            assert x.drivers.tobytes() == y.drivers.tobytes()


def test_slower_streets_found_lately_surprise_the_served_scenario(days):
    real = slower(GENEVA, 1.25)
    late = fresh_days(GENEVA, ON, 20, real)
    for before, day in zip(days, late, strict=True):
        assert day.bookings["trip_noise"] == pytest.approx(1.25 * before.bookings["trip_noise"])
    policy = make_policy("matching", GENEVA)
    assert (
        play_days(policy, GENEVA, late).of("on_time").sum()
        < play_days(policy, GENEVA, days).of("on_time").sum()
    )
    assert at_speeds_of(GENEVA, GENEVA, days[0]).bookings["trip_noise"] == pytest.approx(1.0)
