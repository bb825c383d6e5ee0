"""The compiled rules against a plain-Python simulator written from the contract."""

import numpy as np
import pytest

from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

from ..policies.manhattan_reference import Car, greedy_minute, matching_minute, offer
from ..policies.manhattan_reference import play as play_reference
from .reference import ReferenceWorld
from .worlds import manhattan, random_action, small_with_shift_ends

NEAR_MIN = 1e-6  # where the reference's slack is smaller, rounding may decide


def compare_day(engine, scenario, day, seed, zones=None, wait_share=0.4):
    """Play a day with random valid actions in both worlds, comparing after every action."""
    rng = np.random.default_rng(seed)
    engine.start([day])
    reference = ReferenceWorld(scenario, engine.day(), zones)
    visible = engine.layout.max_bookings
    while not engine.ended():
        rows = engine.open_rows()
        assert sorted(rows.tolist()) == reference.open()
        mask = engine.out.mask[0]
        for d in range(engine.num_drivers):
            for i, b in enumerate(rows[:visible]):
                slack = reference.slack(d, int(b))
                if abs(slack) > NEAR_MIN:
                    assert mask[1 + d * visible + i] == (slack > 0)
        action = random_action(mask, rng, wait_share)
        out = engine.step(np.array([action]))
        if action == 0:
            expected = reference.wait()
            got = dict(zip(world.REWARD_TERMS, out.terms[0], strict=True))
            for name, value in expected.items():
                assert got[name] == pytest.approx(value, abs=1e-7), name
            assert out.reward[0] == pytest.approx(sum(expected.values()), abs=1e-7)
        else:
            d, i = divmod(action - 1, visible)
            reference.assign(d, int(rows[i]))
            assert out.reward[0] == 0.0
        assert engine.now_min() == pytest.approx(reference.now)
    assert reference.ended
    history = engine.history()
    assert {j.booking for j in reference.jobs} == set(np.flatnonzero(history["driver"] >= 0))
    for job in reference.jobs:
        row = history[job.booking]
        assert row["driver"] == job.driver
        for name, value in (
            ("assigned_min", job.committed_at),
            ("depart_min", job.depart),
            ("pickup_min", job.pickup),
            ("done_min", job.done),
            ("deadhead_km", job.empty_km),
            ("trip_km", job.trip_km),
        ):
            assert row[name] == pytest.approx(value, abs=1e-6), name
    kpis = engine.kpis()
    for name, value in reference.kpis().items():
        assert kpis[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", [3, 2_000_017])
def test_a_geneva_day_equals_the_plain_simulation(seed):
    scenario = load_scenario("geneva")
    compare_day(Engine(scenario, max_bookings=12), scenario, seed, seed)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_shifts_queues_and_odd_epochs_equal_the_plain_simulation(seed):
    scenario = small_with_shift_ends()
    compare_day(Engine(scenario, max_bookings=60), scenario, seed, seed, wait_share=0.6)


def test_a_day_of_zones_decided_each_minute_equals_the_plain_simulation(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    engine = Engine(scenario, max_bookings=6, days=days, source=source)
    zones = (source.tables.minutes, source.tables.km)
    for day in range(len(days)):
        compare_day(engine, scenario, day, day, zones, wait_share=0.1)


@pytest.mark.parametrize("policy", ["greedy", "matching"])
def test_manhattan_rules_agree_ride_by_ride(tmp_path, policy):
    scenario, source, days = manhattan(tmp_path, num_drivers=4)
    engine = Engine(scenario, days=days, source=source)
    decide = {"greedy": greedy_minute, "matching": matching_minute}[policy]
    rules, weights, tables = scenario.rules, scenario.reward, source.tables
    for k, day in enumerate(days):
        engine.start([k])
        while not engine.ended():
            minute = int(engine.now_min())
            drivers = engine.state().drivers
            cars = [
                Car(int(d["zone"]), int(d["free_at_min"]), [minute + 1] * int(d["committed"]))
                for d in drivers
            ]
            rows = sorted(engine.open_rows().tolist())
            for row in rows:
                for i, car in enumerate(cars):
                    possible = offer(
                        car, i, row, day.bookings[row], minute, tables, weights, rules.queue
                    )
                    assert engine.can_commit(0, i, row) == (possible is not None)
            if rows:
                for ride in decide(rows, day, cars, minute, tables, weights, rules.queue):
                    assert engine.commit(0, ride.car, ride.booking)
            engine.wait(0)
        rides, profit = play_reference(day, tables, rules, weights, policy)
        history = engine.history()
        served = np.flatnonzero(history["driver"] >= 0)
        assert set(served) == {ride.booking for ride in rides}
        for ride in rides:
            row = history[ride.booking]
            assert (row["driver"], row["assigned_min"]) == (ride.car, ride.accepted)
            assert (row["pickup_min"], row["dropoff_min"]) == (ride.pickup, ride.dropoff)
        assert engine.kpis()["reward"] == pytest.approx(profit)
