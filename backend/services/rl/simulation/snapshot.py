"""What everybody is doing at one moment: what a frame shows, read from a running engine.

A driver's place follows from the forecasts of its committed jobs, so a moment between two decision
epochs can be shown as well as the epochs themselves.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from . import world
from .day_choice import day_name
from .engine import Engine
from .types import BookingStatus

Point = tuple[float, float]  # latitude, longitude


class Activity(StrEnum):
    """What a driver is doing."""

    CARRYING = "with patient"
    ALIGHTING = "at dropoff"
    BOARDING = "at pickup"
    WAITING = "early, waits"
    DRIVING = "to pickup"
    STANDBY = "leaves later"
    FREE = "free"
    OFF = "off shift"
    DOWN = "broken down"


@dataclass(frozen=True)
class Leg:
    """What a driver still drives of one stretch."""

    start: Point
    end: Point
    loaded: bool  # a patient is aboard
    queued: bool  # part of a later job


@dataclass(frozen=True)
class DriverNow:
    """One driver at the moment shown."""

    place: Point
    activity: Activity
    until_min: float | None  # when that activity ends, by forecast
    jobs: int  # in progress and queued
    legs: tuple[Leg, ...]
    wheelchair: bool
    emergency: bool


@dataclass(frozen=True)
class BookingNow:
    """One open booking at the moment shown."""

    row: int
    pickup: Point
    dropoff: Point
    slack_min: float  # until one must leave the base to be there within the window
    promised_min: float
    priority: int
    wheelchair: bool


@dataclass(frozen=True)
class Snapshot:
    """One environment at one moment."""

    scenario: str
    day: str
    now_min: float
    horizon_min: float
    day_start_min: float  # minutes after midnight
    ended: bool
    drivers: tuple[DriverNow, ...]
    bookings: tuple[BookingNow, ...]  # open, most urgent first
    lost: tuple[Point, ...]  # pickups of bookings lost in the last quarter of an hour
    kpis: dict[str, float]  # of the day so far

    def clock(self, minute: float) -> str:
        """Time of day, ``HH:MM``."""
        total = int(np.floor(self.day_start_min + minute + 1e-6))
        return f"{total // 60 % 24:02d}:{total % 60:02d}"


def take_snapshot(engine: Engine, env: int = 0, at_min: float | None = None) -> Snapshot:
    """Read one environment.

    Args:
        engine: The engine; it is only read.
        env: Which of its environments.
        at_min: A moment after the present one, shown by forecast; an earlier one shows the
            present.
    """
    now = engine.now_min(env) if at_min is None else max(at_min, engine.now_min(env))
    w, rules = engine.world, engine.scenario.rules
    day = day_name(engine, int(engine.out.day[env]))
    ended = engine.ended(env)
    return Snapshot(
        scenario=engine.scenario.name,
        day=f"seed {day}" if isinstance(day, int) else day,
        now_min=now,
        horizon_min=rules.horizon_min,
        day_start_min=rules.day_start_min,
        ended=ended,
        drivers=tuple(_driver(engine, env, d, now, ended) for d in range(w.drivers.shape[2])),
        bookings=tuple(_booking(engine, env, int(row), now) for row in engine.open_rows(env)),
        lost=_lately_lost(engine, env, now),
        kpis=engine.kpis(env),
    )


def _driver(engine: Engine, env: int, d: int, now: float, ended: bool) -> DriverNow:
    w = engine.world
    numbers = w.drivers[env, :, d]
    flags = w.driver_ints[env, :, d]
    jobs = int(flags[world.COMMITTED])
    place: Point = (float(numbers[world.AT_LAT]), float(numbers[world.AT_LON]))
    activity: Activity | None = None
    until: float | None = None
    legs: list[Leg] = []
    for k in range(jobs):
        job = w.bookings[env, w.queue[env, d, k]]
        pickup: Point = (float(job[world.P_LAT]), float(job[world.P_LON]))
        dropoff: Point = (float(job[world.D_LAT]), float(job[world.D_LON]))
        if activity is not None:
            last = legs[-1].end if legs else place
            legs += [Leg(last, pickup, False, True), Leg(pickup, dropoff, True, True)]
            continue
        if now >= job[world.DONE]:
            place = dropoff
            continue
        activity, until, place = _during(job, now, place, pickup, dropoff)
        if now < job[world.ARRIVE]:
            legs.append(Leg(place, pickup, False, False))
        if now < job[world.LEAVE]:
            legs.append(Leg(pickup, dropoff, True, False))
        elif now < job[world.DROPOFF]:
            legs.append(Leg(place, dropoff, True, False))
    if activity is None:
        activity, until = _without_job(numbers, bool(flags[world.DOWN]), now, ended)
    return DriverNow(
        place=place,
        activity=activity,
        until_min=until,
        jobs=jobs,
        legs=tuple(legs),
        wheelchair=bool(flags[world.D_WHEELCHAIR]),
        emergency=bool(flags[world.D_EMERGENCY]),
    )


def _during(
    job: np.ndarray, now: float, origin: Point, pickup: Point, dropoff: Point
) -> tuple[Activity, float, Point]:
    """Activity, its end and the place of a driver whose job is not done yet."""
    depart, arrive = float(job[world.DEPART]), float(job[world.ARRIVE])
    leave, arrived = float(job[world.LEAVE]), float(job[world.DROPOFF])
    if now < depart:
        return Activity.STANDBY, depart, origin
    if now < arrive:
        return Activity.DRIVING, arrive, _between(origin, pickup, (now - depart), arrive - depart)
    if now < job[world.PICKUP]:
        return Activity.WAITING, float(job[world.PICKUP]), pickup
    if now < leave:
        return Activity.BOARDING, leave, pickup
    if now < arrived:
        return Activity.CARRYING, arrived, _between(pickup, dropoff, now - leave, arrived - leave)
    return Activity.ALIGHTING, float(job[world.DONE]), dropoff


def _without_job(
    numbers: np.ndarray, down: bool, now: float, ended: bool
) -> tuple[Activity, float | None]:
    if ended:
        return Activity.OFF, None
    if down:
        return Activity.DOWN, float(numbers[world.REPAIRED])
    if now < numbers[world.SHIFT_START]:
        start = float(numbers[world.SHIFT_START])
        return Activity.OFF, start if start < _NO_SHIFT_MIN else None
    if now >= numbers[world.SHIFT_END]:
        return Activity.OFF, None
    if now < numbers[world.AT_FREE]:  # nobody was at the pickup: still looking for the patient
        return Activity.WAITING, float(numbers[world.AT_FREE])
    return Activity.FREE, None


_NO_SHIFT_MIN = (
    2 * 1440.0
)  # the engine fills smaller fleets up with drivers whose shift never comes


def _between(start: Point, end: Point, done: float, total: float) -> Point:
    share = min(1.0, max(0.0, done / total)) if total > 0 else 1.0
    return (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))


def _booking(engine: Engine, env: int, row: int, now: float) -> BookingNow:
    numbers, flags = engine.world.bookings[env, row], engine.world.booking_ints[env, row]
    return BookingNow(
        row=row,
        pickup=(float(numbers[world.P_LAT]), float(numbers[world.P_LON])),
        dropoff=(float(numbers[world.D_LAT]), float(numbers[world.D_LON])),
        slack_min=float(numbers[world.URGENCY]) - now,
        promised_min=float(numbers[world.PROMISED]),
        priority=int(flags[world.PRIORITY]),
        wheelchair=bool(flags[world.B_WHEELCHAIR]),
    )


_LATELY_MIN = 15.0


def _lately_lost(engine: Engine, env: int, now: float) -> tuple[Point, ...]:
    w = engine.world
    count = int(w.counters[env, world.NUM_BOOKINGS])
    given_up = w.bookings[env, :count, world.WINDOW_END] + engine.scenario.rules.grace_min
    lost = w.booking_ints[env, :count, world.STATUS] == int(BookingStatus.UNSERVED)
    rows = np.flatnonzero(lost & (given_up > now - _LATELY_MIN))
    return tuple(
        (float(w.bookings[env, row, world.P_LAT]), float(w.bookings[env, row, world.P_LON]))
        for row in rows
    )
