"""No-shows, call-offs, breakdowns and traffic: each does what the rules say, and no more."""

import numpy as np
import pytest

from services.rl.simulation.engine import Engine
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.types import BookingStatus

from ..policies.geneva_days import booking, day_of, driver, even_scenario
from .worlds import disturbed, play_random

KM_PER_MIN = 0.5  # 30 km/h


def engine_of(bookings, drivers, **rules):
    scenario = even_scenario(overtime_min=120, **rules)
    engine = Engine(scenario, days=[day_of(bookings, drivers)], record_events=True, max_bookings=4)
    engine.start([0])
    return engine


def run_until(engine, minute):
    while engine.now_min() < minute:
        engine.wait(0)


def finish(engine):
    while not engine.ended():
        engine.wait(0)


def kinds(engine, b):
    return [event["kind"] for event in engine.events() if event["booking"] == b]


def test_a_called_off_booking_frees_its_driver_where_it_is():
    """Ten kilometres north in twenty minutes; called off after five."""
    engine = engine_of([booking(20, 10, 12, cancelled_min=5.0)], [driver()])
    assert engine.commit(0, 0, 0)
    run_until(engine, 5)
    state = engine.state()
    assert state.drivers["committed"][0] == 0
    assert state.drivers["free_at_min"][0] == pytest.approx(5.0)
    driven = 5 * KM_PER_MIN
    fraction = driven / 10
    day = engine.day()
    expected = day.drivers["lat"][0] + fraction * (
        day.bookings["pickup_lat"][0] - day.drivers["lat"][0]
    )
    assert state.drivers["lat"][0] == pytest.approx(expected)
    finish(engine)
    kpis = engine.kpis()
    assert kpis["deadhead_km"] == pytest.approx(driven, rel=1e-4)
    assert kpis["reward"] == pytest.approx(-0.5 * driven, rel=1e-4)
    assert (kpis["called_off"], kpis["bookings_due"], kpis["unserved"]) == (1, 0, 0)
    assert kpis["completion_pct"] == kpis["on_time_pct"] == 100.0


def test_a_call_off_moves_the_next_job_of_the_queue_up():
    engine = engine_of(
        [booking(30, 2, 30, cancelled_min=10.0), booking(40, 1, 2)],
        [driver()],
    )
    assert engine.commit(0, 0, 0)
    late = engine.history()["planned_pickup_min"][0]
    assert engine.commit(0, 0, 1) is False, "after a long trip it would be far too late"
    assert late == 30
    run_until(engine, 10)
    assert engine.can_commit(0, 0, 1)


def test_an_open_booking_that_is_called_off_is_nobodys_failure():
    engine = engine_of([booking(100, 2, 3, cancelled_min=42.0)], [driver()])
    finish(engine)
    assert kinds(engine, 0) == ["called_off"]
    assert engine.kpis()["reward"] == 0.0


def test_a_booking_lost_before_it_would_be_called_off_is_lost():
    """Grace ends at 45; a call-off at 47, within the same epoch, comes too late to excuse it."""
    engine = engine_of([booking(0, 2, 3, cancelled_min=47.0)], [driver()])
    finish(engine)
    assert kinds(engine, 0) == ["unserved"]
    assert engine.events()[0]["time_min"] == 45.0


def test_a_booking_called_off_before_dispatch_heard_of_it_stays_in_the_log():
    """Also when it would only have been heard of after the last epoch."""
    engine = engine_of(
        [
            booking(60, 2, 3, created=1.0, cancelled_min=2.0),
            booking(500, 2, 3, created=478.0, cancelled_min=479.0),
        ],
        [driver()],
    )
    finish(engine)
    assert kinds(engine, 0) == kinds(engine, 1) == ["called_off"]
    assert engine.kpis()["called_off"] == 2


def test_a_no_show_costs_the_drive_and_the_wait():
    engine = engine_of([booking(20, 5, 9, no_show=True)], [driver()], no_show_wait_min=10)
    assert engine.commit(0, 0, 0)
    run_until(engine, 25)
    state = engine.state()
    assert state.drivers["free_at_min"][0] == pytest.approx(30.0)
    assert state.drivers["lat"][0] == engine.day().bookings["pickup_lat"][0]
    finish(engine)
    kpis = engine.kpis()
    assert kpis["reward"] == pytest.approx(-0.5 * 5, rel=1e-4)
    assert (kpis["no_shows"], kpis["bookings_due"], kpis["completed"]) == (1, 0, 0)


def test_a_no_show_to_whom_nobody_is_sent_is_unserved():
    """The dispatcher cannot know: the patient might have been there."""
    engine = engine_of([booking(20, 5, 9, no_show=True)], [driver()])
    finish(engine)
    kpis = engine.kpis()
    assert kpis["reward"] == -10.0
    assert (kpis["unserved"], kpis["no_shows"]) == (1, 0)


def test_a_breakdown_releases_what_is_not_aboard_for_others_to_take():
    engine = engine_of(
        [booking(20, 10, 12), booking(60, 1, 2)],
        [driver(breakdown_min=10.0, repaired_min=70.0), driver(20)],
    )
    assert engine.commit(0, 0, 0)
    assert engine.commit(0, 0, 1)
    run_until(engine, 10)
    state = engine.state()
    assert state.drivers["down"].tolist() == [True, False]
    assert state.drivers["committed"].tolist() == [0, 0]
    assert sorted(engine.open_rows().tolist()) == [0, 1]
    assert not engine.can_commit(0, 0, 0)
    assert engine.commit(0, 1, 0)
    assert engine.commit(0, 1, 1)
    finish(engine)
    kpis = engine.kpis()
    assert (kpis["completed"], kpis["released"]) == (2, 2)
    assert kinds(engine, 0)[:3] == ["assigned", "departed", "released"]
    assert not engine.state().drivers["down"].any()


def test_a_breakdown_with_a_patient_aboard_finishes_the_trip_first():
    """Picked up at 10, 20 km: dropped at 50; the repair takes an hour from there."""
    engine = engine_of(
        [booking(10, 5, 25), booking(30, 5, 6)],
        [driver(breakdown_min=20.0, repaired_min=80.0)],
    )
    assert engine.commit(0, 0, 0)
    assert engine.can_commit(0, 0, 1) is False
    run_until(engine, 100)
    assert engine.history()["status"][0] == BookingStatus.COMPLETED
    assert engine.history()["done_min"][0] == pytest.approx(50.0, abs=0.01)
    assert engine.state().drivers["down"][0]
    run_until(engine, 115)
    state = engine.state()
    assert not state.drivers["down"][0]
    assert state.drivers["free_at_min"][0] == pytest.approx(110.0, abs=0.01)
    assert state.drivers["lat"][0] == engine.day().bookings["dropoff_lat"][0]


def test_a_booking_released_too_late_for_anybody_is_lost_when_it_is_released():
    """Slow traffic, then a breakdown on the way, after the grace: the log stays in order."""
    engine = engine_of(
        [booking(20, 10, 12, deadhead_noise=6.0)],
        [driver(breakdown_min=80.0, repaired_min=90.0)],
    )
    assert engine.commit(0, 0, 0)
    finish(engine)
    assert kinds(engine, 0) == ["assigned", "departed", "released", "unserved"]
    times = [event["time_min"] for event in engine.events() if event["booking"] == 0]
    assert times == sorted(times)
    assert engine.kpis()["unserved"] == 1


def test_a_breakdown_after_the_last_epoch_loses_what_it_releases():
    engine = engine_of(
        [booking(470, 10, 12)], [driver(breakdown_min=485.0, repaired_min=490.0, end=600.0)],
        grace_min=60,
    )  # fmt: skip
    run_until(engine, 475)
    assert engine.commit(0, 0, 0)
    finish(engine)
    assert kinds(engine, 0) == ["assigned", "departed", "released", "unserved"]
    times = [event["time_min"] for event in engine.events() if event["booking"] == 0]
    assert times == sorted(times)


def test_slow_traffic_delays_the_whole_queue():
    engine = engine_of([booking(20, 10, 12, deadhead_noise=2.0), booking(30, 12, 14)], [driver()])
    assert engine.commit(0, 0, 0)
    assert engine.commit(0, 0, 1)
    planned = engine.history()["planned_pickup_min"][1]
    finish(engine)
    history = engine.history()
    assert history["pickup_min"][0] == pytest.approx(40.0, abs=0.01)
    assert history["pickup_min"][1] == pytest.approx(planned + 20 - 6, abs=0.01)
    assert history["planned_pickup_min"][1] == planned


@pytest.mark.parametrize(
    ("timing", "gamma"), [(RewardTiming.COMMITMENT, 0.9), (RewardTiming.PLANNED_PICKUP, 1.0)]
)
def test_undiscounted_credit_sums_to_the_kpi_reward(timing, gamma):
    """Whatever goes wrong, what was promised too much is taken back."""
    released = called_off = 0
    for seed in range(6):
        engine = Engine(disturbed("geneva_overload"), timing=timing, gamma=gamma)
        play = play_random(engine, seed, seed=seed, wait_share=0.2)
        kpis = engine.kpis()
        assert sum(step.reward for step in play.steps) == pytest.approx(kpis["reward"])
        released, called_off = released + kpis["released"], called_off + kpis["called_off"]
    assert released > 0 < called_off


def test_planned_credit_is_discounted_from_the_planned_pickup():
    """A promise for later is worth less now; one epoch is worth one gamma."""

    def credit(promised):
        engine = Engine(
            even_scenario(),
            days=[day_of([booking(promised, 2, 3)], [driver()])],
            timing=RewardTiming.PLANNED_PICKUP,
            gamma=0.9,
        )
        engine.start([0])
        return float(engine.step(np.array([1])).reward[0])

    assert credit(60) == pytest.approx(0.9 * credit(55))
    assert credit(50) == pytest.approx(0.9**10 * (10 - 0.5 * 2), rel=1e-4)


def test_released_bookings_are_served_by_others_on_drawn_days():
    reassigned = 0
    for seed in range(8):
        engine = Engine(disturbed(queue=1), record_events=True, max_bookings=60)
        play_random(engine, seed, seed=seed, wait_share=0.3)
        for b in range(len(engine.history())):
            seen = [e for e in engine.events() if e["booking"] == b]
            order = [e["kind"] for e in seen]
            if "released" in order and "completed" in order:
                reassigned += 1
    assert reassigned > 0
