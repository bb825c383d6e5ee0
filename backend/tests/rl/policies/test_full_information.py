"""The full-information bound is a bound, and no looser than it must be."""

import dataclasses

import numpy as np
import pytest

from services.rl.data.manhattan import ManhattanDays
from services.rl.errors import PolicyError
from services.rl.policies.full_information import full_information_bound
from services.rl.simulation.scenarios import Split
from services.rl.simulation.travel import haversine_tables, matrix_tables
from services.rl.simulation.types import BOOKING_DTYPE, DRIVER_DTYPE, NEVER, Day
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder
from tests.rl.policies.manhattan_reference import play


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("manhattan") / "root", seed=11, train=41)


def two_zones(requests, cars, minutes=3):
    """A day of (minute, origin, destination, fare) requests between zones 3 min, 1 km apart."""
    bookings = np.zeros(len(requests), dtype=BOOKING_DTYPE)
    for row, (minute, origin, destination, fare) in zip(bookings, requests, strict=True):
        row["created_min"] = row["promised_min"] = minute
        row["window_end_min"] = minute + 5
        row["priority"], row["fare"], row["cancelled_min"] = 3, fare, NEVER
        row["pickup_zone"], row["dropoff_zone"] = origin, destination
    drivers = np.zeros(len(cars), dtype=DRIVER_DTYPE)
    drivers["zone"], drivers["shift_end_min"] = cars, 60
    apart = np.array([[0.0, 1.0], [1.0, 0.0]])
    return Day("two zones", bookings, drivers), matrix_tables(minutes * apart, apart, 480.0)


def bound(day, tables, scenario):
    return full_information_bound(day, tables, scenario.rules, scenario.reward)


def test_one_car_takes_the_better_of_two_rides_that_exclude_each_other():
    scenario = miniature_scenario()
    # Both at minute 0 from zone 0; after one ride the car is 3 min away and 1 km too far to gain.
    day, tables = two_zones([(0, 0, 1, 6.0), (0, 0, 1, 7.5)], cars=[0])
    result = bound(day, tables, scenario)
    assert result.value == pytest.approx(7.5 - 4.5)
    assert result.accepted == pytest.approx(1.0)


def test_a_ride_at_a_loss_is_taken_when_it_leads_to_a_better_one():
    scenario = miniature_scenario()
    day, tables = two_zones([(0, 0, 1, 4.0), (5, 1, 0, 9.0)], cars=[0])
    # -0.5 for the first, 4.5 for the second; driving empty to the second would gain nothing.
    assert bound(day, tables, scenario).value == pytest.approx(4.0)


def test_a_ride_may_begin_as_late_as_the_window_allows_and_no_later():
    scenario = miniature_scenario()
    # The first ride ends at minute 3 in zone 1; the second must be picked up by its minute + 5.
    for minute, worth in ((-2, 5.5 + 5.5), (-3, 5.5)):
        day, tables = two_zones([(0, 0, 1, 10.0), (minute, 1, 0, 10.0)], cars=[0])
        assert bound(day, tables, scenario).value == pytest.approx(worth)


@pytest.mark.parametrize("policy", ["greedy", "matching"])
@pytest.mark.parametrize("num_drivers", [1, 3, 6])
def test_no_policy_exceeds_it_on_random_days(root, policy, num_drivers):
    # Cheap kilometres, so that cars do drive empty.
    for reward in ({}, {"deadhead_per_km": 0.8, "loaded_per_km": 1.5}):
        scenario = miniature_scenario(num_drivers, **reward)
        days = ManhattanDays.open(root, scenario)
        for label in days.labels(Split.TRAIN)[:4]:
            day = days.day(label)
            rides, profit = play(day, days.tables, scenario.rules, scenario.reward, policy)
            result = bound(day, days.tables, scenario)
            assert rides and 0 < profit <= result.value + 1e-6
            assert result.accepted <= len(day.bookings) + 1e-6


def test_more_cars_never_lower_it_and_their_price_says_how_much_they_add(root):
    scenario = miniature_scenario(3, deadhead_per_km=0.8, loaded_per_km=1.5)
    days = ManhattanDays.open(root, scenario)
    day = days.day(days.labels(Split.TRAIN)[0])
    base = bound(day, days.tables, scenario)
    assert (base.zone_minute_value >= -1e-9).all()
    for zone in range(4):
        extra = np.zeros(1, dtype=DRIVER_DTYPE)
        extra["zone"], extra["shift_end_min"] = zone, 60
        more = dataclasses.replace(day, drivers=np.concatenate([day.drivers, extra]))
        gain = bound(more, days.tables, scenario).value - base.value
        # Concave in the number of cars: the price at today's fleet bounds the gain.
        assert -1e-6 <= gain <= base.zone_minute_value[zone, 0] + 1e-6


def test_an_empty_day_is_worth_nothing():
    day, tables = two_zones([], cars=[0])
    assert bound(day, tables, miniature_scenario()).value == 0.0


def test_what_the_network_cannot_represent_is_refused():
    scenario = miniature_scenario()
    day, tables = two_zones([(0, 0, 1, 6.0)], cars=[0], minutes=2.5)
    with pytest.raises(PolicyError, match="whole minutes"):
        bound(day, tables, scenario)
    with pytest.raises(PolicyError, match="between zones"):
        bound(day, haversine_tables(1.3, [30.0] * 24, 480.0), scenario)
    _, whole = two_zones([], cars=[0])
    day.bookings["fare"] = np.nan
    with pytest.raises(PolicyError, match="a fare for every booking"):
        bound(day, whole, scenario)
