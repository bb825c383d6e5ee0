"""Decide for a fleet that the request brings: nothing is read, committed or logged."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from access import Caller
from extensions import services
from models import Booking
from services.dispatching.brought import BroughtDriver, decide_for
from services.dispatching.part import dispatcher

from .decided import Decided, shown
from .operation import ApiBlueprint
from .problems import Problem
from .schema import (
    Answer,
    Body,
    Id,
    Instant,
    Latitude,
    Longitude,
    Place,
    Priority,
    ServiceMinutes,
)
from .statuses import PENDING

fleet_state = ApiBlueprint("fleet_state", tag="Dispatch")

_MOST_DRIVERS = 500
_MOST_BOOKINGS = 2_000
_MOST_COMMITTED = 4
_FURTHEST = timedelta(days=370)
_INSTANTS = {
    "drivers": ("free_at", "shift_start", "shift_end"),
    "bookings": ("created_at", "scheduled_time"),
}


class StateDriver(Body):
    """A driver as the caller knows them."""

    id: Id
    lat: Latitude = Field(description="where committed work ends, else where the driver is")
    lon: Longitude
    free_at: Instant | None = Field(default=None, description="when that work ends; null: now")
    committed: Annotated[int, Field(ge=0, le=_MOST_COMMITTED)] = Field(
        default=0, description="jobs in progress or queued"
    )
    shift_start: Instant
    shift_end: Instant
    wheelchair_vehicle: bool = False
    emergency: bool = Field(default=False, description="kept for urgent bookings")
    down: bool = Field(default=False, description="the vehicle is out of order")


class StateBooking(Body):
    """An open booking without a driver, as the caller knows it."""

    id: Id
    pickup: Place
    dropoff: Place
    created_at: Instant
    scheduled_time: Instant
    priority: Priority = 3
    is_urgent: bool = Field(default=False, description="as soon as possible")
    wheelchair_need: bool = False
    is_return: bool = False
    pickup_service_min: ServiceMinutes | None = None
    dropoff_service_min: ServiceMinutes | None = None


class StateIn(Body):
    """The whole fleet and all its open bookings; ids are the company's own."""

    at: Instant | None = Field(default=None, description="the moment of this state; null: now")
    drivers: Annotated[list[StateDriver], Field(min_length=1, max_length=_MOST_DRIVERS)]
    bookings: Annotated[list[StateBooking], Field(min_length=1, max_length=_MOST_BOOKINGS)]
    booking_ids: Annotated[list[Id], Field(min_length=1, max_length=_MOST_BOOKINGS)] | None = Field(
        default=None, description="decide only these; null: all"
    )


class StateOut(Answer):
    """What the company's arms decide about each booking."""

    decisions: list[Decided]


@fleet_state.operation("POST", "/dispatch/state", scope="dispatch", body=StateIn, answer=StateOut)
def dispatch_state(caller: Caller, body: StateIn) -> StateOut:
    """Decide for the fleet that the request brings.

    For a host that keeps its fleet elsewhere, or asks "what if". Nothing is read, committed or
    logged: carrying the answer out is the caller's, and nothing is learned from it.
    """
    _without_repetition([driver.id for driver in body.drivers], "drivers")
    known = _without_repetition([booking.id for booking in body.bookings], "bookings")
    for i, wanted in enumerate(body.booking_ids or ()):
        if wanted not in known:
            raise Problem(422, "is not among the bookings", field=f"body.booking_ids.{i}")
    for i, driver in enumerate(body.drivers):
        if driver.shift_end < driver.shift_start:
            raise Problem(422, "lies before shift_start", field=f"body.drivers.{i}.shift_end")
    at = body.at or services().clock.now()
    _within_reach(body, at)
    fates = decide_for(
        dispatcher(),
        caller.company_id,
        at,
        [_driver(driver) for driver in body.drivers],
        [_booking(booking, caller.company_id) for booking in body.bookings],
        body.booking_ids,
    )
    return StateOut(decisions=[Decided(**shown(fate)) for fate in fates])


def _within_reach(body: StateIn, at: datetime) -> None:
    """Refuse, by field, what lies years from the moment, and queues longer than the rules allow."""
    for table, rows in (("drivers", body.drivers), ("bookings", body.bookings)):
        for i, row in enumerate(rows):
            for name in _INSTANTS[table]:
                instant = getattr(row, name)
                if instant is not None and abs(instant - at) > _FURTHEST:
                    raise Problem(
                        422, "is more than a year from `at`", field=f"body.{table}.{i}.{name}"
                    )
    most = 1 + services().scenario.rules.queue
    for i, driver in enumerate(body.drivers):
        if driver.committed > most:
            raise Problem(
                422, f"at most {most} by the rules here", field=f"body.drivers.{i}.committed"
            )


def _without_repetition(ids: Sequence[int], field: str) -> set[int]:
    seen: set[int] = set()
    for i, each in enumerate(ids):
        if each in seen:
            raise Problem(422, "appears twice", field=f"body.{field}.{i}.id")
        seen.add(each)
    return seen


def _driver(given: StateDriver) -> BroughtDriver:
    told: dict[str, Any] = given.model_dump()
    return BroughtDriver(**told | {"wheelchair": told.pop("wheelchair_vehicle")})


def _booking(given: StateBooking, company_id: int) -> Booking:
    return Booking(
        id=given.id,
        company_id=company_id,
        pickup_lat=given.pickup.lat,
        pickup_lon=given.pickup.lon,
        dropoff_lat=given.dropoff.lat,
        dropoff_lon=given.dropoff.lon,
        scheduled_time=given.scheduled_time,
        created_at=given.created_at,
        status=PENDING,
        priority=given.priority,
        is_urgent=given.is_urgent,
        wheelchair_need=given.wheelchair_need,
        is_return=given.is_return,
        pickup_service_min=given.pickup_service_min,
        dropoff_service_min=given.dropoff_service_min,
    )
