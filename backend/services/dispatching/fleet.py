"""What a company's dispatcher knows right now, from its rows: the `DispatchState` and the way back.

Drivers are where their committed work ends, and free when it ends by forecast; forecasts follow
the simulator's own travel times and its rule that a driver leaves just in time. Patients' names and
notes are not in the tables' mapping and cannot get here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from models import (
    Assignment,
    Booking,
    BookingPin,
    Commitment,
    Driver,
    DriverStatus,
    complete,
)
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables, arrive_min, depart_min
from services.rl.simulation.types import (
    STATE_BOOKING_DTYPE,
    STATE_DRIVER_DTYPE,
    DispatchState,
)

from .operating_day import OperatingDay
from .reach import age, km_between, stretch
from .shifts import shift_of, went_off

OPEN_STATUSES = ("PENDING",)
"""Of bookings that wait for a driver."""

IMMEDIATE_LEAD_MIN = 15.0
"""Asked for less than this before the promise: as soon as possible."""

FRESH_MIN = 10.0
"""A position older than this says where a driver was, not where they are."""

FORGOTTEN = timedelta(hours=24)
"""Open and promised longer ago: no driver is sent, a person has to say what became of it."""

AHEAD = timedelta(hours=2)
"""What is promised within it is seen even where it lies after the operating day's last hour."""

_DROPOFF_SERVICE_MIN = _PICKUP_SERVICE_MIN = 7.0  # where the booking does not say
_LONGEST_SERVICE_MIN = 1440.0
_EARLIEST_MIN = -366 * 1440.0  # what a host dates before that was not dated

# Built once, and read as plain columns: they run at every decision, and objects that the session
# keeps track of took most of its time.
_OF = bindparam("company")
_DRIVERS = (
    select(Driver.__table__)
    .where(
        Driver.company_id == _OF,
        Driver.is_active,
        Driver.shift_start.is_not(None),  # a host's driver without a shift does not drive
        Driver.shift_end.is_not(None),
    )
    .order_by(Driver.id)
)
_BOOKINGS = (
    select(Booking.__table__)
    .where(
        Booking.company_id == _OF,
        Booking.status.in_(OPEN_STATUSES),
        Booking.cancelled_at.is_(None),
        complete(),
        Booking.scheduled_time < bindparam("horizon"),
        Booking.created_at <= bindparam("now"),
    )
    .order_by(Booking.id)
)
_STATUSES = select(DriverStatus.__table__).where(DriverStatus.company_id == _OF)
_COMMITMENTS = (
    select(Commitment.__table__).where(Commitment.company_id == _OF).order_by(Commitment.order_no)
)
_COMMITTED = (
    select(Booking.__table__)
    .join(Commitment, Commitment.booking_id == Booking.id)
    .where(Commitment.company_id == _OF)
)
_PINS = select(BookingPin.booking_id, BookingPin.driver_id).where(BookingPin.company_id == _OF)
_SERVED = (
    select(
        Assignment.driver_id,
        Assignment.actual_pickup_at,
        Assignment.actual_dropoff_at,
        Booking.dropoff_service_min,
    )
    .join(Booking, Booking.id == Assignment.booking_id)
    .where(
        Booking.company_id == _OF,
        Assignment.status == "COMPLETED",
        Assignment.actual_dropoff_at >= bindparam("since"),
    )
)


@dataclass(frozen=True)
class Fleet:
    """A state, and the rows that its rows stand for.

    Attributes:
        state: What policies see.
        day: The operating day.
        bookings: B, in the state's order; rows with the columns of `Booking`.
        drivers: N, in the state's order; rows with the columns of `Driver`.
        commitments: Unfinished, per driver id, in the order of work; rows with the columns of
            `Commitment`.
        pins: Driver id by booking id.
        stretched: Ids of bookings that nobody can reach within the grace any more, shown with a
            window that somebody can: a patient stays on the list until a person says otherwise.
        off: Ids of drivers who said that they work no more in this shift.
        forgotten: Ids of open bookings that were promised more than `FORGOTTEN` ago: rows that a
            host never closed would otherwise take today's drivers.
    """

    state: DispatchState
    day: OperatingDay
    bookings: tuple[Any, ...]
    drivers: tuple[Any, ...]
    commitments: dict[int, list[Any]]
    pins: dict[int, int]
    stretched: frozenset[int]
    off: frozenset[int] = frozenset()
    forgotten: tuple[int, ...] = ()


def read_fleet(
    session: Session,
    company_id: int,
    now: datetime,
    day: OperatingDay,
    scenario: Scenario,
    tables: TravelTables,
    zone: ZoneInfo,
) -> Fleet | None:
    """Read one company's fleet; None if it has no active driver.

    Args:
        session: Of the database.
        company_id: Whose rows.
        now: The present moment.
        day: The operating day it belongs to.
        scenario: Gives rules and names the state.
        tables: Its travel times; by coordinates.
        zone: Of drivers' shifts.
    """
    session.flush()  # what the caller has changed, and plain statements would not wait for
    rows_of = session.connection().execute
    company = {"company": company_id}
    drivers = tuple(rows_of(_DRIVERS, company))
    if not drivers:
        return None
    horizon = max(day.instant(scenario.rules.horizon_min), now + AHEAD)
    bookings = tuple(rows_of(_BOOKINGS, {**company, "horizon": horizon, "now": now}))
    status = {row.driver_id: row for row in rows_of(_STATUSES, company)}
    off = frozenset(
        driver.id
        for driver in drivers
        if went_off(driver, status.get(driver.id), now, day, scenario, zone)
    )
    commitments: dict[int, list[Any]] = {driver.id: [] for driver in drivers}
    booked: set[int] = set()
    for row in rows_of(_COMMITMENTS, company):
        booked.add(row.booking_id)  # also if its driver is not active any more: it has one
        if row.driver_id in commitments:
            commitments[row.driver_id].append(row)
    jobs = {row.id: row for row in rows_of(_COMMITTED, company)} if booked else {}
    pins = {row.booking_id: row.driver_id for row in rows_of(_PINS, company)}
    served = _served(rows_of(_SERVED, {**company, "since": day.start}))
    unassigned = [booking for booking in bookings if booking.id not in booked]
    waiting = tuple(b for b in unassigned if b.scheduled_time > now - FORGOTTEN)
    forgotten = tuple(b.id for b in unassigned if b.scheduled_time <= now - FORGOTTEN)
    fleet_rows = np.zeros(len(drivers), dtype=STATE_DRIVER_DTYPE)
    for d, driver in enumerate(drivers):
        fleet_rows[d] = _driver_row(
            driver,
            status.get(driver.id),
            driver.id in off,
            [(row, jobs[row.booking_id]) for row in commitments[driver.id]],
            served.get(driver.id, (0, 0.0)),
            now,
            day,
            scenario,
            tables,
            zone,
        )
    state, stretched = state_of(
        fleet_rows, [driver.id for driver in drivers], waiting, now, day, scenario, tables
    )
    return Fleet(state, day, waiting, drivers, commitments, pins, stretched, off, forgotten)


def state_of(
    drivers: np.ndarray,
    driver_ids: Sequence[int],
    waiting: Sequence[Booking],
    now: datetime,
    day: OperatingDay,
    scenario: Scenario,
    tables: TravelTables,
) -> tuple[DispatchState, frozenset[int]]:
    """The state of a fleet, and which of its bookings were given a window that can be met.

    Args:
        drivers: ``(N,)`` of `STATE_DRIVER_DTYPE`.
        driver_ids: N ids.
        waiting: Open bookings without a driver.
        now: The present moment.
        day: Its operating day.
        scenario: Gives rules and names the state.
        tables: Its travel times.
    """
    now_min = day.minute(now)
    rows = np.zeros(len(waiting), dtype=STATE_BOOKING_DTYPE)
    for b, booking in enumerate(waiting):
        rows[b] = _booking_row(booking, day, scenario)
    own = rows.copy()
    late = stretch(rows, drivers, now_min, scenario, tables)
    age(rows, late, drivers, now_min, scenario)
    state = DispatchState(
        now_min=now_min,
        driver_ids=tuple(str(driver) for driver in driver_ids),
        drivers=drivers,
        booking_ids=tuple(str(booking.id) for booking in waiting),
        bookings=rows,
        scenario=scenario.name,
        scenario_hash=_hash_of(scenario),
        extra={
            "stretched": [str(waiting[b].id) for b in late],
            "own_priority": {str(waiting[b].id): int(own["priority"][b]) for b in late},
            "own_window_end_min": {
                str(waiting[b].id): float(own["window_end_min"][b]) for b in late
            },
        },
    )
    return state, frozenset(waiting[b].id for b in late)


_hashes: dict[int, tuple[Scenario, str]] = {}  # the scenario is kept, so that its id stays its


def _hash_of(scenario: Scenario) -> str:
    """Its hash, which takes longer to work out than to read the whole fleet."""
    known = _hashes.get(id(scenario))
    if known is None:
        if len(_hashes) >= 16:
            _hashes.clear()
        known = _hashes[id(scenario)] = (scenario, scenario.sha256)
    return known[1]


def _on_earth(lat: float | None, lon: float | None) -> bool:
    return lat is not None and lon is not None and abs(lat) <= 90.0 and abs(lon) <= 180.0


def _has_places(booking: Any) -> bool:
    pickup = _on_earth(booking.pickup_lat, booking.pickup_lon)
    return pickup and _on_earth(booking.dropoff_lat, booking.dropoff_lon)


def _booking_row(booking: Any, day: OperatingDay, scenario: Scenario) -> tuple[object, ...]:
    rules = scenario.rules
    created = max(_EARLIEST_MIN, day.minute(booking.created_at))
    promised = max(day.minute(booking.scheduled_time), created)
    values = {
        "created_min": created,
        "promised_min": promised,
        "window_end_min": promised + rules.window_min,
        "priority": booking.priority,
        "wheelchair": booking.wheelchair_need,
        "immediate": booking.is_urgent or promised - created <= IMMEDIATE_LEAD_MIN,
        "is_return": booking.is_return,
        "pickup_lat": booking.pickup_lat,
        "pickup_lon": booking.pickup_lon,
        "dropoff_lat": booking.dropoff_lat,
        "dropoff_lon": booking.dropoff_lon,
        "pickup_zone": -1,
        "dropoff_zone": -1,
        "pickup_service_min": _or(booking.pickup_service_min, _PICKUP_SERVICE_MIN),
        "dropoff_service_min": _or(booking.dropoff_service_min, _DROPOFF_SERVICE_MIN),
        "fare": np.nan,
    }
    return tuple(values[name] for name in STATE_BOOKING_DTYPE.names or ())


def _or(value: float | None, default: float) -> float:
    """Minutes of service as the host has them; what cannot be is as if it were not there."""
    return value if value is not None and 0.0 <= value <= _LONGEST_SERVICE_MIN else default


def _driver_row(
    driver: Driver,
    status: DriverStatus | None,
    off: bool,
    queue: Sequence[tuple[Commitment, Booking]],
    served: tuple[int, float],
    now: datetime,
    day: OperatingDay,
    scenario: Scenario,
    tables: TravelTables,
    zone: ZoneInfo,
) -> tuple[object, ...]:
    now_min = day.minute(now)
    start, end = shift_of(driver, status, now, day, scenario, zone)
    if off:  # takes nothing more, not even what overtime would allow
        end = min(end, now_min - scenario.rules.overtime_min - 1.0)
        start = min(start, end)
    base = scenario.place.base
    lat, lon = base.lat, base.lon
    if _on_earth(driver.home_lat, driver.home_lon):
        lat, lon = driver.home_lat, driver.home_lon
    fresh = False
    if status is not None and status.lat is not None and status.lon is not None:
        lat, lon = status.lat, status.lon
        fresh = status.position_at is not None and now - status.position_at <= timedelta(
            minutes=FRESH_MIN
        )
    free = max(start, now_min)
    busy = served[1]
    for row, booking in queue:
        if not _has_places(booking):  # the host has changed it since: the plan is all there is
            free = max(free, day.minute(row.planned_dropoff_at) + _DROPOFF_SERVICE_MIN)
            continue
        begin, free = forecast(row, booking, (lat, lon) if fresh else None, free, now_min, day,
                               tables, (lat, lon))  # fmt: skip
        busy += free - begin
        lat, lon, fresh = booking.dropoff_lat, booking.dropoff_lon, False
    values = {
        "lat": lat,
        "lon": lon,
        "zone": -1,
        "free_at_min": free,
        "committed": len(queue),
        "shift_start_min": start,
        "shift_end_min": end,
        "wheelchair": driver.wheelchair_vehicle,
        "emergency": driver.driver_type.upper() == "EMERGENCY",
        "down": status is not None and status.down,
        "served": served[0],
        "busy_min": busy,
    }
    return tuple(values[name] for name in STATE_DRIVER_DTYPE.names or ())


def forecast(
    row: Commitment,
    booking: Booking,
    seen_at: tuple[float, float] | None,
    free: float,
    now_min: float,
    day: OperatingDay,
    tables: TravelTables,
    start: tuple[float, float],
) -> tuple[float, float]:
    """When a committed job begins to occupy its driver and when it is done, by forecast.

    Args:
        row: The commitment.
        booking: Its booking.
        seen_at: Where the driver was just seen; None: not lately.
        free: When the driver is free of earlier work.
        now_min: The present minute.
        day: The operating day.
        tables: Travel times.
        start: Where the driver's earlier work ends.
    """
    pickup_service = _or(booking.pickup_service_min, _PICKUP_SERVICE_MIN)
    dropoff_service = _or(booking.dropoff_service_min, _DROPOFF_SERVICE_MIN)
    pickup_at = (booking.pickup_lat, booking.pickup_lon)
    dropoff_at = (booking.dropoff_lat, booking.dropoff_lon)
    depart = day.minute(row.planned_depart_at)
    trip_km = km_between(tables, pickup_at, dropoff_at)
    if row.state == "onboard":
        begin = min(depart, now_min)
        if seen_at is None:  # perhaps at the destination already, and helping the patient out
            return begin, max(now_min, day.minute(row.planned_dropoff_at) + dropoff_service)
        arrival = arrive_min(tables, now_min, km_between(tables, seen_at, dropoff_at), 0, 0)
        return begin, arrival + dropoff_service
    way_km = km_between(tables, seen_at if seen_at is not None else start, pickup_at)
    promised = day.minute(booking.scheduled_time)
    if row.state == "driving" or depart <= now_min:
        begin = min(depart, now_min)
        if seen_at is not None:
            arrival = arrive_min(tables, now_min, way_km, 0, 0)
        else:
            arrival = max(now_min, day.minute(row.planned_pickup_at))
    else:
        begin = free
        if promised > free:
            begin = max(free, depart_min(tables, promised, way_km, 0, 0))
        arrival = arrive_min(tables, begin, way_km, 0, 0)
    leave = max(arrival, promised) + pickup_service
    return begin, arrive_min(tables, leave, trip_km, 0, 0) + dropoff_service


def _served(rows: Iterable[Any]) -> dict[int, tuple[int, float]]:
    """Bookings completed today and minutes from pickup to the end of the dropoff, per driver.

    The empty way is not in the minutes: the table does not tell when a driver left.
    """
    found: dict[int, tuple[int, float]] = {}
    for driver_id, pickup, dropoff, service in rows:
        count, minutes = found.get(driver_id, (0, 0.0))
        if pickup is not None and dropoff is not None:
            minutes += max(0.0, (dropoff - pickup).total_seconds() / 60.0)
            minutes += _or(service, _DROPOFF_SERVICE_MIN)
        found[driver_id] = (count + 1, minutes)
    return found
