"""Guardrails fed from the database: a harmful arm is stopped, evidence survives a restart."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from models import Assignment, Booking, Decision, Experiment, ExperimentUnit, FleetSnapshot
from services.dispatching.experiments import SqlExperiment
from services.dispatching.watch import Watch, Watches
from services.rl.ab_dispatcher import ExperimentError
from services.rl.errors import AtmrError

from .companies import COMPANY


@pytest.fixture
def trial(company):
    """An experiment whose units are bookings, half of them in each arm."""
    at = company.clock.now()
    with company.database.writing() as session:
        session.add(
            Experiment(
                id=1, company_id=COMPANY, name="dispatch", mode="ab", unit="booking",
                salt="s", rl_share=0.5, created_at=at, updated_at=at, guardrails={},
            )
        )  # fmt: skip
    return company


def live(company, days, late_rl, *, of=COMPANY, first=10_000):
    """Bookings of some days, every second one decided by the learned arm; some late there."""
    with company.database.writing() as session:
        start = company.clock.now()
        snapshot = FleetSnapshot(
            company_id=of, epoch_at=start, now_min=0.0, day=start.date(), layout=1,
            scenario_hash="0" * 64, schema=1, num_drivers=1, num_bookings=1, payload=b"",
        )  # fmt: skip
        session.add(snapshot)
        session.flush()
        for n in range(days * 100):
            arm = "rl" if n % 2 else "heuristic"
            at = start + timedelta(minutes=10 + 14 * n)
            late = arm == "rl" and (n // 2) % 10 < late_rl * 10
            pickup = at + timedelta(minutes=40 if late else 5)
            session.add(
                Booking(
                    id=first + n, company_id=of, pickup_lat=46.2, pickup_lon=6.1,
                    dropoff_lat=46.2, dropoff_lon=6.2, scheduled_time=at, status="COMPLETED",
                    created_at=at - timedelta(hours=1),
                )
            )  # fmt: skip
            session.flush()
            session.add(
                Assignment(
                    booking_id=first + n, driver_id=1, assigned_at=at, status="COMPLETED",
                    actual_pickup_at=pickup, actual_dropoff_at=pickup + timedelta(minutes=10),
                )
            )  # fmt: skip
            unit = f"booking:{first + n}"
            session.add(
                Decision(
                    id=f"{first + n:032x}", snapshot_id=snapshot.id, seq=n, company_id=of,
                    booking_id=first + n, driver_id=1, action="assign", arm=arm, unit=unit,
                    layout=1, latency_ms=1.0, decided_at=at,
                )
            )  # fmt: skip
            session.add(
                ExperimentUnit(
                    experiment_id=1, unit=unit, bucket=n % 10_000, arm=arm, created_at=at
                )
            )
    company.clock.advance(minutes=60 + 14 * days * 100)


def watch_of(company):
    return Watch(company.database, [COMPANY], company.scenario.rules)


def test_an_arm_that_is_late_far_more_often_is_stopped_and_says_why(trial):
    live(trial, 3, late_rl=0.8)
    breach = watch_of(trial).look(trial.clock.now())
    assert breach is not None
    config = SqlExperiment(trial.database, COMPANY).current()
    assert config.stopped and "late" in config.stop_reason
    assert watch_of(trial).look(trial.clock.now()) is None  # stopped: nothing is compared


def test_arms_that_are_alike_go_on(trial):
    live(trial, 3, late_rl=0.0)
    watch = watch_of(trial)
    assert watch.look(trial.clock.now()) is None
    assert watch.monitor is not None
    assert not SqlExperiment(trial.database, COMPANY).current().stopped


def test_a_new_process_finds_the_evidence_in_the_database(trial):
    live(trial, 3, late_rl=0.8)
    half = trial.clock.now() - timedelta(minutes=14 * 280)
    first = watch_of(trial)
    assert first.look(half) is None  # too little so far
    assert watch_of(trial).look(trial.clock.now()) is not None  # all of it, after a restart


def test_companies_that_follow_the_default_experiment_are_weighed_together(trial):
    with trial.database.writing() as session:
        session.execute(update(Experiment).values(company_id=None))
    start = trial.clock.now()
    for n in range(4):  # each alone has too little to say anything
        trial.clock.set(start)
        live(trial, 1, late_rl=0.2, of=20 + n, first=20_000 + 1_000 * n)
    now = trial.clock.now()
    rules = trial.scenario.rules
    assert Watches(trial.database, rules).look([20], now) == {}
    assert list(Watches(trial.database, rules).look([20, 21, 22, 23], now)) == [None]
    assert SqlExperiment(trial.database, 23).current().stopped


def test_a_company_with_an_experiment_of_its_own_is_weighed_alone(trial):
    with trial.database.writing() as session:
        session.add(
            Experiment(
                id=2, company_id=None, name="dispatch", mode="ab", unit="booking", salt="s",
                rl_share=0.5, created_at=trial.clock.now(), updated_at=trial.clock.now(),
                guardrails={},
            )
        )  # fmt: skip
    live(trial, 3, late_rl=0.8)
    assert list(
        Watches(trial.database, trial.scenario.rules).look([5, COMPANY], trial.clock.now())
    ) == [COMPANY]
    assert not SqlExperiment(trial.database, 5).current().stopped


def test_a_company_that_gets_its_own_experiment_takes_the_default_ones_watch_not_with_it(trial):
    with trial.database.writing() as session:
        session.execute(update(Experiment).values(company_id=None))
    start = trial.clock.now()
    watches = Watches(trial.database, trial.scenario.rules)
    assert watches.look([COMPANY, 20], start) == {}
    with trial.database.writing() as session:  # as the rollout, or a person, makes one
        session.add(
            Experiment(
                id=2, company_id=COMPANY, name="dispatch", mode="off", unit="booking", salt="o",
                rl_share=0.5, created_at=start, updated_at=start, guardrails={},
            )
        )  # fmt: skip
    live(trial, 3, late_rl=0.8, of=20)
    assert list(watches.look([COMPANY, 20], trial.clock.now())) == [None]
    assert SqlExperiment(trial.database, 20).current().stopped
    assert not SqlExperiment(trial.database, COMPANY).current().stopped


def test_an_experiment_that_cannot_be_weighed_leaves_the_others_guarded(trial, monkeypatch):
    real = Watch.look

    def look(watch, now):
        if watch.company_ids == [5]:
            raise ExperimentError("unit 'booking:1' has both arms")
        return real(watch, now)

    monkeypatch.setattr(Watch, "look", look)
    with trial.database.writing() as session:
        session.add(
            Experiment(
                id=2, company_id=5, name="dispatch", mode="ab", unit="booking", salt="s",
                rl_share=0.5, created_at=trial.clock.now(), updated_at=trial.clock.now(),
                guardrails={},
            )
        )  # fmt: skip
    live(trial, 3, late_rl=0.8)
    with pytest.raises(AtmrError, match="both arms"):
        Watches(trial.database, trial.scenario.rules).look([5, COMPANY], trial.clock.now())
    assert SqlExperiment(trial.database, COMPANY).current().stopped


@pytest.mark.parametrize("status", ["PENDING", "UNASSIGNED"])
def test_a_patient_left_behind_counts_against_the_arm_that_deferred_last(trial, status):
    start = trial.clock.now()
    rules = trial.scenario.rules
    promised = start + timedelta(hours=2)
    with trial.database.writing() as session:
        session.add(
            Booking(
                id=1, company_id=COMPANY, pickup_lat=46.2, pickup_lon=6.1, dropoff_lat=46.2,
                dropoff_lon=6.2, scheduled_time=promised, status=status, created_at=start,
            )
        )  # fmt: skip
        for n, arm in enumerate(("rl", "heuristic", "heuristic")):
            at = start + timedelta(minutes=40 * n + 5)
            session.add(
                Decision(
                    id=f"{n:032x}", seq=0, company_id=COMPANY, booking_id=1, action="defer",
                    arm=arm, unit=f"block{n}", layout=1, latency_ms=1.0, decided_at=at,
                )
            )  # fmt: skip
            session.add(
                ExperimentUnit(
                    experiment_id=1, unit=f"block{n}", bucket=n, arm=arm, created_at=at
                )
            )  # fmt: skip
    trial.clock.set(promised + timedelta(minutes=rules.window_min + rules.grace_min + 1))
    watch = watch_of(trial)
    with trial.database.reading() as session:
        events = list(watch._outcomes(session, start, trial.clock.now()))
    assert [(e.fields["arm"], e.fields["unserved"]) for e in events] == [("heuristic", True)]


def test_a_booking_given_anew_counts_for_the_arm_that_gave_it_last(trial):
    start = trial.clock.now()
    live(trial, 1, late_rl=1.0)
    booking = 10_001  # decided by the learned arm, and late
    with trial.database.writing() as session:
        session.add(
            Decision(
                id="f" * 32, seq=0, company_id=COMPANY, booking_id=booking, driver_id=1,
                action="assign", arm="heuristic", unit="anew", layout=1, latency_ms=1.0,
                decided_at=start + timedelta(minutes=30),
            )
        )  # fmt: skip
        session.add(
            ExperimentUnit(
                experiment_id=1, unit="anew", bucket=1, arm="heuristic", created_at=start
            )
        )
    with trial.database.reading() as session:
        events = list(watch_of(trial)._outcomes(session, start, trial.clock.now()))
    arms = [e.fields["arm"] for e in events if e.fields["booking_id"] == booking]
    assert arms == ["heuristic"]
