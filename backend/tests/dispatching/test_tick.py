"""The tick: every company, whatever happens to one; overdue patients are told."""

from datetime import timedelta

from sqlalchemy import select

from models import Assignment, Booking, Commitment, Experiment
from services.dispatching.fates import DispatchError, Epoch
from services.dispatching.tick import companies, dispatch_open_bookings
from services.dispatching.unreported import UNREPORTED_AFTER

from .companies import COMPANY


def test_one_companys_failure_does_not_stop_the_others(company, monkeypatch):
    real = company.dispatcher.dispatch

    def dispatch(company_id):
        if company_id == 3:
            raise DispatchError("this company has no active driver")
        return real(company_id)

    monkeypatch.setattr(company.dispatcher, "dispatch", dispatch)
    company.clock.advance(minutes=60)
    company.book()
    seen: list[Epoch] = []
    tick = dispatch_open_bookings(company.dispatcher, [3, COMPANY], seen.append)
    assert tick.failed == {3: "this company has no active driver"}
    assert [epoch.company_id for epoch in tick.epochs] == [COMPANY] == [e.company_id for e in seen]
    assert tick.assigned > 0
    assert companies(company.database) == [COMPANY]


def test_overdue_patients_are_counted_until_somebody_can_come(company):
    company.clock.advance(minutes=200)  # nobody decided anything for hours
    company.book()
    tick = dispatch_open_bookings(company.dispatcher, [COMPANY])
    assert tick.overdue > 0


def test_a_job_that_nobody_ever_reported_gives_its_driver_back_the_place(company):
    company.clock.advance(minutes=60)
    company.book()
    dispatch_open_bookings(company.dispatcher, [COMPANY])
    with company.database.reading() as session:
        jobs = session.scalars(select(Commitment)).all()
    last = max(job.planned_dropoff_at for job in jobs)
    company.clock.set(last + UNREPORTED_AFTER)
    first = dispatch_open_bookings(company.dispatcher, [COMPANY]).released
    company.clock.set(last + UNREPORTED_AFTER + timedelta(minutes=1))
    second = dispatch_open_bookings(company.dispatcher, [COMPANY]).released
    assert sorted(first + second) == sorted(job.booking_id for job in jobs)
    assert len(second) == 1  # not a minute too soon
    with company.database.reading() as session:
        busy = session.scalars(select(Commitment.booking_id)).all()
        booking = session.get(Booking, jobs[0].booking_id)
        assignment = session.get(Assignment, jobs[0].assignment_id)
    assert not {job.booking_id for job in jobs} & set(busy)
    assert (booking.status, assignment.status) == ("ASSIGNED", "ASSIGNED")  # may be told later


def test_an_experiment_that_cannot_be_read_keeps_no_patient_waiting(company):
    company.clock.advance(minutes=60)
    company.book()
    now = company.clock.now()
    with company.database.writing() as session:
        session.add(
            Experiment(
                company_id=COMPANY, name="dispatch", mode="ab", unit="booking", salt="s",
                rl_share=0.5, created_at=now, updated_at=now, guardrails={"late_margni": 0.1},
            )
        )  # fmt: skip
    tick = dispatch_open_bookings(company.dispatcher, [COMPANY])
    assert not tick.failed and tick.assigned > 0
