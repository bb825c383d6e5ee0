"""The tick: every company, whatever happens to one; overdue patients are told."""

from services.dispatching.fates import DispatchError, Epoch
from services.dispatching.tick import companies, dispatch_open_bookings

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
