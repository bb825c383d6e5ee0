"""Overdue patients stay on the list, and weigh more the longer they have waited."""

import pytest
from sqlalchemy import func, select

from models import Commitment, Driver
from services.dispatching.fates import DispatchError
from services.dispatching.fleet import FORGOTTEN
from services.dispatching.reach import AGING_MIN

from .companies import COMPANY


def _shown(company):
    with company.database.reading() as session:
        fleet = company.dispatcher.fleet(session, COMPANY)
    return fleet, dict(
        zip((b.id for b in fleet.bookings), fleet.state.bookings["priority"].tolist(), strict=True)
    )


def test_waiting_raises_the_priority_of_overdue_patients_only(company):
    company.clock.advance(minutes=120)
    company.book()
    own = {booking.id: booking.priority for booking in company.bookings()}
    fleet, _ = _shown(company)
    assert fleet.stretched and set(own) - fleet.stretched
    company.clock.advance(minutes=2 * AGING_MIN)
    later, after = _shown(company)
    for booking in later.bookings:
        waited = (company.clock.now() - booking.scheduled_time).total_seconds() / 60.0
        levels = int(max(0.0, waited) / AGING_MIN) if booking.id in later.stretched else 0
        assert after[booking.id] == min(5, own[booking.id] + levels)
    assert any(after[b] > own[b] for b in later.stretched)
    told = later.state.extra["own_priority"]
    assert told == {str(b): own[b] for b in later.stretched}


def test_vehicles_for_urgent_bookings_stay_theirs(company):
    with company.database.writing() as session:
        session.get(Driver, 1).driver_type = "EMERGENCY"
    company.book()
    company.clock.advance(minutes=180)
    _, shown = _shown(company)
    urgent = company.scenario.rules.emergency_min_priority
    own = {booking.id: booking.priority for booking in company.bookings()}
    assert any(priority < urgent for priority in own.values())
    for booking, priority in shown.items():
        assert (priority >= urgent) == (own[booking] >= urgent)


def test_rows_that_nobody_closed_take_no_driver_and_are_named(company):
    company.book()
    company.clock.advance(minutes=FORGOTTEN.total_seconds() / 60.0 + 24 * 60.0)
    fleet, shown = _shown(company)
    known = sorted(booking.id for booking in company.bookings())
    assert not shown and sorted(fleet.forgotten) == known
    with pytest.raises(DispatchError, match=f"booking {known[0]} was promised more than a day ago"):
        company.dispatcher.dispatch(COMPANY, only=known)
    assert not company.dispatcher.dispatch(COMPANY).fates
    with company.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Commitment)) == 0
