"""A person's decision in place of the policy's: kept as theirs, under the arm that was drawn."""

import uuid

from sqlalchemy.orm import Session

from models import Assignment, Booking, Commitment, Decision
from models.reasons import ReasonCode
from routes.problems import Problem
from routes.statuses import CANCELED, IN_PROGRESS, OVER, PENDING
from services.rl.simulation.observation import LAYOUT_VERSION

from .dispatcher import Dispatcher
from .schedule import Schedule


def override(
    dispatcher: Dispatcher,
    session: Session,
    decision: Decision,
    booking: Booking,
    driver_id: int | None,
    reason_code: ReasonCode,
) -> Decision:
    """Give the booking to another driver, or to nobody yet; the human decision's row.

    The arm and unit stay (intention to treat), the old decision points to the new one. A person
    may send a driver whom the rules of time would not; not one whose vehicle or queue cannot.

    Args:
        dispatcher: Builds the fleet and the times.
        session: Writing; holds the booking's lock.
        decision: The latest decision about the booking.
        booking: Its booking.
        driver_id: Of the same company, or None.
        reason_code: Why.

    Raises:
        Problem: 409 if the patient is aboard, the booking is over, the decision is not the
            latest, or the driver's queue is full; 422 if the vehicle cannot carry the patient.
    """
    if booking.status in OVER or booking.status == IN_PROGRESS:
        raise Problem(409, f"the booking is {booking.status}", field="path.decision_id")
    if decision.overridden_by is not None:
        raise Problem(409, "this decision was overridden before", field="path.decision_id")
    _withdraw(session, booking)
    fleet = dispatcher.fleet(session, booking.company_id)
    now = dispatcher.now()
    made = Decision(
        id=uuid.uuid4().hex,
        snapshot_id=None,
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
    made.features = {
        "drive_min": round(job.drive_min, 3),
        "late_min": round(job.late_min, 3),
        "deadhead_km": round(job.deadhead_km, 3),
    }
    dispatcher.ledger.assign(session, fleet, booking, driver_id, made.id, job, now)
    return made


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
