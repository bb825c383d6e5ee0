"""The fitted demand resembles what it was fitted to, and says when it does not."""

from dataclasses import replace

import numpy as np
import pytest

from services.rl.data.dataset import HistoryDays
from services.rl.data.demand_fit import fit_demand, overdispersion, regular_days
from services.rl.data.goodness import goodness_of_fit
from services.rl.data.sampling import sample_bookings
from services.rl.data.travel_fit import fit_travel
from services.rl.data.validation import great_circle
from services.rl.data.zones import find_zones
from services.rl.errors import DataError
from services.rl.simulation.scenarios import HaversineTravel, Split, load_scenario
from services.rl.simulation.types import DRIVER_DTYPE, Day

HORIZON = 480.0


def drawn_days(model, count: int, seed: int) -> list[Day]:
    rng = np.random.default_rng(seed)
    nobody = np.zeros(0, dtype=DRIVER_DTYPE)
    return [Day(f"d{i}", sample_bookings(model, rng), nobody) for i in range(count)]


@pytest.fixture(scope="module")
def truth():
    return load_scenario("geneva").demand_model()


@pytest.fixture(scope="module")
def fitted(truth):
    return fit_demand(drawn_days(truth, 60, seed=1), horizon_min=HORIZON)


def test_zones_find_the_places_they_were_drawn_from():
    rng = np.random.default_rng(0)
    lat, lon = np.array([46.18, 46.20, 46.23]), np.array([6.05, 6.15, 6.10])
    place = rng.integers(3, size=3000)
    found = find_zones(
        lat[place] + 0.2 / 111.195 * rng.standard_normal(3000),
        lon[place] + 0.2 / 77.0 * rng.standard_normal(3000),
        zones=3,
        seed=4,
    )
    order = np.argsort(found.lat)
    assert found.lat[order] == pytest.approx(lat, abs=0.001)
    assert found.lon[order] == pytest.approx(lon, abs=0.001)
    assert found.spread_km == pytest.approx([0.2] * 3, rel=0.1)
    assert (found.nearest(lat, lon)[[0, 1, 2]] == order).all()


def test_zones_are_fewer_where_there_are_fewer_places():
    assert len(find_zones(np.full(9, 46.2), np.full(9, 6.1), zones=5, seed=0).lat) == 1


def test_the_same_days_and_seed_give_the_same_model(truth):
    days = drawn_days(truth, 10, seed=5)
    one, two = (fit_demand(days, horizon_min=HORIZON, seed=2) for _ in range(2))
    for name, value in one.__dict__.items():
        assert np.array_equal(value, two.__dict__[name]), name


def test_the_fit_recovers_volume_kinds_and_times(truth, fitted):
    assert fitted.bookings_mean == pytest.approx(truth.bookings_mean, rel=0.05)
    assert fitted.bookings_cv == pytest.approx(truth.bookings_cv, abs=0.06)
    returns = fitted.stream_share[fitted.stream_is_return].sum()
    assert returns == pytest.approx(truth.stream_share[truth.stream_is_return].sum(), abs=0.03)
    for name in ("wheelchair_share", "immediate_share"):
        expected = float(truth.stream_share @ getattr(truth, name))
        assert float(fitted.stream_share @ getattr(fitted, name)) == pytest.approx(
            expected, abs=0.02
        )


def test_days_never_seen_are_like_days_drawn_from_the_fit(truth, fitted):
    verdicts = {c.aspect: c.verdict for c in goodness_of_fit(fitted, drawn_days(truth, 12, seed=2))}
    assert "differs" not in verdicts.values(), verdicts


@pytest.mark.parametrize(
    ("aspect", "distort"),
    [
        ("promised time (min)", lambda b: b["promised_min"].__imul__(0.6)),
        ("trip length (km)", lambda b: b["dropoff_lat"].__iadd__(0.05)),
        ("lead time of the pre-booked (min)", lambda b: b["created_min"].__isub__(600)),
        ("priorities", lambda b: b["priority"].__setitem__(slice(None), 5)),
        ("wheelchair", lambda b: b["wheelchair"].__setitem__(slice(None), True)),
        ("pairs of zones", lambda b: b["pickup_lon"].__iadd__(0.03)),
    ],
)
def test_a_distortion_is_noticed(truth, fitted, aspect, distort):
    days = drawn_days(truth, 12, seed=2)
    for day in days:
        distort(day.bookings)
    verdicts = {c.aspect: c.verdict for c in goodness_of_fit(fitted, days)}
    assert verdicts[aspect] == "differs"


def test_another_volume_is_noticed(truth, fitted):
    busier = replace(truth, bookings_mean=1.4 * truth.bookings_mean)
    comparisons = {c.aspect: c for c in goodness_of_fit(fitted, drawn_days(busier, 12, seed=2))}
    count = comparisons["bookings a day"]
    assert count.verdict == "differs"
    assert count.real / count.drawn == pytest.approx(1.4, rel=0.1)
    assert "a real difference" in count.sentence()


def test_a_pair_of_zones_never_seen_keeps_a_probability(fitted):
    assert (fitted.od_share > 0).all()
    assert fitted.od_share.sum(axis=(1, 2)) == pytest.approx(1.0)


def test_light_days_are_another_kind_of_day(truth):
    busy = drawn_days(truth, 10, seed=3)
    light = drawn_days(replace(truth, bookings_mean=20.0), 2, seed=4)
    assert [day.label for day in regular_days([*busy, *light])] == [day.label for day in busy]


def test_bookings_called_off_before_the_day_need_no_driver(truth):
    days = drawn_days(truth, 6, seed=3)
    total = sum(len(day.bookings) for day in days)
    for day in days:
        day.bookings["cancelled_min"][::2] = -60.0
        day.bookings["cancelled_min"][1::4] = 30.0  # during the day: it was planned for
    model = fit_demand(days, horizon_min=HORIZON)
    assert model.bookings_mean == pytest.approx(total / 12, rel=0.02)


def test_a_day_without_bookings_or_with_one_does_not_break_the_fit(truth):
    with pytest.raises(DataError, match="no booking"):
        fit_demand([], horizon_min=HORIZON)
    day = drawn_days(truth, 1, seed=3)[0]
    lone = Day("lone", day.bookings[:1], day.drivers)
    model = fit_demand([lone], horizon_min=HORIZON)
    assert (model.bookings_mean, model.bookings_cv) == (1.0, 0.0)


def test_counts_beyond_poisson_are_overdispersion():
    rng = np.random.default_rng(0)
    assert overdispersion(rng.poisson(80, 4000).astype(float)) < 0.03
    assert overdispersion(rng.poisson(80 * rng.gamma(25, 1 / 25, 4000)).astype(float)) == (
        pytest.approx(0.2, abs=0.02)
    )


def test_only_training_days_shape_the_fit(collected):
    history = collected.history
    for label in [*history.labels(Split.VALIDATION), *history.labels(Split.TEST)]:
        d = history.dates.index(label)
        span = slice(history.booking_offset[d], history.booking_offset[d + 1])
        assert span.stop > span.start
    again = fit_demand(history.days(Split.TRAIN), horizon_min=history.horizon_min)
    for name, value in again.__dict__.items():
        assert np.array_equal(value, collected.fit.model.__dict__[name]), name


def test_speeds_are_found_again(collected):
    """Drives at twice the speed of the profile give twice the speeds."""
    history = collected.history
    dates = list(history.labels(Split.TRAIN))
    default = load_scenario("geneva").travel
    assert isinstance(default, HaversineTravel)
    bookings, outcomes = history.bookings, history.outcomes.copy()
    km = default.circuity * great_circle(
        bookings["pickup_lat"],
        bookings["pickup_lon"],
        bookings["dropoff_lat"],
        bookings["dropoff_lon"],
    )
    hour = ((480 + outcomes["pickup_min"]) // 60).clip(0, 23)
    hour = np.where(np.isnan(hour), 12, hour).astype(int)
    drive = km / (2 * np.asarray(default.speed_kmh)[hour]) * 60
    outcomes["dropoff_min"] = outcomes["pickup_min"] + bookings["pickup_service_min"] + drive
    fast = fit_travel(
        HistoryDays(**{**history.__dict__, "outcomes": outcomes}), dates
    ).travel.speed_kmh
    for h in range(9, 16):
        assert fast[h] == pytest.approx(2 * default.speed_kmh[h], rel=0.08)


def test_without_recorded_drives_the_default_speeds_stay(collected):
    history = collected.history
    outcomes = history.outcomes.copy()
    outcomes["dropoff_min"] = np.nan
    fit = fit_travel(
        HistoryDays(**{**history.__dict__, "outcomes": outcomes}),
        list(history.labels(Split.TRAIN)),
    )
    assert fit.trips == 0
    assert fit.travel == load_scenario("geneva").travel
