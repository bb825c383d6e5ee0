"""Days and calls at the edge of what is allowed, and just beyond."""

import numpy as np
import pytest

from services.rl.errors import DataError, ScenarioError, StateError, UsageError
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import BookingStatus

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from .worlds import changed, manhattan, play_random


def one_day(bookings, drivers, scenario=None, **options):
    engine = Engine(
        scenario or even_scenario(), days=[day_of(bookings, drivers)], record_events=True, **options
    )
    engine.start([0])
    return engine


def finish(engine):
    while not engine.wait(0):
        pass
    return engine.kpis()


# --- small, large, empty -------------------------------------------------------------------------


def test_a_day_without_bookings_only_passes():
    engine = Engine(changed("geneva_small", demand={"bookings_per_day": 0}), observation="full")
    play = play_random(engine, 1)
    assert len(play.steps) == engine.scenario.num_epochs
    assert play.actions == [0] * len(play.steps)
    assert engine.state().bookings.size == 0
    assert np.isfinite(engine.out.observation).all()


def test_real_days_may_be_empty_beside_full_ones():
    full = day_of([booking(60, 1, 2)], [driver()])
    empty = type(full)("empty", full.bookings[:0], full.drivers)
    engine = Engine(even_scenario(), days=[empty, full])
    engine.start([0])
    assert finish(engine)["bookings_due"] == 0
    engine.start([1])
    assert finish(engine)["bookings_due"] == 1
    only = Engine(even_scenario(), days=[empty])
    only.start([0])
    assert finish(only)["completion_pct"] == 100.0


def test_one_driver_and_one_booking():
    engine = one_day([booking(60, 1, 3)], [driver()], max_bookings=1, observation="full")
    assert engine.out.mask[0].tolist() == [1, 1]
    assert engine.step(np.array([1])).reward[0] == 0.0
    kpis = finish(engine)
    assert kpis["completed"] == 1
    assert kpis["reward"] == pytest.approx(10 - 0.5 * 1, rel=1e-4)


def test_two_thousand_drivers():
    engine = Engine(changed("geneva", fleet={"num_drivers": 2000}), observation="full")
    engine.start([1])
    assert engine.out.mask.shape == (1, 2000 * 20 + 1)
    rng, served = np.random.default_rng(0), 0
    while not engine.ended():
        for row in engine.open_rows():
            served += engine.commit(0, int(rng.integers(2000)), int(row))
        engine.wait(0)
    kpis = engine.kpis()
    assert served == kpis["completed"] > 0
    assert 0.9 < kpis["workload_gini"] < 1


@pytest.mark.parametrize("queue", [0, 3])
def test_a_full_queue_masks_the_driver(queue):
    rows = [booking(60 + 20 * i, 1, 1.1) for i in range(6)]
    engine = one_day(rows, [driver()], even_scenario(queue=queue))
    taken = [engine.commit(0, 0, b) for b in range(6)]
    assert taken == [True] * (queue + 1) + [False] * (5 - queue)
    assert engine.state().drivers["committed"][0] == queue + 1
    kpis = finish(engine)
    assert kpis["completed"] == queue + 1


# --- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "horizon"), [(7, 480), (0.1, 24), (0.1, 480), (1 / 3, 60), (50, 49), (5, 480)]
)
def test_any_epoch_ends_the_day_on_the_horizon(epoch, horizon):
    scenario = changed(
        "geneva", rules={"epoch_min": epoch, "horizon_min": horizon}, fleet={"patterns": [{}]}
    )
    engine = one_day([booking(5, 1, 2)], [driver(end=horizon)], scenario)
    waits = 1
    while not engine.wait(0):
        waits += 1
    assert engine.now_min() == horizon
    assert waits == scenario.num_epochs


def test_a_window_of_no_width_is_met_to_the_minute():
    engine = one_day(
        [booking(60, 5, 6, window=0.0)], [driver()], even_scenario(window_min=0, grace_min=0)
    )
    while engine.now_min() < 45:  # ten minutes away, at 30 km/h
        engine.wait(0)
    assert engine.can_commit(0, 0, 0)
    while engine.now_min() < 55:
        engine.wait(0)
    assert not engine.can_commit(0, 0, 0)
    engine.start([0])
    engine.commit(0, 0, 0)
    kpis = finish(engine)
    assert kpis["on_time_pct"] == 100.0
    assert engine.reward_terms()["lateness"] == pytest.approx(0.0, abs=1e-9)


def test_a_shift_that_starts_after_the_horizon_serves_only_what_comes_then():
    rows = [booking(470, 0.5, 1), booking(505, 0.5, 1)]
    engine = one_day(rows, [driver(start=500, end=600)], even_scenario())
    assert engine.can_commit(0, 0, 0) and engine.can_commit(0, 0, 1)  # 470 + 30 + 15 > 501
    assert engine.commit(0, 0, 1)
    kpis = finish(engine)
    assert engine.history()["pickup_min"][1] >= 500
    assert kpis["completed"] == 1


def test_a_booking_created_after_the_last_epoch_is_lost_once():
    engine = one_day([booking(490, 1, 2, created=477.0)], [driver()])
    kpis = finish(engine)
    assert kpis["unserved"] == kpis["bookings_due"] == 1
    assert kpis["reward"] == -10.0
    assert [e["kind"] for e in engine.events()] == ["unserved"]


def test_a_booking_promised_before_it_was_created_can_still_be_served():
    """The wait counts from the promise, the lateness from the window's end."""
    engine = one_day([booking(100, 1, 2, created=112.0)], [driver()])
    while engine.now_min() < 115:
        engine.wait(0)
    assert engine.commit(0, 0, 0)
    kpis = finish(engine)
    assert kpis["wait_mean_min"] == pytest.approx(17, abs=0.01)
    assert engine.history()["pickup_min"][0] == pytest.approx(117, abs=0.01)


def test_a_booking_created_after_its_own_grace_is_lost_in_order():
    engine = one_day([booking(20, 1, 2, created=100.0)], [driver()])
    kpis = finish(engine)
    assert kpis["unserved"] == 1
    (event,) = engine.events()
    assert event["kind"] == "unserved"
    assert event["time_min"] >= 100.0


def test_a_whole_day_across_midnight():
    scenario = changed(
        "geneva",
        rules={"day_start": "23:00", "horizon_min": 1440},
        fleet={"patterns": [{"wheelchair": True}]},
    )
    engine = Engine(scenario, observation="full")
    play_random(engine, 3)
    kpis = engine.kpis()
    assert kpis["completed"] > 0.5 * kpis["bookings_due"]
    assert np.isfinite(engine.out.observation).all()


# --- space -----------------------------------------------------------------------------------


def test_bookings_at_the_same_place_and_instant_are_served_one_after_the_other():
    rows = [booking(60, 1, 1, pickup_service_min=2.0) for _ in range(3)]
    engine = one_day(rows, [driver(1.0)], even_scenario(queue=2))
    assert engine.open_rows().tolist() == [0, 1, 2]
    assert all(engine.commit(0, 0, b) for b in range(3))
    finish(engine)
    np.testing.assert_allclose(engine.history()["pickup_min"], [60, 62, 64], atol=1e-6)
    assert engine.kpis()["total_km"] == pytest.approx(0.0, abs=1e-6)


def test_the_other_end_of_the_world_is_out_of_reach_but_no_trap():
    far = booking(100, 1, 2)
    far["pickup_lat"], far["pickup_lon"] = -46.2, -173.85
    engine = one_day([far, booking(60, 1, 2)], [driver()], observation="full")
    assert not engine.can_commit(0, 0, 0) or not engine.can_commit(0, 0, 1)
    assert np.isfinite(engine.out.observation).all()
    kpis = finish(engine)
    assert kpis["unserved"] == 2


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pickup_lat", np.nan, "booking 1: pickup_lat is nan"),
        ("dropoff_lon", np.inf, "booking 1: dropoff_lon is inf"),
        ("promised_min", np.nan, "booking 1: promised_min is nan"),
        ("priority", 0, "booking 1: priority is 0, expected 1..5"),
        ("priority", 9, "booking 1: priority is 9"),
        ("pickup_service_min", -1.0, "booking 1: pickup_service_min is -1.0"),
        ("trip_noise", np.nan, "booking 1: trip_noise is nan"),
        ("fare", np.inf, "a fare is infinite"),
        ("window_end_min", 10.0, "booking 1: its window ends before the promised time"),
        ("created_min", -100.0, "not in order of created_min"),
    ],
)
def test_a_real_day_with_nonsense_is_refused(field, value, said):
    """NaN coordinates used to drive for ever; a priority of 9 read other memory."""
    day = day_of([booking(50, 1, 2), booking(60, 1, 2)], [driver()], label="2026-03-02")
    day.bookings[field][1] = value
    with pytest.raises(DataError) as refusal:
        Engine(even_scenario(), days=[day])
    assert said in str(refusal.value)
    assert "2026-03-02" in str(refusal.value)


def test_a_driver_with_nonsense_is_refused():
    day = day_of([booking(50, 1, 2)], [driver(), driver(lat=np.nan)])
    with pytest.raises(DataError, match="driver 1: lat is nan"):
        Engine(even_scenario(), days=[day])


def test_a_zone_outside_the_matrix_is_refused(tmp_path):
    scenario, source, days = manhattan(tmp_path)
    days[0].bookings["pickup_zone"][3] = 4
    with pytest.raises(DataError, match=r"booking 3: pickup_zone is 4, expected 0\.\.3"):
        Engine(scenario, days=days, source=source)


def test_a_smaller_fleet_among_larger_ones_plays_as_if_alone():
    """It is filled up with drivers who have no shift: nobody may assign them, no figure counts."""
    jobs = [booking(50 + 9 * i, 1 + i, 2) for i in range(6)]
    small = day_of(jobs, [driver(), driver(3)])
    large = day_of(jobs, [driver()] * 5)
    alone, among = (
        Engine(even_scenario(), days=[small]),
        Engine(even_scenario(), days=[large, small]),
    )
    alone.start([0])
    among.start([1])
    while not alone.ended():
        assert not any(among.can_commit(0, d, b) for d in (2, 3, 4) for b in range(6))
        for b in alone.open_rows():
            for d in (0, 1):
                assert alone.commit(0, d, int(b)) == among.commit(0, d, int(b))
        alone.wait(0)
        among.wait(0)
    assert alone.kpis() == among.kpis()
    assert len(among.day().drivers) == 2


def test_zones_without_their_folder_are_refused(tmp_path):
    scenario, _, days = manhattan(tmp_path)
    with pytest.raises(ScenarioError, match="data folder"):
        Engine(scenario, days=days)
    with pytest.raises(ScenarioError, match="none were given"):
        Engine(scenario)


@pytest.mark.parametrize("seed", [2**63 - 1, 2**62 + 1, 3_000_000 + 1000 * 740_000])
def test_large_seeds_are_days_too(seed):
    engine = Engine(load_scenario("geneva_small"))
    engine.start([seed])
    first = engine.day().bookings.tobytes()
    engine.start([seed - 1])
    assert engine.day().bookings.tobytes() != first
    engine.start([seed])
    assert engine.day().bookings.tobytes() == first
    assert engine.day().label == f"seed:{seed}"


def test_calls_outside_the_engine_are_refused():
    """Compiled code does not check bounds: these would write into other memory."""
    engine = Engine(load_scenario("geneva_small"), 2)
    with pytest.raises(UsageError, match="negative"):
        engine.start([-1, 0])
    with pytest.raises(UsageError, match=r"2\*\*63"):
        engine.start([2**63, 0])
    with pytest.raises(UsageError, match=r"environments 0\.\.1"):
        engine.start([1, 2, 3])
    with pytest.raises(UsageError, match=r"environments 0\.\.1"):
        engine.start([1], envs=[-1])
    with pytest.raises(UsageError, match="3 days for 1"):
        engine.start([1, 2, 3], envs=[0])
    engine.start([1, 2])
    for actions in (np.zeros(3, np.int64), np.zeros(1, np.int64), np.zeros(2, np.float64)):
        with pytest.raises(UsageError, match="takes 2 actions"):
            engine.step(actions)
    for env, driver_ in ((2, 0), (-1, 0), (0, 3), (0, -1)):
        with pytest.raises(UsageError, match="there is no driver"):
            engine.commit(env, driver_, 0)
        with pytest.raises(UsageError, match="there is no driver"):
            engine.can_commit(env, driver_, 0)
    with pytest.raises(UsageError, match="environment 2"):
        engine.wait(2)
    for row in (-1, 10**6, int(engine.world.counters[0, world.NUM_BOOKINGS])):
        assert engine.commit(0, 0, row) is False
    with pytest.raises(UsageError, match="num_envs"):
        Engine(load_scenario("geneva_small"), 0)
    with pytest.raises(UsageError, match="gamma"):
        Engine(load_scenario("geneva_small"), gamma=float("nan"))
    with pytest.raises(StateError, match="at least one"):
        Engine(load_scenario("geneva_small"), max_bookings=0)


def test_real_days_out_of_range_are_refused():
    engine = one_day([booking(50, 1, 2)], [driver()])
    with pytest.raises(UsageError, match="only 1 days"):
        engine.start([1])


def test_an_episode_is_truncated_where_it_was_told_to():
    engine = Engine(load_scenario("geneva_small"), max_steps=7)
    engine.start([1])
    ended = [bool(engine.step(np.array([0])).truncated[0]) for _ in range(7)]
    assert ended == [False] * 6 + [True]
    assert not engine.out.terminated[0]


def test_statuses_at_the_end_are_final():
    engine = Engine(load_scenario("geneva"))
    play_random(engine, 6)
    final = {BookingStatus.COMPLETED, BookingStatus.UNSERVED}
    assert set(engine.history()["status"].tolist()) <= final
