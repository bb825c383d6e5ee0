"""Drivers: where they are and whether they work. A host's backend creates its own."""

from datetime import datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import Commitment, Driver, DriverStatus

from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import Answer, Body, Id, Instant, Latitude, Longitude, PageQuery, Place

drivers = ApiBlueprint("drivers", tag="Drivers")

_CLOCKS_DIFFER = timedelta(minutes=5)


ClockTime = Annotated[
    str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="on the local clock, HH:MM")
]


class DriverIn(Body):
    """A new driver with a vehicle and a daily shift."""

    driver_type: Literal["REGULAR", "EMERGENCY"] = Field(
        default="REGULAR", description="EMERGENCY: kept for urgent bookings"
    )
    wheelchair_vehicle: bool = False
    shift_start: ClockTime
    shift_end: ClockTime = Field(description="at or before shift_start: after midnight")
    home: Place | None = Field(default=None, description="where the shift starts; null: the base")


class PositionIn(Body):
    """Where the vehicle is."""

    lat: Latitude
    lon: Longitude
    at: Instant | None = Field(default=None, description="when it was measured; default: now")


class ShiftIn(Body):
    """Today's shift where it differs from the daily one."""

    shift_start_at: Instant | None = None
    shift_end_at: Instant | None = None


class Nothing(Body):
    """No fields."""


class VehicleIn(Body):
    """Whether the vehicle is out of service."""

    down: bool


class DriverOut(Answer):
    """A driver and their present state; times of day are on the local clock."""

    id: int
    driver_type: str
    is_active: bool
    wheelchair_vehicle: bool
    shift_start: str
    shift_end: str
    on_shift: bool = Field(description="what the driver last said; unsaid, the daily shift counts")
    down: bool
    lat: float | None
    lon: float | None
    position_at: Instant | None
    shift_start_at: Instant | None
    shift_end_at: Instant | None
    commitments: int = Field(description="jobs given and not finished")


class DriversOut(Answer):
    """Drivers by id; ``next_after`` reads on, null at the end."""

    drivers: list[DriverOut]
    next_after: int | None


@drivers.operation("POST", "/drivers", scope="admin", body=DriverIn, answer=DriverOut, status=201,
                   work="write", idempotent=True, problems=(409,))  # fmt: skip
def create_driver(work: Session, caller: Caller, body: DriverIn) -> DriverOut:
    """Hire a driver, where no host's backend does."""
    driver = Driver(
        company_id=caller.company_id,
        driver_type=body.driver_type,
        is_active=True,
        wheelchair_vehicle=body.wheelchair_vehicle,
        shift_start=time.fromisoformat(body.shift_start),
        shift_end=time.fromisoformat(body.shift_end),
        home_lat=None if body.home is None else body.home.lat,
        home_lon=None if body.home is None else body.home.lon,
    )
    work.add(driver)
    try:
        work.flush()
    except IntegrityError:
        raise Problem(409, "the host's table of drivers asks for more: create them there") from None
    return _shown(driver, None, {})


@drivers.operation("GET", "/drivers", scope="read", query=PageQuery, answer=DriversOut,
                   work="read")  # fmt: skip
def list_drivers(work: Session, caller: Caller, query: PageQuery) -> DriversOut:
    """List the company's drivers with where they are and whether they work."""
    statement = (
        select(Driver, DriverStatus)
        .outerjoin(DriverStatus, DriverStatus.driver_id == Driver.id)
        .where(Driver.company_id == caller.company_id, Driver.id > query.after)
        .order_by(Driver.id)
        .limit(query.limit + 1)
    )
    rows = work.execute(statement).all()
    jobs = work.execute(
        select(Commitment.driver_id, func.count())
        .where(Commitment.company_id == caller.company_id)
        .group_by(Commitment.driver_id)
    )
    counts = {driver_id: count for driver_id, count in jobs}  # noqa: C416 - rows, not pairs
    page = [_shown(driver, status, counts) for driver, status in rows[: query.limit]]
    return DriversOut(
        drivers=page, next_after=page[-1].id if len(rows) > query.limit and page else None
    )


@drivers.operation("GET", "/drivers/<id:driver_id>", scope="read", answer=DriverOut, work="read",
                   problems=(404,))  # fmt: skip
def get_driver(work: Session, caller: Caller, driver_id: Id) -> DriverOut:
    """One driver."""
    driver = own_driver(work, caller, driver_id)
    return _answer(work, driver, work.get(DriverStatus, driver.id))


@drivers.operation("PUT", "/drivers/<id:driver_id>/position", scope="dispatch", body=PositionIn,
                   answer=DriverOut, work="write", problems=(404,))  # fmt: skip
def set_position(work: Session, caller: Caller, driver_id: Id, body: PositionIn) -> DriverOut:
    """Tell where a driver is. A position older than the one known changes nothing."""
    now = services().clock.now()
    at = body.at or now
    if at > now + _CLOCKS_DIFFER:
        raise Problem(422, "lies in the future", field="body.at")
    driver, status = _own_status(work, caller, driver_id, now)
    if status.position_at is None or at >= status.position_at:
        status.lat, status.lon, status.position_at = body.lat, body.lon, at
        status.updated_at = now
    work.flush()
    return _answer(work, driver, status)


@drivers.operation("POST", "/drivers/<id:driver_id>/on-shift", scope="dispatch", body=ShiftIn,
                   answer=DriverOut, work="write", problems=(404, 409))  # fmt: skip
def start_shift(work: Session, caller: Caller, driver_id: Id, body: ShiftIn) -> DriverOut:
    """A driver begins to work; times given here replace the daily shift for today."""
    now = services().clock.now()
    driver, status = _own_status(work, caller, driver_id, now)
    if not driver.is_active:
        raise Problem(409, "the driver is not active", field="path.driver_id")
    start, end = body.shift_start_at, body.shift_end_at
    if end is not None and end <= max(start or now, now):
        raise Problem(422, "must lie after the start and after now", field="body.shift_end_at")
    for name, moment in (("shift_start_at", start), ("shift_end_at", end)):
        if moment is not None and abs(moment - now) > timedelta(days=1):
            raise Problem(422, "is more than a day away", field=f"body.{name}")
    status.on_shift = True
    status.shift_start_at, status.shift_end_at = start, end
    status.updated_at = now
    work.flush()
    return _answer(work, driver, status)


@drivers.operation("POST", "/drivers/<id:driver_id>/off-shift", scope="dispatch", body=Nothing,
                   answer=DriverOut, work="write", problems=(404,))  # fmt: skip
def end_shift(work: Session, caller: Caller, driver_id: Id) -> DriverOut:
    """A driver gets no new bookings this shift; those they have stay theirs until overridden."""
    now = services().clock.now()
    driver, status = _own_status(work, caller, driver_id, now)
    status.on_shift = False
    if status.shift_start_at is not None and status.shift_start_at > now:
        status.shift_start_at = None
    status.shift_end_at = now  # that it was said, and when: the next shift is the roster's again
    status.updated_at = now
    work.flush()
    return _answer(work, driver, status)


@drivers.operation("PUT", "/drivers/<id:driver_id>/vehicle", scope="dispatch", body=VehicleIn,
                   answer=DriverOut, work="write", problems=(404,))  # fmt: skip
def set_vehicle(work: Session, caller: Caller, driver_id: Id, body: VehicleIn) -> DriverOut:
    """The vehicle breaks down, or is back in service."""
    now = services().clock.now()
    driver, status = _own_status(work, caller, driver_id, now)
    status.down = body.down
    status.updated_at = now
    work.flush()
    return _answer(work, driver, status)


def own_driver(
    work: Session, caller: Caller, driver_id: int, *, lock: bool = False, field: str | None = None
) -> Driver:
    """The caller's driver; ``lock`` keeps others from changing it until the work is done.

    Raises:
        Problem: 404 if it is not there or not the caller's.
    """
    statement = select(Driver).where(Driver.id == driver_id, Driver.company_id == caller.company_id)
    if lock:
        statement = statement.with_for_update()
    driver = work.scalars(statement).one_or_none()
    if driver is None:
        raise not_found("driver", field or "path.driver_id")
    return driver


def _own_status(
    work: Session, caller: Caller, driver_id: int, now: datetime
) -> tuple[Driver, DriverStatus]:
    """The driver, locked, and their status, made if there was none."""
    driver = own_driver(work, caller, driver_id, lock=True)
    status = work.get(DriverStatus, driver.id, populate_existing=True)
    if status is None:
        status = DriverStatus(
            driver_id=driver.id,
            company_id=driver.company_id,
            on_shift=False,
            down=False,
            updated_at=now,
        )
        work.add(status)
    return driver, status


def _answer(work: Session, driver: Driver, status: DriverStatus | None) -> DriverOut:
    count = work.scalar(
        select(func.count()).select_from(Commitment).where(Commitment.driver_id == driver.id)
    )
    return _shown(driver, status, {driver.id: count or 0})


def _shown(driver: Driver, status: DriverStatus | None, counts: dict[int, int]) -> DriverOut:
    return DriverOut(
        id=driver.id,
        driver_type=driver.driver_type,
        is_active=driver.is_active,
        wheelchair_vehicle=driver.wheelchair_vehicle,
        shift_start=_hh_mm(driver.shift_start),
        shift_end=_hh_mm(driver.shift_end),
        on_shift=status is not None and status.on_shift,
        down=status is not None and status.down,
        lat=None if status is None else status.lat,
        lon=None if status is None else status.lon,
        position_at=None if status is None else status.position_at,
        shift_start_at=None if status is None else status.shift_start_at,
        shift_end_at=None if status is None else status.shift_end_at,
        commitments=counts.get(driver.id, 0),
    )


def _hh_mm(moment: time | None) -> str:  # None: a host's driver without a shift
    return "" if moment is None else moment.strftime("%H:%M")
