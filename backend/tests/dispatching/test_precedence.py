"""Overdue patients come before every policy, however it weighs them."""

from models import Decision
from services.rl.ab_dispatcher import ArmAnswer
from services.rl.policies.base import DecisionSet

from .companies import COMPANY


class _PutsOff:
    """An arm that assigns nobody, ever."""

    def decide(self, state, *, plan=None, budget_ms=None):
        return ArmAnswer(DecisionSet(()), "puts_off")


def test_an_overdue_patient_is_sent_for_whatever_the_policy_prefers(company, monkeypatch):
    real = company.desk.dispatcher(COMPANY)
    monkeypatch.setitem(real._arms, "heuristic", _PutsOff())
    company.clock.advance(minutes=120)
    company.book()
    first = company.dispatcher.dispatch(COMPANY)
    sent = [fate for fate in first.fates if fate.driver_id is not None]
    assert sent and all(fate.overdue and fate.routed.policy == "overdue" for fate in sent)
    places = len(company.played.drivers) * (1 + company.scenario.rules.queue)
    assert len(sent) <= places
    again = company.dispatcher.dispatch(COMPANY)  # no place twice
    assert not {f.booking_id for f in sent} & {f.booking_id for f in again.fates}


def test_the_arm_that_let_a_patient_wait_answers_for_it(company, monkeypatch):
    real = company.desk.dispatcher(COMPANY)
    monkeypatch.setitem(real._arms, "heuristic", _PutsOff())
    company.book()
    known = {fate.booking_id for fate in company.dispatcher.dispatch(COMPANY).fates}
    with company.database.writing() as session:
        for row in session.query(Decision):
            row.arm, row.unit = "rl", f"booking:{row.booking_id}"
    company.clock.advance(minutes=120)
    later = company.dispatcher.dispatch(COMPANY)
    sent = [f for f in later.fates if f.driver_id is not None and f.booking_id in known]
    assert sent
    with company.database.reading() as session:
        for fate in sent:
            row = session.get(Decision, fate.decision_id)
            assert (row.arm, row.unit) == ("rl", f"booking:{row.booking_id}")
