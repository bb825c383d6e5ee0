"""Collection from what the dispatcher, the routes and the dashboard really write."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from models import Booking, BookingChange, Decision, FleetSnapshot
from services.dispatching.overrides import override
from services.learning.collector import collect, expected
from services.learning.verification import verify
from services.rl.data.experience import Ending
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.simulation.scenarios import load_scenario
from tests.dispatching.companies import COMPANY, Company

from .conftest import loop_on


@pytest.fixture
def company(tmp_path, atmr_home):
    made = Company(f"sqlite:///{tmp_path / 'day.sqlite'}", load_scenario("geneva_small"), 11)
    yield made
    made.database.dispose()


def loop_of(company, tmp_path):
    url = f"sqlite:///{tmp_path / 'day.sqlite'}"
    made = loop_on(url, tmp_path, company.scenario, company.clock, MemoryReplayStore())
    made.database.dispose()
    return type(made)(**{**vars(made), "database": company.database})


def test_a_dispatched_day_has_an_experience_for_every_assignment(company, tmp_path):
    company.live(480)
    for _ in range(20):  # what was committed is brought
        company.clock.advance(minutes=10)
        company.drive()
    company.clock.advance(minutes=60 * 24 * 2)
    loop = loop_of(company, tmp_path)
    report = collect(loop, COMPANY)
    with company.database.reading() as session:
        assigned = session.scalars(select(Decision.id).where(Decision.action == "assign")).all()
        snapshots = session.scalars(select(FleetSnapshot.id)).all()
    ids = loop.store.ids(COMPANY)
    assert ids == {*assigned, *(f"wait-{i}" for i in snapshots)}
    assert not report.left_out and verify(loop, COMPANY).same
    # Everything was driven as planned, so each plan is worth what it came to.
    for e in expected(loop, COMPANY):
        if e.ending is Ending.COMPLETED:
            assert e.planned_reward == pytest.approx(e.reward, abs=0.01)


def test_an_override_logs_the_fleet_and_becomes_an_experience(company, tmp_path):
    company.live(60)
    with company.database.writing() as session:
        row = session.execute(
            select(Decision, Booking)
            .join(Booking, Booking.id == Decision.booking_id)
            .where(Decision.action == "assign", Booking.status == "ASSIGNED")
            .order_by(Decision.decided_at.desc())
        ).first()
        assert row is not None
        decision, booking = row
        fleet = company.dispatcher.fleet(session, COMPANY)
        others = [
            d.id
            for d in fleet.drivers
            if d.id != decision.driver_id
            and (d.wheelchair_vehicle or not booking.wheelchair_need)
            and len(fleet.commitments[d.id]) <= company.scenario.rules.queue
        ]
        made = override(company.dispatcher, session, decision, booking, others[0], "traffic")
        made_id, old_id, booking_id = made.id, decision.id, booking.id
    with company.database.reading() as session:
        human = session.get(Decision, made_id)
        assert human.snapshot_id is not None
        assert {"pickup_min", "late_min", "deadhead_km"} <= human.features.keys()
        changed = session.scalars(select(BookingChange.booking_id)).all()
        assert changed == [booking_id]
    for _ in range(40):
        company.clock.advance(minutes=10)
        company.drive()
    company.clock.advance(minutes=60 * 24 * 2)
    loop = loop_of(company, tmp_path)
    collect(loop, COMPANY)
    found = {e.id: e for e in loop.store.read(COMPANY)}
    assert found[old_id].ending is Ending.WITHDRAWN and found[old_id].overridden
    assert found[made_id].source == "human" and found[made_id].ending is Ending.COMPLETED
    assert found[made_id].planned_reward == pytest.approx(found[made_id].reward, abs=0.01)
    assert verify(loop, COMPANY).same


def test_an_override_to_nobody_leaves_the_booking_to_the_next_epoch(company, tmp_path):
    company.live(60)
    with company.database.writing() as session:
        decision, booking = session.execute(
            select(Decision, Booking)
            .join(Booking, Booking.id == Decision.booking_id)
            .where(Decision.action == "assign", Booking.status == "ASSIGNED")
            .order_by(Decision.decided_at.desc())
        ).first()
        made = override(company.dispatcher, session, decision, booking, None, "patient_request")
        assert made.snapshot_id is not None
        snapshot, old_id = made.snapshot_id, decision.id
    company.live(480)
    for _ in range(20):
        company.clock.advance(minutes=10)
        company.drive()
    company.clock.advance(minutes=60 * 24 * 2)
    loop = loop_of(company, tmp_path)
    report = collect(loop, COMPANY)
    found = {e.id: e for e in loop.store.read(COMPANY)}
    assert found[old_id].ending is Ending.WITHDRAWN
    wait = found[f"wait-{snapshot}"]
    assert wait.source == "human" and wait.dt <= 1.0 and wait.next_state is not None
    assert report.decisions == report.assigned + report.folded
    assert company.clock.now() > company.day.start + timedelta(days=1)
