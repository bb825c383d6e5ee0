"""The invented history is one that could have happened."""

from collections import defaultdict
from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from services.rl.data.sampling import sample_bookings
from services.rl.data.synthetic_history import synthesise_history
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import BOOKING_DTYPE


def test_the_same_seed_gives_the_same_history_and_another_seed_another():
    scenario = load_scenario("geneva_small")
    one, two, other = (
        synthesise_history(scenario, start=date(2025, 3, 3), days=5, seed=s) for s in (1, 1, 2)
    )
    assert one == two
    assert one.bookings != other.bookings


def test_no_driver_is_in_two_places(invented):
    bookings = {row["id"]: row for row in invented.bookings}
    trips = defaultdict(list)
    for row in invented.assignments:
        if row["actual_pickup_at"] is not None:
            trips[row["driver_id"]].append((row["actual_pickup_at"], row["actual_dropoff_at"], row))
    assert len(trips) >= 10
    for of_driver in trips.values():
        of_driver.sort(key=lambda trip: trip[0])
        for (_, dropped, _), (picked, _, _) in pairwise(of_driver):
            assert dropped <= picked
    for row in invented.assignments:
        booking = bookings[row["booking_id"]]
        assert booking["created_at"] <= row["assigned_at"]
        if row["actual_pickup_at"] is not None:
            assert row["assigned_at"] <= row["actual_pickup_at"] < row["actual_dropoff_at"]
            assert booking["scheduled_time"] <= row["actual_pickup_at"]


def test_wheelchairs_and_emergencies_get_the_right_driver(invented):
    bookings = {row["id"]: row for row in invented.bookings}
    drivers = {row["id"]: row for row in invented.drivers}
    for row in invented.assignments:
        booking, driver = bookings[row["booking_id"]], drivers[row["driver_id"]]
        assert driver["is_active"]
        assert driver["wheelchair_vehicle"] or not booking["wheelchair_need"]
        assert driver["driver_type"] == "REGULAR" or booking["priority"] >= 4


def test_days_differ_by_weekday_and_some_bookings_fail(invented):
    by_weekday = defaultdict(int)
    status = defaultdict(int)
    for row in invented.bookings:
        by_weekday[row["scheduled_time"].weekday()] += 1
        status[row["status"]] += 1
    assert 6 not in by_weekday
    assert by_weekday[5] < 0.5 * by_weekday[0]
    assert status["COMPLETED"] > 9 * status["UNASSIGNED"] > 0
    assert status["CANCELED"] > 0


def test_a_scenario_with_zone_travel_is_refused():
    with pytest.raises(UsageError, match="zone travel"):
        synthesise_history(load_scenario("manhattan_11"), start=date(2025, 3, 3), days=5, seed=1)


def test_sampled_bookings_follow_the_model():
    model = load_scenario("geneva").demand_model()
    rng = np.random.default_rng(0)
    days = [sample_bookings(model, rng) for _ in range(400)]
    counts = np.array([len(day) for day in days])
    assert counts.mean() == pytest.approx(model.bookings_mean, rel=0.03)
    expected_sd = np.sqrt(model.bookings_mean + (model.bookings_cv * model.bookings_mean) ** 2)
    assert counts.std() == pytest.approx(expected_sd, rel=0.15)
    bookings = np.concatenate(days)
    assert bookings.dtype == BOOKING_DTYPE
    share = float(model.stream_share @ model.wheelchair_share)
    assert bookings["wheelchair"].mean() == pytest.approx(share, abs=0.01)
    assert bookings["promised_min"].min() >= model.time_edges_min[0]
    assert bookings["promised_min"].max() <= model.time_edges_min[-1]
    now = bookings["immediate"]
    assert (bookings["created_min"][now] == bookings["promised_min"][now]).all()
    assert (bookings["created_min"][~now] < bookings["promised_min"][~now]).all()


def test_no_demand_is_an_empty_day():
    model = load_scenario("geneva").demand_model()
    assert len(sample_bookings(model, np.random.default_rng(0), volume=0.0)) == 0
