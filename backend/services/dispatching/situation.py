"""What a dispatcher sees at a glance: every driver's state, and open bookings by urgency.

Read from the same rows, by the same rules of travel, as decisions are; nothing is decided here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Booking, Commitment, Driver, DriverStatus
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelModel, TravelTables, depart_min

from .fleet import FRESH_MIN, Fleet, read_fleet
from .operating_day import OperatingDay, operating_day
from .reach import earliest_pickups, may_serve
from .shifts import shift_of

DriverState = Literal["free", "driving", "onboard", "waiting", "off", "down"]
Urgency = Literal["overdue", "nobody", "late", "now", "soon", "calm"]
URGENCIES: tuple[Urgency, ...] = ("overdue", "nobody", "late", "now", "soon", "calm")
"""The most urgent first."""

NOW_MIN, SOON_MIN = 10.0, 45.0
Point = tuple[float, float]


@dataclass(frozen=True)
class DriverNow:
    """One driver.

    Attributes:
        driver_id: Who.
        at: Latitude and longitude.
        seen_min: Minutes since the position was told; None: an estimate by plan.
        state: ``waiting``: has a job that it is too early to leave for.
        wheelchair: Whether the vehicle takes one.
        booking_id: The job in hand, or the next.
        heading_to: Where that job leads now.
        next_at: When: the planned pickup, or dropoff if the patient is aboard.
        jobs: Jobs in hand and queued.
        free_at: When all of them are done, by forecast.
        shift_end: Of today.
    """

    driver_id: int
    at: Point
    seen_min: float | None
    state: DriverState
    wheelchair: bool
    booking_id: int | None
    heading_to: Point | None
    next_at: datetime | None
    jobs: int
    free_at: datetime
    shift_end: datetime


@dataclass(frozen=True)
class BookingNow:
    """One open booking.

    Attributes:
        booking_id: Which.
        at: Of the pickup.
        urgency: ``overdue``: nobody can be there within the grace; ``nobody``: no vehicle fits;
            ``late``: nobody can be there within the window; else by the time left to decide.
        slack_min: Minutes until it must be decided; for an overdue one minutes since the end of
            its grace, negative.
        must_decide_by: The moment.
        promised_at: The promise.
        priority: 1 to 5.
        wheelchair: Needs one.
        pinned_to: Driver whom a person has fixed.
    """

    booking_id: int
    at: Point
    urgency: Urgency
    slack_min: float
    must_decide_by: datetime | None
    promised_at: datetime
    priority: int
    wheelchair: bool
    pinned_to: int | None


@dataclass(frozen=True)
class Situation:
    """A company right now; bookings by urgency, the worst first."""

    day: OperatingDay
    drivers: tuple[DriverNow, ...]
    bookings: tuple[BookingNow, ...]
    committed: int
    forgotten: tuple[int, ...] = ()

    def count(self, urgencies: Iterable[Urgency]) -> int:
        """Open bookings of some urgencies."""
        wanted = set(urgencies)
        return sum(b.urgency in wanted for b in self.bookings)


def read_situation(
    session: Session,
    company_id: int,
    now: datetime,
    scenario: Scenario,
    tables: TravelTables,
    zone: ZoneInfo,
) -> Situation:
    """Read a company's drivers and open bookings of the operating day."""
    day = operating_day(now, scenario.rules, zone)
    fleet = read_fleet(session, company_id, now, day, scenario, tables, zone)
    if fleet is None:
        return Situation(day, (), (), 0)
    committed = [row for rows in fleet.commitments.values() for row in rows]
    jobs = {
        row.id: row
        for row in session.scalars(
            select(Booking).where(Booking.id.in_([c.booking_id for c in committed]))
        )
    }
    status = {
        row.driver_id: row
        for row in session.scalars(
            select(DriverStatus).where(DriverStatus.company_id == company_id)
        )
    }
    drivers = tuple(
        _driver(fleet, d, driver, status.get(driver.id), jobs, now, zone, scenario)
        for d, driver in enumerate(fleet.drivers)
    )
    return Situation(
        day, drivers, _bookings(fleet, scenario, tables), len(committed), fleet.forgotten
    )


def _driver(
    fleet: Fleet,
    d: int,
    driver: Driver,
    status: DriverStatus | None,
    jobs: dict[int, Booking],
    now: datetime,
    zone: ZoneInfo,
    scenario: Scenario,
) -> DriverNow:
    row = fleet.state.drivers[d]
    queue = fleet.commitments[driver.id]
    first = queue[0] if queue else None
    booking = None if first is None else jobs.get(first.booking_id)
    start, end = shift_of(driver, status, now, fleet.day, scenario, zone)
    off = driver.id in fleet.off
    seen = _seen_min(status, now)
    state: DriverState = "free"
    if bool(row["down"]):
        state = "down"
    elif first is not None:
        state = _at_work(first, now)
    elif off or not start <= fleet.state.now_min < end:
        state = "off"
    base = (scenario.place.base.lat, scenario.place.base.lon)
    home = base if driver.home_lat is None or driver.home_lon is None else (
        driver.home_lat, driver.home_lon
    )  # fmt: skip
    known = home
    if status is not None and status.lat is not None and status.lon is not None:
        known = (status.lat, status.lon)
    heading, next_at = None, None
    if first is not None and booking is not None:
        pickup = (booking.pickup_lat, booking.pickup_lon)
        dropoff = (booking.dropoff_lat, booking.dropoff_lon)
        heading, next_at = pickup, first.planned_pickup_at
        if state == "onboard":
            heading, next_at = dropoff, first.planned_dropoff_at
        if seen is None and state == "onboard":
            known = _between(pickup, dropoff, first.planned_pickup_at, next_at, now)
        elif seen is None and state == "driving":
            known = _between(known, pickup, first.planned_depart_at, next_at, now)
    return DriverNow(
        driver_id=driver.id,
        at=known,
        seen_min=seen,
        state=state,
        wheelchair=driver.wheelchair_vehicle,
        booking_id=None if first is None else first.booking_id,
        heading_to=heading if state in ("driving", "onboard") else None,
        next_at=next_at,
        jobs=len(queue),
        free_at=fleet.day.instant(float(row["free_at_min"])),
        shift_end=fleet.day.instant(end),
    )


def _seen_min(status: DriverStatus | None, now: datetime) -> float | None:
    if status is None or status.position_at is None or status.lat is None:
        return None
    minutes = max(0.0, (now - status.position_at).total_seconds() / 60.0)
    return minutes if minutes <= FRESH_MIN else None


def _at_work(first: Commitment, now: datetime) -> DriverState:
    if first.state == "onboard":
        return "onboard"
    return "driving" if first.state == "driving" or first.planned_depart_at <= now else "waiting"


def _between(a: Point, b: Point, begin: datetime, end: datetime | None, now: datetime) -> Point:
    """Where somebody is on the straight way from a to b, by plan."""
    if end is None or end <= begin:
        return b
    share = min(1.0, max(0.0, (now - begin) / (end - begin)))
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _bookings(fleet: Fleet, scenario: Scenario, tables: TravelTables) -> tuple[BookingNow, ...]:
    latest, fits = latest_departures(fleet, scenario, tables)
    now = fleet.state.now_min
    last = timedelta(minutes=scenario.rules.window_min + scenario.rules.grace_min)
    found = []
    for b, booking in enumerate(fleet.bookings):
        slack = float(latest[b]) - now
        urgency: Urgency = "calm"
        if not fits[b]:
            urgency, slack = "nobody", fleet.day.minute(booking.scheduled_time) - now
        elif booking.id in fleet.stretched:
            urgency = "overdue"
            slack = min(0.0, fleet.day.minute(booking.scheduled_time + last) - now)
        elif not np.isfinite(slack) or slack < 0:
            urgency, slack = "late", min(0.0, slack if np.isfinite(slack) else 0.0)
        elif slack < SOON_MIN:
            urgency = "now" if slack < NOW_MIN else "soon"
        known = bool(np.isfinite(latest[b])) and booking.id not in fleet.stretched
        found.append(
            BookingNow(
                booking_id=booking.id,
                at=(booking.pickup_lat, booking.pickup_lon),
                urgency=urgency,
                slack_min=slack,
                must_decide_by=fleet.day.instant(float(latest[b])) if known else None,
                promised_at=booking.scheduled_time,
                priority=booking.priority,
                wheelchair=booking.wheelchair_need,
                pinned_to=fleet.pins.get(booking.id),
            )
        )
    found.sort(key=lambda b: (URGENCIES.index(b.urgency), b.slack_min, b.promised_at))
    return tuple(found)


def latest_departures(
    fleet: Fleet, scenario: Scenario, tables: TravelTables
) -> tuple[np.ndarray, np.ndarray]:
    """Per booking: the last minute at which somebody can leave for it in time, and who fits.

    Returns:
        ``(B,)`` minutes of the operating day, −inf where nobody can be there within the window;
        ``(B,)`` whether any vehicle fits.

    Travel depends on the distance alone, so the nearest of those who can be there in time decides.
    """
    rows, drivers = fleet.state.bookings, fleet.state.drivers
    if not len(rows):
        return np.zeros(0), np.zeros(0, bool)
    fits = may_serve(rows, drivers, scenario)
    at = earliest_pickups(rows, drivers, fleet.state.now_min, tables)
    in_time = fits & (at <= rows["window_end_min"][None, :])
    none_n, none_b = np.zeros(len(drivers), np.int64), np.zeros(len(rows), np.int64)
    km = TravelModel(tables).km_matrix(
        drivers["lat"], drivers["lon"], none_n, rows["pickup_lat"], rows["pickup_lon"], none_b
    )
    nearest = np.where(in_time, km, np.inf).min(axis=0)
    latest = np.full(len(rows), -np.inf)
    for b in np.flatnonzero(np.isfinite(nearest)):
        latest[b] = depart_min(tables, float(rows["window_end_min"][b]), float(nearest[b]), 0, 0)
    return latest, np.asarray(fits.any(axis=0))
