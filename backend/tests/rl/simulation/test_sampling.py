"""Drawn days follow their demand model. Seeds are fixed; the margins are four standard errors."""

import numpy as np
import pytest

from services.rl.simulation import world
from services.rl.simulation.demand import QUANTILES
from services.rl.simulation.engine import Engine
from services.rl.simulation.sampling import draw_days, max_bookings
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import NEVER

from .worlds import changed, disturbed

DAYS = 1500


@pytest.fixture(scope="module")
def drawn():
    scenario = load_scenario("geneva")
    return scenario, draw(scenario, DAYS)


def draw(scenario, days, first=0, batch=100):
    """Bookings of many days, one table per day."""
    engine = Engine(scenario, batch)
    tables = []
    for start in range(first, first + days, batch):
        engine.start(np.arange(start, start + batch))
        tables += [engine.day(e).bookings for e in range(batch)]
    return tables


def share_is(observed, expected, n):
    assert abs(observed - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 1e-9) / n)


def test_the_number_of_bookings(drawn):
    scenario, days = drawn
    model = scenario.demand_model()
    counts = np.array([len(day) for day in days])
    variance = model.bookings_mean + (model.bookings_cv * model.bookings_mean) ** 2
    assert abs(counts.mean() - model.bookings_mean) <= 4 * np.sqrt(variance / DAYS)
    assert counts.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / DAYS))
    assert counts.max() < max_bookings(model)


def test_without_variation_days_are_poisson():
    days = draw(changed("geneva_small", demand={"bookings_cv": 0}), 800)
    counts = np.array([len(day) for day in days])
    assert abs(counts.mean() - 26) <= 4 * np.sqrt(26 / 800)
    assert counts.var() == pytest.approx(26, rel=4 * np.sqrt(2 / 800))


def test_promised_times_follow_the_hours(drawn):
    scenario, days = drawn
    model, all_ = scenario.demand_model(), np.concatenate(days)
    expected = model.stream_share @ model.time_share
    observed, _ = np.histogram(all_["promised_min"], model.time_edges_min)
    assert observed.sum() == len(all_)
    for got, share in zip(observed / len(all_), expected, strict=True):
        share_is(got, share, len(all_))


def test_priorities_wheelchairs_and_returns_follow_their_streams(drawn):
    scenario, days = drawn
    model, all_ = scenario.demand_model(), np.concatenate(days)
    n = len(all_)
    for p in range(5):
        expected = float(model.stream_share @ model.priority_share[:, p])
        share_is((all_["priority"] == p + 1).mean(), expected, n)
    share_is(all_["wheelchair"].mean(), float(model.stream_share @ model.wheelchair_share), n)
    share_is(all_["immediate"].mean(), float(model.stream_share @ model.immediate_share), n)
    returns = all_["is_return"]
    back = model.stream_is_return
    share_is(returns.mean(), float(model.stream_share[back].sum()), n)
    among = float(model.wheelchair_share[back] @ model.stream_share[back]) / float(
        model.stream_share[back].sum()
    )
    share_is(all_["wheelchair"][returns].mean(), among, int(returns.sum()))


def test_lead_and_service_times_follow_their_quantiles(drawn):
    scenario, days = drawn
    model, all_ = scenario.demand_model(), np.concatenate(days)
    outbound = all_["is_return"]  # one stream only is of returns
    s = int(np.flatnonzero(model.stream_is_return)[0])
    lead = (all_["promised_min"] - all_["created_min"])[outbound & ~all_["immediate"]]
    service = all_["pickup_service_min"][outbound]
    for values, table in (
        (lead, model.lead_quantiles_min[s]),
        (service, model.pickup_service_quantiles_min[s]),
    ):
        for q in (4, 8, 12):
            below = (values <= table[q]).mean()
            share_is(below, q / (QUANTILES - 1), len(values))
        assert values.min() >= table[0] - 1e-9
        assert values.max() <= table[-1] + 1e-9


def test_origins_and_destinations_follow_their_shares(drawn):
    scenario, days = drawn
    model, all_ = scenario.demand_model(), np.concatenate(days)
    # Sites closer than their addresses scatter cannot be told apart: only remote ones are counted.
    for site in ("Hôpital de Bellerive", "Versoix"):
        k = model.site_name.index(site)
        near = _km(all_["pickup_lat"], all_["pickup_lon"], model, k) < 1.6
        others = [
            j for j in range(len(model.site_name))
            if j != k and _km(model.site_lat[j], model.site_lon[j], model, k) < 3.0
        ]  # fmt: skip
        expected = sum(
            float(model.stream_share @ model.od_share[:, j, :].sum(axis=1))
            for j in (k, *[j for j in others if site == "Versoix"])
        )
        if site == "Versoix" or not others:
            share_is(near.mean(), expected, len(all_))


def _km(lat, lon, model, k):
    north = (lat - model.site_lat[k]) * 111.195
    east = (lon - model.site_lon[k]) * 111.195 * np.cos(np.radians(model.site_lat[k]))
    return np.hypot(north, east)


def test_every_drawn_day_is_well_formed(drawn):
    window = drawn[0].rules.window_min
    for day in drawn[1][:300]:
        assert (day["created_min"] <= day["promised_min"]).all()
        assert (np.diff(day["created_min"]) >= 0).all()
        assert (day["immediate"] == (day["created_min"] == day["promised_min"])).all()
        assert (day["window_end_min"] == day["promised_min"] + window).all()
        assert np.isin(day["priority"], [1, 2, 3, 4, 5]).all()
        assert (day["pickup_service_min"] >= 0).all()
        assert np.isnan(day["fare"]).all()
        assert (day["cancelled_min"] == NEVER).all()
        assert (day["deadhead_noise"] == 1).all()


def test_disturbances_come_as_often_as_they_should():
    scenario = disturbed()
    engine = Engine(scenario, 100)
    bookings, drivers = [], []
    for start in range(0, 600, 100):
        engine.start(np.arange(start, start + 100))
        for e in range(100):
            day = engine.day(e)
            bookings.append(day.bookings)
            drivers.append(day.drivers)
    all_, fleet = np.concatenate(bookings), np.concatenate(drivers)
    n, chance = len(all_), scenario.disturbances
    share_is(all_["no_show"].mean(), chance.no_show_share, n)
    off = np.isfinite(all_["cancelled_min"])
    share_is(off.mean(), chance.late_cancellation_share, n)
    called_off = all_[off]
    assert (called_off["cancelled_min"] >= called_off["created_min"]).all()
    assert (called_off["cancelled_min"] <= called_off["promised_min"]).all()
    broken = np.isfinite(fleet["breakdown_min"])
    share_is(broken.mean(), chance.breakdowns_per_driver_day, len(fleet))
    assert (fleet["breakdown_min"][broken] >= fleet["shift_start_min"][broken]).all()
    assert (fleet["breakdown_min"][broken] <= fleet["shift_end_min"][broken]).all()
    noise = all_["deadhead_noise"]
    cv = chance.travel_noise_cv
    assert abs(noise.mean() - 1) <= 4 * cv / np.sqrt(n)
    assert noise.std() == pytest.approx(cv, rel=0.05)
    assert abs(np.corrcoef(noise, all_["trip_noise"])[0, 1]) < 4 / np.sqrt(n)


def test_neighbouring_seeds_are_independent(drawn):
    counts = np.array([len(day) for day in drawn[1]], dtype=float)
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 4 / np.sqrt(len(counts))


def test_histories_are_drawn_by_the_sampler_that_training_uses():
    scenario = load_scenario("geneva")
    engine = Engine(scenario, 3)
    engine.start([4, 5, 6])
    counts, floats, ints = draw_days(
        scenario.demand_model(), np.array([4, 5, 6]), window_min=scenario.rules.window_min
    )
    for e in range(3):
        day = engine.day(e).bookings
        assert counts[e] == len(day)
        np.testing.assert_array_equal(floats[e, : counts[e], world.PROMISED], day["promised_min"])
        np.testing.assert_array_equal(floats[e, : counts[e], world.D_LAT], day["dropoff_lat"])
        np.testing.assert_array_equal(ints[e, : counts[e], world.PRIORITY], day["priority"])


def test_volume_scales_the_number_of_bookings():
    model = load_scenario("geneva").demand_model()
    full, half = (
        draw_days(model, np.arange(400), window_min=30.0, volume=v)[0].mean() for v in (1.0, 0.5)
    )
    assert half == pytest.approx(full / 2, rel=0.05)
    assert draw_days(model, np.arange(5), window_min=30.0, volume=0.0)[0].sum() == 0
