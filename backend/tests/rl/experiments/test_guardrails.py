"""Guardrails: harm stops the arm with reasons, A/A weeks do not, a person lets it go on."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.rl.ab_dispatcher import (
    RL,
    ExperimentConfig,
    ExperimentError,
    GuardrailMonitor,
    Guardrails,
    MemoryExperiment,
    NullNotifier,
)
from services.rl.experiments.config import UnitKind
from services.rl.experiments.simulated_weeks import Demand, Harm, play_week, upper_bound

from .fleets import AT


def monitored(**config):
    experiment = MemoryExperiment(
        ExperimentConfig(**{"mode": "ab", "unit": "booking", "name": "spring", **config})
    )
    notifier = NullNotifier()
    return experiment, GuardrailMonitor(experiment, notifier), notifier


def decisions(monitor, count, start=AT, **flags):
    breach = None
    for i in range(count):
        values = {"fallback": False, "infeasible": False, "latency_ms": 2.0, **flags}
        breach = breach or monitor.record_decision(start + timedelta(minutes=5 * i), **values)
    return breach or monitor.check(start + timedelta(minutes=5 * count + 15))


def outcomes(monitor, count, rate, start=AT, first=0, seed=1, **more):
    """``rate`` of an arm: the probability of a late booking."""
    rng = np.random.default_rng(seed)
    for i in range(first, first + count):
        arm = RL if rng.random() < 0.5 else "heuristic"
        breach = monitor.record_outcome(
            start + timedelta(minutes=i - first),
            booking_id=i, unit=f"booking:{i}", arm=arm, late=rng.random() < rate[arm],
            unserved=False, **more,
        )  # fmt: skip
        if breach is not None:
            return breach
    return monitor.check(start + timedelta(minutes=count + 15))


@pytest.mark.parametrize(
    ("flags", "metric", "words"),
    [
        ({"fallback": True}, "fallback", "decisions answered by the fallback"),
        ({"infeasible": True}, "infeasible", "infeasible decisions"),
        ({"latency_ms": 51.0}, "slow", "slow decisions"),
    ],
)
def test_a_failing_machine_stops_the_arm_and_says_why(flags, metric, words):
    experiment, monitor, notifier = monitored()
    breach = decisions(monitor, 24, **flags)
    assert breach.metric == metric and words in breach.words
    assert "100.0%" in breach.words and f"{breach.other:.1%}" in breach.words
    assert experiment.current().stopped and experiment.current().stop_reason == breach.words
    (message,) = notifier.messages
    assert message["experiment"] == "spring" and message["metric"] == metric


def test_late_bookings_of_one_arm_stop_it_and_of_both_do_not():
    experiment, monitor, _ = monitored()
    assert outcomes(monitor, 2000, {"heuristic": 0.3, RL: 0.3}) is None
    assert not experiment.current().stopped
    experiment, monitor, _ = monitored()
    breach = outcomes(monitor, 2000, {"heuristic": 0.1, RL: 0.4})
    assert breach.metric == "late" and breach.rate > breach.other + 0.02
    assert "in the heuristic arm, the margin is 2.0%" in breach.words


def test_a_better_learned_arm_is_never_stopped():
    _, monitor, _ = monitored()
    assert outcomes(monitor, 3000, {"heuristic": 0.4, RL: 0.1}) is None


def test_a_certain_but_small_difference_is_not_for_a_guardrail():
    rules = Guardrails(late_margin=0.5)
    _, monitor, _ = monitored(guardrails=rules)
    assert outcomes(monitor, 2000, {"heuristic": 0.1, RL: 0.4}) is None
    assert monitor.findings()["late"].e_value > 1e4


def test_a_ceiling_protects_where_there_is_nothing_to_compare():
    rules = Guardrails(late_ceiling=0.2)
    _, monitor, _ = monitored(guardrails=rules, rl_share=1.0)
    breach = None
    for i in range(300):
        breach = breach or monitor.record_outcome(
            AT + timedelta(minutes=i), booking_id=i, unit=f"booking:{i}", arm=RL,
            late=i % 2 == 0, unserved=False,
        )  # fmt: skip
    assert breach.metric == "late_ceiling" and "the ceiling is 20.0%" in breach.words


def test_a_stopped_arm_waits_for_a_person():
    experiment, monitor, notifier = monitored()
    decisions(monitor, 24, fallback=True)
    assert decisions(monitor, 24, start=AT + timedelta(hours=3), fallback=True) is None
    assert len(notifier.messages) == 1  # told once
    with pytest.raises(ExperimentError, match="by a person, with a reason"):
        monitor.resume("", "because", AT + timedelta(hours=6))
    assert experiment.current().stopped
    config = monitor.resume("Anna", "server replaced", AT + timedelta(hours=6))
    assert not config.stopped and monitor.breach is None
    assert [e[1:3] for e in experiment.events] == [("stopped", "guardrail"), ("resumed", "Anna")]
    # Evidence begins afresh, and harm is seen again.
    assert monitor.findings()["fallback"].e_value == pytest.approx(1.0)
    assert decisions(monitor, 24, start=AT + timedelta(hours=7), fallback=True) is not None


def record(monitor, at, unit, booking=1, arm=RL, **more):
    return monitor.record_outcome(
        at, booking_id=booking, unit=unit, arm=arm, late=True, unserved=False, **more
    )


def test_a_booking_counts_once_however_often_it_is_told():
    _, monitor, _ = monitored()
    for _ in range(5):
        record(monitor, AT, "booking:1")
    record(monitor, AT + timedelta(hours=1), "booking:1")
    monitor.check(AT + timedelta(hours=2))
    assert monitor.ignored["twice"] == 5
    assert monitor.findings()["late"].bookings == 1


def test_a_switchback_unit_is_weighed_once_when_its_outcomes_have_come_in():
    _, monitor, _ = monitored(unit="switchback", block_min=30)
    unit = "block:1:0.0:20260302T0900Z"  # 30 minutes, then an hour to settle
    for booking in range(4):
        record(monitor, AT + timedelta(minutes=20 * booking), unit, booking)
    monitor.check(AT + timedelta(minutes=89))
    assert monitor.findings()["late"].bookings == 0
    monitor.check(AT + timedelta(minutes=90))
    assert monitor.findings()["late"].bookings == 4
    record(monitor, AT + timedelta(minutes=120), unit, booking=9)
    assert monitor.ignored["too_late"] == 1


def test_outcomes_of_units_drawn_before_a_new_split_do_not_count():
    _, monitor, _ = monitored()
    record(monitor, AT, "booking:1")
    monitor.restart(AT + timedelta(hours=1))
    record(monitor, AT + timedelta(hours=2), "booking:2", 2, first_seen_at=AT)
    assert monitor.ignored["before"] == 1


def test_a_unit_with_two_arms_is_an_error():
    _, monitor, _ = monitored(unit="company")
    record(monitor, AT, "company:1", 1)
    with pytest.raises(ExperimentError, match="has both arms"):
        record(monitor, AT, "company:1", 2, arm="heuristic")


def test_a_monitor_is_rebuilt_by_recording_the_events_again():
    found = []
    for _ in range(2):
        _, monitor, _ = monitored()
        outcomes(monitor, 300, {"heuristic": 0.2, RL: 0.25})
        found.append(monitor.findings())
    assert found[0] == found[1]


def test_a_night_and_a_pause_of_weeks_are_passed_over():
    _, monitor, _ = monitored()
    record(monitor, AT, "booking:1")
    monitor.check(datetime(2027, 3, 2, tzinfo=UTC))
    record(monitor, datetime(2027, 3, 2, 1, tzinfo=UTC), "booking:2", 2)
    monitor.check(datetime(2027, 3, 2, 2, tzinfo=UTC))
    assert monitor.findings()["late"].bookings == 1  # of this week


@pytest.mark.parametrize("unit", [UnitKind.BOOKING, UnitKind.SWITCHBACK])
def test_weeks_without_harm_pass_and_a_day_of_harm_does_not(unit):
    for seed in range(3):
        assert play_week(Demand(1, 85), unit, seed).breach is None
    overload = Demand(20, 130, late_rate=0.2, unserved_rate=0.1)
    harm = play_week(overload, unit, 1, harm=Harm(late=2.0), days=1)
    assert harm.breach is not None and harm.breach.metric == "late"


def test_the_upper_bound_is_clopper_and_pearson_s():
    assert upper_bound(0, 299) == pytest.approx(0.00997, abs=1e-5)
    assert upper_bound(5, 5) == 1.0
