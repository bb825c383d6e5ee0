"""Decide for a fleet that a request brings: no row is read, committed or logged.

For a host that keeps its fleet elsewhere, or asks "what if". The experiment's arms answer as they
do for the company's own rows; ids are the company's own, so a booking keeps its arm.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from models import Booking, Driver
from services.rl.experiments.routed import Routed
from services.rl.simulation.types import STATE_DRIVER_DTYPE

from .dispatcher import Dispatcher
from .fates import Fate
from .fleet import Fleet, state_of
from .operating_day import OperatingDay, operating_day
from .schedule import Schedule


@dataclass(frozen=True)
class BroughtDriver:
    """A driver as the caller knows them.

    Attributes:
        id: Of the company's own.
        lat: Where the driver's work ends that is committed already, else where they are; degrees.
        lon: As ``lat``.
        free_at: When that work ends; None: free now.
        committed: Jobs in progress or queued.
        shift_start: Of today.
        shift_end: Of today.
        wheelchair: The vehicle carries a wheelchair.
        emergency: Kept for urgent bookings.
        down: The vehicle is out of order.
    """

    id: int
    lat: float
    lon: float
    free_at: datetime | None
    committed: int
    shift_start: datetime
    shift_end: datetime
    wheelchair: bool
    emergency: bool
    down: bool


def decide_for(
    dispatcher: Dispatcher,
    company_id: int,
    at: datetime,
    drivers: Sequence[BroughtDriver],
    bookings: Sequence[Booking],
    only: Collection[int] | None = None,
) -> tuple[Fate, ...]:
    """Who takes which booking, by the arms of the company's experiment.

    Args:
        dispatcher: Of this process.
        company_id: Whose experiment and model.
        at: The moment of the state.
        drivers: The whole fleet, ids without repetition.
        bookings: All that are open, ids without repetition; rows that no session knows.
        only: Ids of those to decide; None: all.

    Returns:
        One fate per booking, without a decision's or an assignment's id.
    """
    scenario, tables = dispatcher.desk.scenario, dispatcher.desk.tables
    day = operating_day(at, scenario.rules, dispatcher.zone)
    rows = np.array([_row(driver, at, day) for driver in drivers], dtype=STATE_DRIVER_DTYPE)
    state, stretched = state_of(rows, [d.id for d in drivers], bookings, at, day, scenario, tables)
    fleet = Fleet(
        state,
        day,
        tuple(bookings),
        tuple(Driver(id=driver.id, company_id=company_id) for driver in drivers),
        {driver.id: [] for driver in drivers},
        {},
        stretched,
    )
    wanted = {booking.id for booking in bookings} if only is None else set(only)
    decided = dispatcher.desk.dispatcher(company_id).decide(
        fleet.state,
        company_id=company_id,
        at=at,
        only=[str(booking) for booking in sorted(wanted)],
        units=dispatcher.looked_up_units(company_id),
    )
    return tuple(_fates(dispatcher, fleet, decided.decisions))


def _fates(dispatcher: Dispatcher, fleet: Fleet, decisions: Sequence[Routed]) -> list[Fate]:
    state = fleet.state
    again = fleet.day.instant(state.now_min + dispatcher.desk.scenario.rules.epoch_min)
    schedule = Schedule(fleet, dispatcher.desk.tables)
    limits = dispatcher.ledger.limits(fleet)
    row_of_booking = {name: b for b, name in enumerate(state.booking_ids)}
    row_of_driver = {name: d for d, name in enumerate(state.driver_ids)}
    found = []
    for routed in decisions:
        b = row_of_booking[routed.booking_id]
        driver = routed.driver_id
        job = None if driver is None else schedule.add(row_of_driver[driver], b)
        found.append(Fate.of(fleet, fleet.bookings[b].id, routed, job, limits[b], again))
    return found


def _row(driver: BroughtDriver, at: datetime, day: OperatingDay) -> tuple[object, ...]:
    start = day.minute(driver.shift_start)
    values = {
        "lat": driver.lat,
        "lon": driver.lon,
        "zone": -1,
        "free_at_min": max(start, day.minute(max(at, driver.free_at or at))),
        "committed": driver.committed,
        "shift_start_min": start,
        "shift_end_min": day.minute(driver.shift_end),
        "wheelchair": driver.wheelchair,
        "emergency": driver.emergency,
        "down": driver.down,
        "served": 0,
        "busy_min": 0.0,
    }
    return tuple(values[name] for name in STATE_DRIVER_DTYPE.names or ())
