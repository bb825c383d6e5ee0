"""Travel times and distances: what every solver and the engine rely on."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rl.simulation.compiled import allocating
from services.rl.simulation.travel import (
    TravelModel,
    arrive_min,
    depart_min,
    haversine_tables,
    matrix_tables,
)

SPEED = [38, 38, 38, 38, 38, 36, 32, 25, 24, 27, 29, 29, 28, 28, 29, 28, 25, 23, 25, 30, 33, 35]
SPEED += [37, 38]


@allocating
def _times(tables, start, km, forward):
    """Arrivals (or latest departures) of many drives at once."""
    result = np.empty_like(start)
    for i in range(start.size):
        if forward:
            result[i] = arrive_min(tables, start[i], km[i], 0, 0)
        else:
            result[i] = depart_min(tables, start[i], km[i], 0, 0)
    return result


def arrive(tables, depart, km):
    return _times(tables, np.array(depart, float), np.array(km, float), True)


def depart(tables, arrive, km):
    return _times(tables, np.array(arrive, float), np.array(km, float), False)


speeds = st.lists(st.floats(1, 200), min_size=24, max_size=24)
times = st.lists(st.floats(-2000, 4000), min_size=6, max_size=6)
small = settings(max_examples=60, deadline=None)


@small
@given(speeds, times, st.floats(0, 300), st.floats(0, 1439))
def test_leaving_later_never_arrives_earlier(speed, departures, km, day_start):
    tables = haversine_tables(1.35, speed, day_start)
    ordered = sorted(departures)
    arrivals = arrive(tables, ordered, [km] * len(ordered))
    assert (np.diff(arrivals) >= -1e-9).all()
    assert (arrivals >= np.array(ordered) - 1e-9).all()


@small
@given(speeds, times, st.floats(0, 300), st.floats(0, 1439))
def test_latest_departure_is_the_inverse_of_arrival(speed, start, km, day_start):
    tables = haversine_tables(1.35, speed, day_start)
    distance = [km] * len(start)
    there = arrive(tables, start, distance)
    np.testing.assert_allclose(depart(tables, there, distance), start, atol=1e-6)
    back = depart(tables, start, distance)
    np.testing.assert_allclose(arrive(tables, back, distance), start, atol=1e-6)


@small
@given(st.floats(-1000, 2000), st.floats(0, 100), st.floats(0, 100))
def test_a_drive_can_be_cut_in_two(start, first, second):
    tables = haversine_tables(1.35, SPEED, 480)
    halfway = arrive(tables, [start], [first])
    direct = arrive(tables, [start], [first + second])
    np.testing.assert_allclose(arrive(tables, halfway, [second]), direct, atol=1e-9)


def test_whole_hours_are_no_edge():
    tables = haversine_tables(1.0, SPEED, 480)
    hours = np.arange(-48.0, 96.0) * 60
    for nudge in (-1e-9, 0.0, 1e-9):
        start = hours + nudge
        there = arrive(tables, start, np.full(start.size, 12.0))
        np.testing.assert_allclose(
            depart(tables, there, np.full(start.size, 12.0)), start, atol=1e-6
        )
    still = arrive(tables, hours, np.zeros(hours.size))
    np.testing.assert_allclose(still, hours, atol=1e-9)


def test_an_unknown_distance_ends_the_search():
    """NaN must not drive for ever."""
    tables = haversine_tables(1.0, SPEED, 480)
    assert math.isnan(arrive(tables, [0.0], [math.nan])[0])
    assert math.isnan(depart(tables, [0.0], [math.nan])[0])


def test_a_zone_matrix_is_taken_at_its_word():
    minutes = np.array([[0.0, 4.0], [6.0, 0.0]])
    tables = matrix_tables(minutes, minutes / 2, 480)
    model = TravelModel(tables)
    km = model.km_matrix([0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 1])
    np.testing.assert_array_equal(km, minutes / 2)
    np.testing.assert_array_equal(model.minutes_matrix(7.0, km, [0, 1], [0, 1]), minutes)


places = st.lists(st.tuples(st.floats(-89, 89), st.floats(-180, 180)), min_size=3, max_size=3)
nearby = st.lists(st.tuples(st.floats(46.0, 46.4), st.floats(5.9, 6.4)), min_size=3, max_size=3)


def haversine_km(a, b):
    lat1, lon1, lat2, lon2 = map(math.radians, (*a, *b))
    h = (
        math.sin((lat2 - lat1) / 2) ** 2
        + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * 6371.0088 * math.asin(min(1.0, math.sqrt(h)))


@small
@given(st.one_of(places, nearby))
def test_great_circles_are_symmetric_and_keep_the_triangle_inequality(points):
    model = TravelModel(haversine_tables(1.0, SPEED, 480))
    lat, lon = np.array(points).T
    zone = np.zeros(3, dtype=np.int64)
    km = model.km_matrix(lat, lon, zone, lat, lon, zone)
    np.testing.assert_array_equal(km, km.T)
    for i in range(3):
        assert km[i, i] == 0.0
        for j in range(3):
            expected = haversine_km(points[i], points[j])
            # The chord loses digits near the antipode only.
            assert abs(km[i, j] - expected) <= 1e-9 * max(1.0, expected) + (expected > 19_000) * 0.5
            for k in range(3):
                assert km[i, j] <= km[i, k] + km[k, j] + 1e-6 + (km[i, j] > 19_000) * 0.5
