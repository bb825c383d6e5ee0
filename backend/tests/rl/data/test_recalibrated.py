"""The simulator follows recent days: how fast, and what it falls back on."""

import numpy as np
import pytest

from services.rl.data.recalibrated import (
    PRIOR_DAYS,
    REPLAYED_DAYS,
    Simulator,
    blended,
    recalibrated,
)
from services.rl.data.sampling import sample_days
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from tests.learning.histories import busier, drawn

GENEVA = load_scenario("geneva")
MOVED = {"Centre de dialyse Onex": {"lat": 46.27, "lon": 6.13, "weight": 4.0}}
BUSIER = busier(GENEVA, 1.3, MOVED)


def near_the_new_place(simulator: Simulator) -> float:
    """Percent of trips' ends of the training scenario within 500 m of where the clinic is now."""
    bookings, _ = sample_days(
        simulator.training_scenario.demand_model(), np.random.default_rng(5), 100
    )
    near = [
        np.hypot(bookings[f"{end}_lat"] - 46.27, 0.69 * (bookings[f"{end}_lon"] - 6.13)) < 0.0045
        for end in ("pickup", "dropoff")
    ]
    return 100.0 * float(np.mean(near))


def test_the_served_world_stays_and_only_demand_is_new(tmp_path):
    simulator = recalibrated(GENEVA, drawn(GENEVA, 10, 1), tmp_path)
    trained, served = simulator.training_scenario, simulator.scenario
    assert served is GENEVA
    assert trained.sha256 != served.sha256
    for part in ("place", "travel", "fleet", "rules", "reward", "disturbances", "name"):
        assert getattr(trained, part) == getattr(served, part)
    assert simulator.expected_demand == tmp_path / "demand.npz"
    Engine(trained, 2).start([1, 2])


def test_a_moved_clinic_and_a_new_level_show_within_three_days(tmp_path):
    before = drawn(GENEVA, 14, 1)
    after = drawn(BUSIER, 5, 2)
    truth = near_the_new_place(Simulator(GENEVA, BUSIER))
    assert truth > 4.0
    quiet = recalibrated(GENEVA, before, tmp_path / "0")
    third = recalibrated(GENEVA, [*before, *after[:3]], tmp_path / "3")
    fifth = recalibrated(GENEVA, [*before, *after], tmp_path / "5")
    assert near_the_new_place(quiet) < 0.2 * truth
    assert near_the_new_place(third) > 0.6 * truth
    assert near_the_new_place(fifth) > 0.6 * truth
    counts = [len(day.bookings) for day in after]
    assert third.training_scenario.demand_model().bookings_mean == pytest.approx(
        np.mean(counts[:3]), rel=0.15
    )
    assert third.changes["half_life_days"] < quiet.changes["half_life_days"] / 1.9
    elsewhere = next(p for p in third.changes["places"] if p["place"] == "elsewhere")
    assert elsewhere["middle"] == pytest.approx([46.27, 6.13], abs=0.01)
    assert elsewhere["now_percent"] > 2.0 > elsewhere["then_percent"]


def test_few_days_are_blended_with_the_served_demand(tmp_path):
    one = recalibrated(GENEVA, drawn(BUSIER, 1, 3), tmp_path / "1")
    many = recalibrated(GENEVA, drawn(BUSIER, 20, 3), tmp_path / "20")
    assert one.changes["served_share"] == pytest.approx(PRIOR_DAYS / (1 + PRIOR_DAYS), abs=1e-3)
    assert many.changes["served_share"] < 0.1
    assert len(many.days) == REPLAYED_DAYS


def test_without_days_the_served_demand_is_all_there_is(tmp_path):
    for days in ([], drawn(busier(GENEVA, 0.05, {}), 2, 4)):
        simulator = recalibrated(GENEVA, days, tmp_path)
        assert simulator.training_scenario is GENEVA
        assert simulator.expected_demand is None
        assert not simulator.changes["fitted"]
        assert simulator.changes["why"]


def test_a_light_day_is_no_fall_in_demand(tmp_path):
    days = drawn(GENEVA, 6, 1)
    light = drawn(busier(GENEVA, 0.2, {}), 1, 2)
    simulator = recalibrated(GENEVA, [*days, *light], tmp_path)
    assert simulator.changes["days"] == [day.label for day in days]


def test_recalibrating_twice_gives_the_same_demand(tmp_path):
    days = drawn(GENEVA, 4, 1)
    first, second = (recalibrated(GENEVA, days, tmp_path / name) for name in "ab")
    assert first.demand_sha256 == second.demand_sha256
    assert first.training_scenario.sha256 == second.training_scenario.sha256


def test_a_mixture_draws_from_both_in_their_shares():
    a, b = GENEVA.demand_model(), BUSIER.demand_model()
    mixed = blended(a, b, 0.25)
    assert mixed.bookings_mean == pytest.approx(0.25 * a.bookings_mean + 0.75 * b.bookings_mean)
    assert mixed.stream_share[: len(a.stream_name)].sum() == pytest.approx(0.25)
    bookings, _ = sample_days(mixed, np.random.default_rng(1), 200)
    bookings_b, _ = sample_days(b, np.random.default_rng(2), 200)
    bookings_a, _ = sample_days(a, np.random.default_rng(3), 200)

    def mean(name):
        return [float(t[name].mean()) for t in (bookings, bookings_a, bookings_b)]

    for name in ("promised_min", "wheelchair", "pickup_service_min", "pickup_lat"):
        got, of_a, of_b = mean(name)
        assert got == pytest.approx(0.25 * of_a + 0.75 * of_b, rel=0.02)
    assert blended(a, b, 0.0) is b
