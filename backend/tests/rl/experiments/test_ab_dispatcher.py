"""The dispatcher: modes, units, fallbacks, one booking or a whole epoch."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rl import ab_dispatcher
from services.rl.ab_dispatcher import (
    HEURISTIC,
    RL,
    ExperimentConfig,
    ExperimentError,
    GuardrailMonitor,
    MemoryExperiment,
    MemoryUnits,
    configure,
    dispatch_with_ab,
)
from services.rl.errors import StateError
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine

from .fleets import AT, SCENARIO, Arm, busy_state, committable, dispatcher, real_arm


def matching():
    return Arm("matching", make_policy("matching", SCENARIO).decide)


def nearest(**fields):
    return Arm("nearest", make_policy("nearest", SCENARIO).decide, **fields)


def rows(epoch):
    return [(d.decision.driver, d.decision.booking) for d in epoch.assignments]


def alone(name, state):
    return {(d.driver, d.booking) for d in make_policy(name, SCENARIO).decide(state).decisions}


@pytest.fixture(autouse=True)
def nothing_configured():
    yield
    configure(None)


def test_off_asks_the_heuristic_alone_and_keeps_no_unit():
    rl, units = nearest(), MemoryUnits()
    epoch = dispatcher(matching(), rl, units, mode="off", epsilon=1.0).decide(busy_state())
    assert set(rows(epoch)) == alone("matching", busy_state())
    assert rl.asked == 0 and len(units) == 0 and not epoch.shadow
    assert {(d.arm, d.unit, d.propensity) for d in epoch.decisions} == {(HEURISTIC, "", 1.0)}


def test_shadow_acts_by_the_heuristic_and_returns_what_rl_would_do():
    state = busy_state()
    epoch = dispatcher(matching(), nearest(), mode="shadow").decide(state)
    assert set(rows(epoch)) == alone("matching", state)
    shadow = {
        (d.decision.driver, d.decision.booking) for d in epoch.shadow if d.driver_id is not None
    }
    assert shadow == alone("nearest", state) != alone("matching", state)
    assert all(d.shadow and d.arm == RL for d in epoch.shadow)
    assert len(epoch.shadow) == len(epoch.decisions) == len(state.booking_ids)


def test_each_booking_is_decided_by_its_arm_and_each_exactly_once():
    state = busy_state()
    epoch = dispatcher(matching(), nearest()).decide(state)
    assert sorted(d.booking_id for d in epoch.decisions) == sorted(state.booking_ids)
    assert {d.arm for d in epoch.decisions} == {HEURISTIC, RL}
    assert all(d.policy == ("nearest" if d.arm == RL else "matching") for d in epoch.decisions)
    assert all(d.unit == f"booking:{d.booking_id}" for d in epoch.decisions)
    assert committable(state, rows(epoch))


@pytest.mark.parametrize("unit", ["company", "switchback"])
def test_a_fleet_in_one_arm_is_decided_by_that_arm_alone(unit):
    state = busy_state()
    arms = set()
    for company in range(12):
        one, other = matching(), nearest()
        epoch = dispatcher(one, other, unit=unit, zone_km=500.0).decide(state, company_id=company)
        (arm,) = {d.arm for d in epoch.decisions}
        arms.add(arm)
        assert (one.asked, other.asked) == ((1, 0) if arm == HEURISTIC else (0, 1))
        assert set(rows(epoch)) == alone("nearest" if arm == RL else "matching", state)
    assert arms == {HEURISTIC, RL}


def test_switchback_changes_the_arm_with_the_block_and_not_within_it():
    units = MemoryUnits()
    settings = {"unit": "switchback", "zone_km": 500.0, "block_min": 30}
    routing = dispatcher(matching(), nearest(), units, **settings)
    seen = []
    for minute in range(0, 600, 5):
        at = AT.replace(minute=0) + timedelta(minutes=minute)
        epoch = routing.decide(busy_state(), company_id=1, at=at)
        seen.append({d.arm for d in epoch.decisions})
    blocks = [seen[i : i + 6] for i in range(0, len(seen), 6)]
    assert all(len(arms) == 1 for arms in seen)
    assert all(block == [block[0]] * 6 for block in blocks)
    assert {frozenset(block[0]) for block in blocks} == {frozenset({RL}), frozenset({HEURISTIC})}
    assert len(units) == len(blocks)


def test_a_new_split_moves_no_booking_that_was_seen():
    experiment, units = MemoryExperiment(ExperimentConfig(mode="ab", unit="booking")), MemoryUnits()
    routing = dispatcher(matching(), nearest(), units, experiments=experiment)
    before = {d.booking_id: d.arm for d in routing.decide(busy_state()).decisions}
    experiment.replace(experiment.current().changed(rl_share=0.0))
    after = {d.booking_id: d.arm for d in routing.decide(busy_state()).decisions}
    assert after == before and RL in set(after.values())


def test_a_stopped_experiment_gives_every_booking_to_the_heuristic_until_resumed():
    experiment, rl = MemoryExperiment(ExperimentConfig(mode="ab", unit="booking")), nearest()
    routing = dispatcher(matching(), rl, experiments=experiment)
    experiment.stop("too late", AT)
    assert set(rows(routing.decide(busy_state()))) == alone("matching", busy_state())
    assert rl.asked == 0
    experiment.resume("Anna", "mended", AT)
    assert RL in {d.arm for d in routing.decide(busy_state()).decisions}


def broken(state):
    raise ZeroDivisionError("inside the learned policy")


@pytest.mark.parametrize(
    ("decide", "reason"),
    [
        (broken, "error:ZeroDivisionError"),
        (lambda state: [(999, 0)], "infeasible"),
        (lambda state: [(0, 10_000)], "infeasible"),
        (lambda state: [(-1, 0)], "infeasible"),
        (lambda state: [(d, 0) for d in range(len(state.drivers))], "infeasible"),
    ],
)
def test_a_learned_arm_that_fails_is_replaced_by_the_heuristic_and_says_why(decide, reason):
    state = busy_state()
    experiment = MemoryExperiment(ExperimentConfig(mode="ab", unit="booking", rl_share=1.0))
    monitor = GuardrailMonitor(experiment)
    routing = dispatcher(matching(), Arm("bad", decide), None, monitor, experiment)
    epoch = routing.decide(state)
    assert set(rows(epoch)) == alone("matching", state)
    assert {(d.arm, d.policy, d.fallback_reason) for d in epoch.decisions} == {
        (RL, "matching", reason)
    }
    monitor.check(AT + timedelta(minutes=30))
    assert monitor.findings()["fallback"].rate == 1.0
    assert monitor.findings()["infeasible"].rate == (reason == "infeasible")


def test_a_learned_arm_that_always_fails_is_stopped_within_the_hour():
    experiment = MemoryExperiment(ExperimentConfig(mode="ab", unit="booking"))
    monitor = GuardrailMonitor(experiment)
    routing = dispatcher(matching(), Arm("bad", broken), None, monitor, experiment)
    for minute in range(0, 60, 5):
        routing.decide(busy_state(), at=AT + timedelta(minutes=minute))
    monitor.check(AT + timedelta(minutes=60))
    assert experiment.current().stopped
    assert "answered by the fallback" in experiment.current().stop_reason


def test_a_malformed_state_is_the_caller_s_error_in_either_arm():
    state = busy_state()
    drivers = state.drivers.copy()
    drivers["lat"][0] = 1000.0
    with pytest.raises(StateError, match="lat of driver 0"):
        dispatcher(matching(), nearest(), rl_share=1.0).decide(replace(state, drivers=drivers))


def test_one_booking_is_decided_by_the_arm_it_has_in_the_epoch():
    state = busy_state()
    for name in state.booking_ids[:10]:
        one, other = matching(), nearest()
        routing = dispatcher(one, other)
        routed = routing.dispatch_with_ab(name, state)
        assert (one.asked, other.asked) == ((1, 0) if routed.arm == HEURISTIC else (0, 1))
        wanted = {b: d for d, b in alone(routed.policy, state)}
        assert routed.booking_id == name
        assert routed.decision.driver == wanted.get(state.booking_ids.index(name))


def test_the_same_epoch_is_decided_alike_by_every_process():
    explored = 0
    for salt in "abcd":
        routings = [dispatcher(matching(), nearest(), epsilon=1.0, salt=salt) for _ in range(2)]
        for minute in (60.0, 120.0):
            one, other = (routing.decide(busy_state(minute)).decisions for routing in routings)
            assert one == other
            explored += sum(d.explored and d.k > 1 and d.propensity < 1 for d in one)
    assert explored


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_whatever_the_experiment_the_assignments_can_be_committed(salt, share, epsilon):
    state = busy_state(200.0)
    routing = dispatcher(matching(), nearest(), salt=salt, rl_share=share, epsilon=epsilon)
    epoch = routing.decide(state)
    assert committable(state, rows(epoch))
    assert sorted(d.booking_id for d in epoch.decisions) == sorted(state.booking_ids)
    assert all(0 < d.propensity <= 1 and 1 <= d.k <= 5 for d in epoch.decisions)


def test_a_whole_day_under_both_arms_is_accepted_by_the_engine():
    routing = dispatcher(real_arm("matching"), real_arm("nearest"), epsilon=0.2)
    engine = Engine(SCENARIO)
    engine.start([1_000_001], [0])
    plan, served, arms = None, 0, set()
    while not engine.ended():
        state, open_rows = engine.state(), engine.open_rows()
        epoch = routing.decide(state, plan=plan)
        plan = epoch.plan
        for d in epoch.assignments:
            assert engine.commit(0, d.decision.driver, int(open_rows[d.decision.booking]))
            arms.add(d.arm)
            served += 1
        engine.wait(0)
    assert served > 60 and arms == {HEURISTIC, RL}


def test_threads_do_not_disturb_each_other():
    routing = dispatcher(real_arm("matching"), real_arm("nearest"))
    expected = {m: routing.decide(busy_state(m)).decisions for m in (60.0, 120.0, 200.0)}
    wrong = []

    def play(minute):
        for _ in range(15):
            found = routing.decide(busy_state(minute)).decisions
            same = [(d.booking_id, d.driver_id) for d in found] == [
                (d.booking_id, d.driver_id) for d in expected[minute]
            ]
            if not same:
                wrong.append(minute)

    threads = [threading.Thread(target=play, args=(m,)) for m in (60.0, 120.0, 200.0, 120.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_dispatch_with_ab_says_what_is_missing():
    with pytest.raises(ExperimentError, match="no A/B dispatcher is configured"):
        dispatch_with_ab("b1")
    configure(dispatcher(matching(), nearest()))
    with pytest.raises(ExperimentError, match="needs the fleet's state"):
        dispatch_with_ab("b1")
    with pytest.raises(ExperimentError, match="'b1' is not among the open bookings"):
        dispatch_with_ab("b1", busy_state())
    with pytest.raises(ExperimentError, match="is no booking"):
        dispatch_with_ab(object(), busy_state())


def test_dispatch_with_ab_takes_a_booking_as_the_host_has_it():
    class Booking:
        id = busy_state().booking_ids[0]
        company_id = 3

    configure(
        dispatcher(matching(), nearest(), unit="company"), state_of=lambda booking: busy_state()
    )
    routed = dispatch_with_ab(Booking())
    assert routed.booking_id == Booking.id and routed.unit == "company:3"
    assert ab_dispatcher.dispatch_with_ab(Booking(), busy_state()) == routed


def test_an_empty_epoch_has_no_decisions():
    state = busy_state()
    empty = replace(state, booking_ids=(), bookings=state.bookings[:0])
    assert dispatcher(matching(), nearest()).decide(empty).decisions == ()


def test_without_clock_or_company_the_sentence_says_so():
    routing = dispatcher(matching(), nearest(), unit="switchback")
    with pytest.raises(ExperimentError, match="company's id"):
        routing.decide(busy_state())
    routing._clock = None
    with pytest.raises(ExperimentError, match="no clock"):
        routing.decide(busy_state())
