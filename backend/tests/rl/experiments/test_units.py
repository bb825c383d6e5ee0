"""Units, buckets and arms: sticky, balanced, aligned to the clock."""

import hashlib
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from services.rl.ab_dispatcher import ExperimentConfig, ExperimentError, MemoryUnits, arm_of, bucket
from services.rl.experiments.config import RL
from services.rl.experiments.units import arms_of, booking_zone, grid_zone, unit_ends_at, unit_of
from services.rl.simulation.scenarios import load_scenario

from .fleets import AT, SCENARIO, busy_state

NAMES = st.text(min_size=1, max_size=20)


@given(NAMES, st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_change_of_split_never_moves_a_known_unit(unit, shares):
    store = MemoryUnits()
    arms = {arm_of(ExperimentConfig(rl_share=share), unit, store, AT).arm for share in shares}
    assert len(arms) == 1


@given(NAMES, NAMES, NAMES)
def test_a_bucket_depends_on_salt_experiment_and_unit_alone(salt, experiment, unit):
    assert bucket(salt, experiment, unit) == bucket(salt, experiment, unit)
    assert 0 <= bucket(salt, experiment, unit) < 10_000


def test_the_bucket_is_the_documented_hash():
    digest = hashlib.sha256(b"amtr:x:booking:1").hexdigest()
    assert bucket("amtr", "x", "booking:1") == int(digest, 16) % 10_000


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_split_is_kept_within_exact_binomial_bounds(share):
    config = ExperimentConfig(rl_share=share)
    units = [f"booking:{i}" for i in range(20_000)]
    learned = sum(row.arm == RL for row in arms_of(config, units, MemoryUnits(), AT).values())
    low, high = stats.binom.ppf([0.0005, 0.9995], 20_000, share)
    assert low <= learned <= high


def test_experiments_split_independently_of_each_other():
    units = [f"booking:{i}" for i in range(20_000)]
    one, other = (
        arms_of(ExperimentConfig(name=name), units, MemoryUnits(), AT) for name in ("one", "other")
    )
    same = sum(one[u].arm == other[u].arm for u in units)
    low, high = stats.binom.ppf([0.0005, 0.9995], 20_000, 0.5)
    assert low <= same <= high


@pytest.mark.parametrize(("share", "arms"), [(0.0, {"heuristic"}), (1.0, {"rl"})])
def test_shares_of_nothing_and_all_leave_no_exception(share, arms):
    units = [str(i) for i in range(2_000)]
    rows = arms_of(ExperimentConfig(rl_share=share), units, MemoryUnits(), AT)
    assert {row.arm for row in rows.values()} == arms


def test_the_first_writer_wins_when_processes_race_with_different_splits():
    store = MemoryUnits()
    seen, barrier = [], threading.Barrier(8)

    def race(share):
        barrier.wait()
        seen.append(arm_of(ExperimentConfig(rl_share=share), "booking:1", store, AT).arm)

    threads = [threading.Thread(target=race, args=(i % 2,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1 and len(seen) == 8 and len(store) == 1


def switchback(at, company=7, zone="0.0", block_min=30):
    config = ExperimentConfig(unit="switchback", block_min=block_min)
    return unit_of(config, booking_id="b", company_id=company, zone=zone, at=at)


def test_a_switchback_block_begins_on_its_boundary_and_ends_before_the_next():
    start = datetime(2026, 3, 2, 8, 30, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    assert switchback(start) == switchback(start + timedelta(minutes=30) - tick)
    assert switchback(start) != switchback(start - tick)
    assert switchback(start) != switchback(start + timedelta(minutes=30))
    config = ExperimentConfig(unit="switchback", block_min=30)
    assert unit_ends_at(config, switchback(start)) == start + timedelta(minutes=30)


def test_a_block_is_the_same_instant_in_every_time_zone():
    zone = timezone(timedelta(hours=2))
    assert switchback(datetime(2026, 3, 2, 10, 45, tzinfo=zone)) == switchback(
        datetime(2026, 3, 2, 8, 45, tzinfo=UTC)
    )


def test_zones_and_companies_have_switchback_units_of_their_own():
    assert len({switchback(AT), switchback(AT, company=8), switchback(AT, zone="0.1")}) == 3


@given(
    st.integers(0, 2_000_000_000),
    st.sampled_from([1, 5, 15, 30, 60, 120, 480, 1440]),
)
def test_every_time_lies_in_its_block(second, block_min):
    at = datetime.fromtimestamp(second, UTC)
    config = ExperimentConfig(unit="switchback", block_min=block_min)
    end = unit_ends_at(config, switchback(at, block_min=block_min))
    assert end - timedelta(minutes=block_min) <= at < end


def test_wrong_units_are_named():
    with pytest.raises(ExperimentError, match="does not divide"):
        ExperimentConfig().changed(block_min=7)
    with pytest.raises(ExperimentError, match="no time zone"):
        switchback(datetime(2026, 3, 2, 8, 30))  # noqa: DTZ001
    with pytest.raises(ExperimentError, match="company's id"):
        switchback(AT, company=None)
    with pytest.raises(ExperimentError, match="rl_share"):
        ExperimentConfig().changed(rl_share=1.5)
    with pytest.raises(ExperimentError, match="epsilon"):
        ExperimentConfig().changed(epsilon=float("nan"))


@settings(max_examples=50)
@given(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_the_base_lies_in_the_middle_of_its_zone(north, east):
    base = (46.2, 6.15)
    assert grid_zone(base[0] + north, base[1] + east, base, 25.0) == "0.0"
    assert grid_zone(base[0] + 0.2, base[1], base, 25.0) == "1.0"


def test_a_scenario_that_travels_by_zones_uses_them_and_others_the_grid():
    state = busy_state()
    bookings = state.bookings.copy()
    bookings["pickup_zone"][0] = 7
    state = replace(state, bookings=bookings)
    assert booking_zone(state, 0, SCENARIO, 25.0).count(".") == 1
    assert booking_zone(state, 0, load_scenario("manhattan_11"), 25.0) == "7"
