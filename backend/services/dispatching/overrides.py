"""A person's decision in place of the policy's: kept as theirs, under the arm that was drawn."""

import uuid
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Assignment, Booking, Commitment, Decision
from models.reasons import ReasonCode
from routes.problems import Problem
from routes.statuses import CANCELED, IN_PROGRESS, OVER, PENDING
from services.learning.changes import note_change
from services.rl.simulation.observation import LAYOUT_VERSION

from .dispatcher import Dispatcher
from .ledger import plan_features
from .schedule import Schedule

Refusal = Literal["shadow", "over", "overridden", "later"]
"""Why a decision cannot be overridden: it was not acted on; the booking is over or under way; it
was overridden before; there is a later decision about the booking."""


def latest_decision(session: Session, booking_id: int) -> Decision | None:
    """The last decision about a booking that was acted on.

    A person's and the one it replaces may bear the same instant: what was overridden is older.
    """
    return session.scalars(
        select(Decision)
        .where(Decision.booking_id == booking_id, Decision.shadow.is_(False))
        .order_by(
            Decision.decided_at.desc(),
            Decision.overridden_by.is_not(None),
            Decision.seq.desc(),
            Decision.id,
        )
        .limit(1)
    ).one_or_none()


def refusal(decision: Decision, booking: Booking | None, latest: Decision | None) -> Refusal | None:
    """Why a decision cannot be overridden; None: it can. For the API and the dashboard alike."""
    if decision.shadow:
        return "shadow"
    if booking is None or booking.status in OVER or booking.status == IN_PROGRESS:
        return "over"
    if decision.overridden_by is not None:
        return "overridden"
    return "later" if latest is not None and latest.id != decision.id else None


def override(
    dispatcher: Dispatcher,
    session: Session,
    decision: Decision,
    booking: Booking,
    driver_id: int | None,
    reason_code: ReasonCode,
) -> Decision:
    """Give the booking to another driver, or to nobody yet; the human decision's row.

    The arm and unit stay (intention to treat), the old decision points to the new one. The fleet is
    logged as the person found it, with the booking open again. A person
    may send a driver whom the rules of time would not; not one whose vehicle or queue cannot.

    Args:
        dispatcher: Builds the fleet and the times.
        session: Writing; holds the booking's lock.
        decision: That is to be replaced.
        booking: Its booking.
        driver_id: Of the same company, or None.
        reason_code: Why.

    Raises:
        Problem: 409 if the patient is aboard, the booking is over, the decision was not acted on
            or is not the latest, or the driver's queue is full; 422 if the vehicle cannot carry
            the patient.
    """
    latest = latest_decision(session, booking.id)
    why = refusal(decision, booking, latest)
    if why is not None:
        raise _refused(why, booking, latest)
    _withdraw(session, booking)
    fleet = dispatcher.fleet(session, booking.company_id)
    now = dispatcher.now()
    snapshot_id = None
    if fleet is not None:  # what the person saw, so that their decision can be learned from
        now = fleet.day.instant(fleet.state.now_min)
        snapshot_id = dispatcher.ledger.snapshot(session, booking.company_id, fleet, now)
    made = Decision(
        id=uuid.uuid4().hex,
        snapshot_id=snapshot_id,
        seq=0,
        company_id=booking.company_id,
        booking_id=booking.id,
        driver_id=driver_id,
        action="defer" if driver_id is None else "assign",
        k=1,
        propensity=1.0,
        arm=decision.arm,
        unit=decision.unit,
        model=None,
        layout=LAYOUT_VERSION,
        score=None,
        features=None,
        latency_ms=0.0,
        fallback_reason=None,
        plan_hash=None,
        decided_at=now,
        shadow=False,
        source="human",
        reason_code=reason_code,
    )
    session.add(made)
    session.flush()
    decision.overridden_by = made.id
    note_change(session, booking, now)
    if driver_id is None:
        session.flush()
        return made
    rows = {driver.id: d for d, driver in enumerate(fleet.drivers)} if fleet is not None else {}
    if fleet is None or driver_id not in rows:
        raise Problem(409, "this driver is not active", field="body.driver_id")
    d = rows[driver_id]
    b = next((i for i, each in enumerate(fleet.bookings) if each.id == booking.id), None)
    if b is None:
        raise Problem(409, "the booking is not of this operating day", field="path.decision_id")
    if booking.wheelchair_need and not fleet.drivers[d].wheelchair_vehicle:
        raise Problem(422, "this vehicle cannot carry a wheelchair", field="body.driver_id")
    queue = fleet.commitments[driver_id]
    if len(queue) > dispatcher.desk.scenario.rules.queue:
        raise Problem(409, "this driver's queue is full", field="body.driver_id")
    job = Schedule(fleet, dispatcher.desk.tables).planned(d, b)
    made.features = plan_features(job)
    dispatcher.ledger.assign(session, fleet, booking, driver_id, made.id, job, now)
    return made


def _refused(why: Refusal, booking: Booking, latest: Decision | None) -> Problem:
    said = {
        "shadow": "this decision was not acted on",
        "over": f"the booking is {booking.status}",
        "overridden": "this decision was overridden before",
        "later": "a later decision about this booking exists",
    }
    field = "path.decision_id"
    more = []
    if latest is not None and why in ("overridden", "later"):
        more = [(field, f"the latest is {latest.id}")]
    return Problem(409, said[why], field=field, errors=more)


def _withdraw(session: Session, booking: Booking) -> None:
    """Take the booking from whoever has it."""
    commitment = session.get(Commitment, booking.id)
    if commitment is None:
        return
    if commitment.state == "onboard":
        raise Problem(409, "the patient is aboard", field="path.decision_id")
    assignment = session.get(Assignment, commitment.assignment_id)
    if assignment is not None:
        assignment.status = CANCELED
    session.delete(commitment)
    booking.status = PENDING
    session.flush()
