"""Assignments from before the log: what was known is rebuilt, or it is said why not."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select, update

from models import Assignment, Booking, Driver
from services.learning.collector import collect, expected
from services.learning.verification import verify
from services.rl.data.experience import Ending
from services.rl.data.experience_codec import decode, encode
from services.rl.simulation.host import HostWorld
from services.rl.simulation.types import DispatchState

from .simulated_log import COMPANY, hire, log_day


@pytest.fixture
def imported(empty, small, monday):
    """A day of history as a host brings it: no log."""
    with empty.database.writing() as session:
        hire(session, small, monday)
        log_day(session, small, 11, monday, logged=False)
    return empty


def test_every_assignment_of_history_has_a_state_that_policies_can_read(imported):
    report = collect(imported, COMPANY)
    found = list(expected(imported, COMPANY))
    with imported.database.reading() as session:
        ids = session.scalars(select(Assignment.id).order_by(Assignment.id)).all()
    assert report.reconstructed == len(found) == len(ids) and not report.not_reconstructed
    assert {e.id for e in found} == {f"hist-{i}" for i in ids}
    assert report.decisions == 0 and verify(imported, COMPANY).same
    host = HostWorld(imported.scenario)
    for e in found:
        assert e.source == "reconstructed" and e.propensity is None and e.dt == 0
        b = e.action[1]
        assert e.state.bookings["created_min"][b] <= e.state.now_min
        bookings = e.state.bookings.copy()
        bookings["pickup_zone"] = bookings["dropoff_zone"] = 0
        drivers = e.state.drivers.copy()
        drivers["zone"] = 0
        host.load(
            DispatchState(
                e.state.now_min, tuple(map(str, range(len(drivers)))), drivers,
                tuple(map(str, range(len(bookings)))), bookings,
            )
        )  # fmt: skip
        assert encode(decode(encode(e))) == encode(e)


def test_on_a_calm_day_history_says_what_the_simulator_knew(imported, small, monday, clock):
    """States rebuilt from outcomes are those that the same day logs."""
    rebuilt = {}
    with imported.database.reading() as session:
        for a in session.scalars(select(Assignment)):
            rebuilt[f"hist-{a.id}"] = a.booking_id
    found = {rebuilt[e.id]: e for e in expected(imported, COMPANY)}
    with imported.database.writing() as session:
        hire(session, small, monday, company=8)
        log_day(session, small, 11, monday, company=8, first_id=10_001)
    logged = [e for e in expected(imported, 8) if e.action is not None]
    assert len(logged) == len(found)
    with imported.database.reading() as session:
        from models import Decision

        booking_of = dict(
            session.execute(
                select(Decision.id, Decision.booking_id).where(Decision.company_id == 8)
            ).all()
        )
    for e in logged:
        again = found[booking_of[e.id] - 10_000]
        assert again.reward == pytest.approx(e.reward, abs=1e-4)
        assert again.ending is e.ending
        if not e.prior:
            mine, theirs = again.state.drivers, e.state.drivers
            free = np.maximum(theirs["free_at_min"], e.state.now_min)
            assert np.allclose(mine["free_at_min"], free, atol=1e-4)
            assert np.allclose(mine["lat"], theirs["lat"]) and np.array_equal(
                mine["committed"], theirs["committed"]
            )
            assert len(again.state.bookings) == len(e.state.bookings)
        assert again.planned_reward == pytest.approx(e.planned_reward, abs=1e-3)


def test_what_cannot_be_rebuilt_is_counted_by_reason(imported):
    with imported.database.writing() as session:
        ids = session.scalars(select(Assignment.id).order_by(Assignment.id)).all()
        early = session.get(Assignment, ids[0])
        session.get(Booking, early.booking_id).created_at = early.assigned_at + timedelta(minutes=1)
        later = session.get(Assignment, ids[1])
        later.actual_pickup_at = later.assigned_at - timedelta(hours=1)
        lost = session.get(Assignment, ids[2])
        session.get(Booking, lost.booking_id).pickup_lat = 400.0
        morning = min(session.scalars(select(Assignment.assigned_at)).all())
        driver = session.get(Assignment, ids[3]).driver_id
        session.execute(  # a host that gives out the whole day in the morning
            update(Assignment).where(Assignment.driver_id == driver).values(assigned_at=morning)
        )
    report = collect(imported, COMPANY)
    assert {
        "assigned_before_creation", "impossible_times", "booking_of_another_day",
        "more_jobs_than_the_rules_allow",
    } <= report.not_reconstructed.keys()  # fmt: skip
    total = report.reconstructed + sum(report.not_reconstructed.values())
    assert total == len(ids) and report.reconstruction_provisional == 0


def test_history_ends_where_the_log_begins(imported, small, monday, clock):
    tuesday = type(monday)(monday.date + timedelta(days=1), monday.start + timedelta(days=1))
    with imported.database.writing() as session:
        log_day(session, small, 12, tuesday, first_id=5001)
        # A person of the host gives out one more by hand: it is no history.
        done = session.scalars(select(Booking).where(Booking.id > 5000)).first()
        driver = session.scalars(select(Driver.id)).first()
        session.add(
            Assignment(
                booking_id=done.id, driver_id=driver, status="CANCELED",
                assigned_at=tuesday.start + timedelta(hours=6),
            )
        )  # fmt: skip
    clock.set(tuesday.start + timedelta(days=2))
    report = collect(imported, COMPANY)
    hist = [e for e in expected(imported, COMPANY) if e.source == "reconstructed"]
    assert hist and all(e.day == monday.date for e in hist)
    assert report.assigned and verify(imported, COMPANY).same
    assert Ending.COMPLETED in {e.ending for e in hist}
