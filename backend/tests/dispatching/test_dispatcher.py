"""Dispatching from a database: whole days, conflicts, and what is logged."""

from collections import Counter

import numpy as np
import pytest
from sqlalchemy import func, select

from models import Assignment, Commitment, Decision, FleetSnapshot
from services.dispatching.fates import DispatchError
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.types import DispatchState

from .companies import COMPANY, Company


def test_a_lived_day_serves_what_the_simulator_serves(company):
    company.live(540)
    statuses = Counter(booking.status for booking in company.bookings())
    engine = Engine(company.scenario, 1)
    engine.start(np.array([11]))
    make_policy("matching", company.scenario).play(engine)
    expected = round(engine.kpis(0)["completion_pct"] / 100 * len(company.played.bookings))
    assert statuses["COMPLETED"] >= 0.9 * expected
    with company.database.reading() as session:
        per_booking = session.execute(
            select(Assignment.booking_id, func.count()).group_by(Assignment.booking_id)
        ).all()
        assert max(count for _, count in per_booking) == 1
        logged = session.scalars(select(Decision).where(Decision.action == "assign")).all()
        assert len(logged) == len(per_booking)
        assert {d.booking_id: d.driver_id for d in logged} == {
            a.booking_id: a.driver_id for a in session.scalars(select(Assignment))
        }
        assert all(d.arm == "heuristic" and d.propensity == 1.0 for d in logged)


def test_nothing_is_decided_without_a_driver_or_on_a_booking_that_is_not_open(company):
    company.book()
    with pytest.raises(DispatchError, match="no active driver"):
        company.dispatcher.dispatch(99)
    with pytest.raises(DispatchError, match="booking 5000 is not open"):
        company.dispatcher.dispatch(COMPANY, only=[5000])


def test_the_log_holds_the_state_that_was_decided_on(company):
    company.clock.advance(minutes=60)
    company.book()
    epoch = company.dispatcher.dispatch(COMPANY)
    assert {fate.booking_id for fate in epoch.fates} == {b.id for b in company.bookings()}
    with company.database.reading() as session:
        import zlib

        snapshot = session.get(FleetSnapshot, epoch.snapshot_id)
        state = DispatchState.from_json(zlib.decompress(snapshot.payload).decode())
        assert len(state.booking_ids) == snapshot.num_bookings == len(epoch.fates)
        decisions = session.scalars(
            select(Decision).where(Decision.snapshot_id == snapshot.id).order_by(Decision.seq)
        ).all()
    assert [d.id for d in decisions] == [fate.decision_id for fate in epoch.fates]
    for fate in epoch.fates:
        assert (fate.driver_id is None) == (fate.decide_again_at is not None)


def test_only_the_booking_asked_for_is_committed(company):
    company.clock.advance(minutes=60)
    company.book()
    due = [f for f in company_dry(company) if f.driver_id is not None]
    assert due
    epoch = company.dispatcher.dispatch(COMPANY, only=[due[0].booking_id])
    assert [fate.booking_id for fate in epoch.fates] == [due[0].booking_id]
    with company.database.reading() as session:
        assert session.scalars(select(Commitment.booking_id)).all() == [due[0].booking_id]


def company_dry(company):
    """What a tick would do, on a copy."""
    other = Company(f"sqlite:///{company.database.url.database}.copy", company.scenario, 11)
    other.clock.set(company.clock.now())
    other.book()
    return other.dispatcher.dispatch(COMPANY).fates


def test_a_conflict_is_decided_again_on_what_is_true_then(company, monkeypatch):
    """Another process takes a booking between the reading and the writing."""
    company.live(60.0)
    real = company.desk.dispatcher(COMPANY)
    taken = []

    class Racing:
        def decide(self, state, **options):
            answer = real.decide(state, **options)
            if not taken and answer.assignments:
                taken.append(int(answer.assignments[0].booking_id))
                monkeypatch.setattr(company.desk, "dispatcher", lambda _company: real)
                company.dispatcher.dispatch(COMPANY, only=taken)
            return answer

    monkeypatch.setattr(company.desk, "dispatcher", lambda _company: Racing())
    for _ in range(30):  # to the next epoch at which a policy sends somebody
        company.clock.advance(minutes=company.scenario.rules.epoch_min)
        company.book()
        company.drive()
        epoch = company.dispatcher.dispatch(COMPANY)
        if taken:
            break
    assert taken and taken[0] not in {fate.booking_id for fate in epoch.fates}
    with company.database.reading() as session:
        assigned = session.scalars(select(Assignment.booking_id)).all()
    assert len(assigned) == len(set(assigned)) and taken[0] in assigned
