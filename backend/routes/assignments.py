"""Outcomes: what became of an assignment. Assignment, booking and commitment change together."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import Assignment, Booking, BookingPin, Commitment
from services.learning.changes import note_change

from .bookings import call_off, own_booking
from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import Answer, Body, Id, Instant
from .statuses import ASSIGNED, CANCELED, COMPLETED, IN_PROGRESS, NO_SHOW

assignments = ApiBlueprint("assignments", tag="Assignments")

Outcome = Literal["picked_up", "completed", "no_show", "cancelled"]
_STATUS: dict[str, str] = {
    "picked_up": IN_PROGRESS,
    "completed": COMPLETED,
    "no_show": NO_SHOW,
    "cancelled": CANCELED,
}
# What may follow what; an outcome told again is accepted where its times agree.
_NEXT: dict[str, frozenset[str]] = {
    ASSIGNED: frozenset(_STATUS.values()),
    IN_PROGRESS: frozenset({COMPLETED}),
}
_CLOCKS_DIFFER = timedelta(minutes=5)


class OutcomeIn(Body):
    """What happened, and when."""

    outcome: Outcome
    at: Instant = Field(description="pickup, dropoff, giving up, or the patient's call")
    picked_up_at: Instant | None = Field(
        default=None, description="with completed: the pickup, if it was not told before"
    )


class AssignmentOut(Answer):
    """An assignment."""

    id: int
    booking_id: int
    driver_id: int
    assigned_at: Instant
    status: str
    actual_pickup_at: Instant | None
    actual_dropoff_at: Instant | None
    booking_status: str


@assignments.operation("GET", "/assignments/<id:assignment_id>", scope="read",
                       answer=AssignmentOut, work="read", problems=(404,))  # fmt: skip
def get_assignment(work: Session, caller: Caller, assignment_id: Id) -> AssignmentOut:
    """One assignment."""
    return _shown(*own_assignment(work, caller, assignment_id))


@assignments.operation("POST", "/assignments/<id:assignment_id>/outcome", scope="dispatch",
                       body=OutcomeIn, answer=AssignmentOut, work="write", idempotent=True,
                       problems=(404, 409))  # fmt: skip
def tell_outcome(
    work: Session, caller: Caller, assignment_id: Id, body: OutcomeIn
) -> AssignmentOut:
    """Tell what became of an assignment; telling the same again changes nothing.

    `picked_up` then `completed`, or `no_show`, or `cancelled` (the patient called it off).
    """
    if body.picked_up_at is not None and body.outcome != "completed":
        raise Problem(422, "belongs to the outcome completed", field="body.picked_up_at")
    assignment, booking = own_assignment(work, caller, assignment_id, lock=True)
    if _told_before(assignment, booking, body):
        return _shown(assignment, booking)
    if _STATUS[body.outcome] not in _NEXT.get(assignment.status, frozenset()):
        raise Problem(
            409,
            f"an assignment that is {assignment.status} cannot be {body.outcome}",
            field="body.outcome",
        )
    _check_time(assignment, body.at, "body.at")
    _apply(work, assignment, booking, body)
    note_change(work, booking, services().clock.now())
    work.flush()
    return _shown(assignment, booking)


def own_assignment(
    work: Session, caller: Caller, assignment_id: int, *, lock: bool = False
) -> tuple[Assignment, Booking]:
    """The caller's assignment and its booking.

    Raises:
        Problem: 404 if it is not there or not the caller's.
    """
    statement = (
        select(Assignment, Booking)
        .join(Booking, Booking.id == Assignment.booking_id)
        .where(Assignment.id == assignment_id, Booking.company_id == caller.company_id)
    )
    row = work.execute(statement).one_or_none()
    if row is None:
        raise not_found("assignment", "path.assignment_id")
    assignment, booking = row
    if lock:
        # Everybody locks the booking first, so that no two wait for each other.
        own_booking(work, caller, booking.id, lock=True)
        work.refresh(assignment)
    return assignment, booking


def _apply(work: Session, assignment: Assignment, booking: Booking, body: OutcomeIn) -> None:
    commitment = work.get(Commitment, booking.id)
    if commitment is not None and commitment.assignment_id != assignment.id:
        raise Problem(409, "the booking was given to another driver since", field="body.outcome")
    if body.outcome == "cancelled":
        call_off(work, booking, commitment, body.at)
        assignment.status = CANCELED
        return
    assignment.status = booking.status = _STATUS[body.outcome]
    if body.outcome == "picked_up":
        assignment.actual_pickup_at = body.at
        if commitment is not None:
            commitment.state = "onboard"
        return
    if body.outcome == "completed":
        _complete(assignment, body)
    if commitment is not None:
        work.delete(commitment)
    work.execute(delete(BookingPin).where(BookingPin.booking_id == booking.id))


def _complete(assignment: Assignment, body: OutcomeIn) -> None:
    pickup = assignment.actual_pickup_at
    if body.picked_up_at is not None:
        if pickup is not None and pickup != body.picked_up_at:
            raise Problem(409, "another pickup time was told before", field="body.picked_up_at")
        pickup = body.picked_up_at
        _check_time(assignment, pickup, "body.picked_up_at")
    if pickup is None:
        raise Problem(422, "is needed: the pickup was not told before", field="body.picked_up_at")
    if body.at <= pickup:
        raise Problem(422, "must lie after the pickup", field="body.at")
    assignment.actual_pickup_at = pickup
    assignment.actual_dropoff_at = body.at


def _told_before(assignment: Assignment, booking: Booking, body: OutcomeIn) -> bool:
    """Whether exactly this was told before; a picked_up also after the completion."""
    if body.outcome == "picked_up":
        return assignment.actual_pickup_at == body.at
    if assignment.status != _STATUS[body.outcome]:
        return False
    if body.outcome == "completed":
        return assignment.actual_dropoff_at == body.at and body.picked_up_at in (
            None,
            assignment.actual_pickup_at,
        )
    return body.outcome == "no_show" or booking.cancelled_at == body.at


def _check_time(assignment: Assignment, moment: datetime, field: str) -> None:
    if moment > services().clock.now() + _CLOCKS_DIFFER:
        raise Problem(422, "lies in the future", field=field)
    if moment < assignment.assigned_at - _CLOCKS_DIFFER:
        raise Problem(422, "lies before the assignment", field=field)


def _shown(assignment: Assignment, booking: Booking) -> AssignmentOut:
    fields = {
        name: getattr(assignment, name)
        for name in AssignmentOut.model_fields
        if name != "booking_status"
    }
    return AssignmentOut(**fields, booking_status=booking.status)
