"""Bookings: create, edit, cancel, list. Places and times only; who the patient is stays away."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import Assignment, Booking, BookingPin, Commitment, complete
from services.learning.changes import note_change

from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import (
    Answer,
    Body,
    Id,
    Instant,
    PageQuery,
    Place,
    Priority,
    ServiceMinutes,
)
from .statuses import CANCELED, IN_PROGRESS, OVER, PENDING

bookings = ApiBlueprint("bookings", tag="Bookings")

_FURTHEST = timedelta(days=370)


class BookingIn(Body):
    """A new booking."""

    pickup: Place
    dropoff: Place
    scheduled_time: Instant | None = Field(
        default=None, description="promised pickup; needed unless is_urgent"
    )
    priority: Priority = 3
    is_urgent: bool = Field(default=False, description="as soon as possible")
    wheelchair_need: bool = False
    is_return: bool = Field(default=False, description="from the care facility back home")
    pickup_service_min: ServiceMinutes | None = None
    dropoff_service_min: ServiceMinutes | None = None


class BookingEdit(Body):
    """What changes; fields left out stay as they are."""

    pickup: Place | None = None
    dropoff: Place | None = None
    scheduled_time: Instant | None = None
    priority: Priority | None = None
    is_urgent: bool | None = None
    wheelchair_need: bool | None = None
    is_return: bool | None = None
    pickup_service_min: ServiceMinutes | None = None
    dropoff_service_min: ServiceMinutes | None = None


class CancelIn(Body):
    """When the patient called it off."""

    cancelled_at: Instant | None = Field(default=None, description="default: now")


class CommitmentOut(Answer):
    """Who has the booking now."""

    assignment_id: int
    driver_id: int
    state: Literal["queued", "driving", "onboard"]
    planned_pickup_at: Instant
    planned_dropoff_at: Instant


class BookingOut(Answer):
    """A booking."""

    id: int
    pickup: Place
    dropoff: Place
    scheduled_time: Instant
    created_at: Instant
    status: str
    priority: int
    is_urgent: bool
    wheelchair_need: bool
    is_return: bool
    pickup_service_min: float | None
    dropoff_service_min: float | None
    cancelled_at: Instant | None
    commitment: CommitmentOut | None


class BookingsOut(Answer):
    """Bookings by id; ``next_after`` reads on, null at the end."""

    bookings: list[BookingOut]
    next_after: int | None


class BookingsQuery(PageQuery):
    """Which bookings."""

    status: Annotated[str, Field(pattern=r"^[A-Z_]{1,20}$")] | None = None
    scheduled_from: Instant | None = None
    scheduled_before: Instant | None = None


@bookings.operation("POST", "/bookings", scope="dispatch", body=BookingIn, answer=BookingOut,
                    status=201, work="write", idempotent=True)  # fmt: skip
def create_booking(work: Session, caller: Caller, body: BookingIn) -> BookingOut:
    """Create a booking."""
    now = services().clock.now()
    if body.scheduled_time is None and not body.is_urgent:
        raise Problem(422, "is needed unless is_urgent is true", field="body.scheduled_time")
    booking = Booking(
        company_id=caller.company_id,
        pickup_lat=body.pickup.lat,
        pickup_lon=body.pickup.lon,
        dropoff_lat=body.dropoff.lat,
        dropoff_lon=body.dropoff.lon,
        scheduled_time=body.scheduled_time or now,
        created_at=now,
        status=PENDING,
        priority=body.priority,
        is_urgent=body.is_urgent,
        wheelchair_need=body.wheelchair_need,
        is_return=body.is_return,
        pickup_service_min=body.pickup_service_min,
        dropoff_service_min=body.dropoff_service_min,
    )
    _check(booking)
    work.add(booking)
    work.flush()
    return shown_booking(booking, None)


@bookings.operation("GET", "/bookings", scope="read", query=BookingsQuery, answer=BookingsOut,
                    work="read")  # fmt: skip
def list_bookings(work: Session, caller: Caller, query: BookingsQuery) -> BookingsOut:
    """List the company's bookings, oldest id first."""
    statement = (
        select(Booking, Commitment)
        .outerjoin(Commitment, Commitment.booking_id == Booking.id)
        .where(Booking.company_id == caller.company_id, Booking.id > query.after, complete())
        .order_by(Booking.id)
        .limit(query.limit + 1)
    )
    if query.status is not None:
        statement = statement.where(Booking.status == query.status)
    if query.scheduled_from is not None:
        statement = statement.where(Booking.scheduled_time >= query.scheduled_from)
    if query.scheduled_before is not None:
        statement = statement.where(Booking.scheduled_time < query.scheduled_before)
    rows = work.execute(statement).all()
    page = [shown_booking(booking, commitment) for booking, commitment in rows[: query.limit]]
    return BookingsOut(
        bookings=page, next_after=page[-1].id if len(rows) > query.limit and page else None
    )


@bookings.operation("GET", "/bookings/<id:booking_id>", scope="read", answer=BookingOut,
                    work="read", problems=(404,))  # fmt: skip
def get_booking(work: Session, caller: Caller, booking_id: Id) -> BookingOut:
    """One booking."""
    booking = own_booking(work, caller, booking_id)
    return shown_booking(booking, work.get(Commitment, booking.id))


@bookings.operation("PATCH", "/bookings/<id:booking_id>", scope="dispatch", body=BookingEdit,
                    answer=BookingOut, work="write", idempotent=True,
                    problems=(404, 409))  # fmt: skip
def edit_booking(work: Session, caller: Caller, booking_id: Id, body: BookingEdit) -> BookingOut:
    """Change a booking that nobody has been given yet.

    A booking with a driver is a commitment: override or cancel it instead (409).
    """
    booking = own_booking(work, caller, booking_id, lock=True)
    if booking.status in OVER:
        raise Problem(409, "the booking is over", field="path.booking_id")
    if work.get(Commitment, booking.id) is not None:
        raise Problem(
            409, "a driver has this booking: override or cancel it", field="path.booking_id"
        )
    given = body.model_fields_set
    services_min = {"pickup_service_min", "dropoff_service_min"}
    for name in sorted(given):
        value = getattr(body, name)
        if value is None and name not in services_min:
            raise Problem(422, "cannot be null", field=f"body.{name}")
        if name in {"pickup", "dropoff"}:
            setattr(booking, f"{name}_lat", value.lat)
            setattr(booking, f"{name}_lon", value.lon)
        else:
            setattr(booking, name, value)
    if given & {"scheduled_time", "is_urgent"}:
        _check(booking)
    note_change(work, booking, services().clock.now())
    work.flush()
    return shown_booking(booking, None)


@bookings.operation("POST", "/bookings/<id:booking_id>/cancel", scope="dispatch", body=CancelIn,
                    answer=BookingOut, work="write", idempotent=True,
                    problems=(404, 409))  # fmt: skip
def cancel_booking(work: Session, caller: Caller, booking_id: Id, body: CancelIn) -> BookingOut:
    """Call a booking off; its driver's place is free again. Doing it twice changes nothing."""
    booking = own_booking(work, caller, booking_id, lock=True)
    if booking.status == CANCELED:
        return shown_booking(booking, None)
    if booking.status in OVER or booking.status == IN_PROGRESS:
        raise Problem(409, f"the booking is {booking.status}", field="path.booking_id")
    now = services().clock.now()
    at = body.cancelled_at or now
    if not booking.created_at - timedelta(minutes=1) <= at <= now + timedelta(minutes=5):
        raise Problem(
            422,
            "must lie between the booking's creation and now",
            field="body.cancelled_at",
        )
    call_off(work, booking, work.get(Commitment, booking.id), at)
    note_change(work, booking, now)
    work.flush()
    return shown_booking(booking, None)


def own_booking(
    work: Session, caller: Caller, booking_id: int, *, lock: bool = False, field: str | None = None
) -> Booking:
    """The caller's booking; ``lock`` keeps others from changing it until the work is done.

    Raises:
        Problem: 404 if it is not there or not the caller's.
    """
    statement = select(Booking).where(
        Booking.id == booking_id, Booking.company_id == caller.company_id, complete()
    )
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    booking = work.scalars(statement).one_or_none()
    if booking is None:
        raise not_found("booking", field or "path.booking_id")
    return booking


def call_off(work: Session, booking: Booking, commitment: Commitment | None, at: Instant) -> None:
    """End a booking as cancelled by the patient; the caller holds its lock."""
    booking.status = CANCELED
    booking.cancelled_at = at
    if commitment is not None:
        assignment = work.get(Assignment, commitment.assignment_id)
        if assignment is not None:
            assignment.status = CANCELED
        work.delete(commitment)
    work.execute(delete(BookingPin).where(BookingPin.booking_id == booking.id))


def shown_booking(booking: Booking, commitment: Commitment | None) -> BookingOut:
    """The booking as the API shows it."""
    fields = {
        name: getattr(booking, name)
        for name in BookingOut.model_fields
        if name not in {"pickup", "dropoff", "commitment"}
    }
    return BookingOut(
        **fields,
        pickup=Place(lat=booking.pickup_lat, lon=booking.pickup_lon),
        dropoff=Place(lat=booking.dropoff_lat, lon=booking.dropoff_lon),
        commitment=None if commitment is None else CommitmentOut.model_validate(commitment),
    )


def _check(booking: Booking) -> None:
    """Refuse a pickup whose window and grace are over, or that is more than a year away."""
    now = services().clock.now()
    rules = services().scenario.rules
    last = booking.scheduled_time + timedelta(minutes=rules.window_min + rules.grace_min)
    if last < now:
        raise Problem(422, "the pickup window is over", field="body.scheduled_time")
    if booking.scheduled_time > now + _FURTHEST:
        raise Problem(422, "is more than a year ahead", field="body.scheduled_time")
