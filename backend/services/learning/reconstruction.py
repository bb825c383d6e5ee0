"""Experiences from before the log: what a person, or another system, assigned at the time.

A host's history tells who was sent to whom and when, not what was known then. The state is rebuilt
at each assignment from the rows of its operating day: bookings that were open, drivers behind the
work they had been given, first in first out, by the simulator's own times where the real ones were
not known yet. No propensity is known, and no epoch's end is made up: these experiences are
assignments alone.

What cannot be rebuilt is counted by reason and left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import Assignment, Booking, Decision, Driver, complete
from routes.statuses import CANCELED, COMPLETED, NO_SHOW, UNASSIGNED
from services.dispatching.fleet import FORGOTTEN, state_of
from services.dispatching.operating_day import OperatingDay, day_of, operating_day
from services.dispatching.reach import km_between
from services.dispatching.schedule import Schedule
from services.dispatching.shifts import shift_of
from services.rl.data.experience import Rows
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables, arrive_min, depart_min
from services.rl.simulation.types import STATE_DRIVER_DTYPE

from .chain import Chain, Item, Tally
from .log_rows import assignments_of, bookings_of
from .payloads import Seen
from .settled import AssignmentRow, Settling

HISTORY_PREFIX: Final = "hist-"
"""Of the id of a reconstructed experience, before the assignment's number."""

_SERVICE_MIN: Final = 7.0  # where the booking does not say


class _Job(NamedTuple):
    """One assignment of the day with its booking's columns."""

    assignment: AssignmentRow
    booking: Any


@dataclass(frozen=True)
class History:
    """Reconstructs one company's days.

    Attributes:
        scenario: The world.
        tables: Its travel times.
        company_id: Whose.
        zone: Of shifts and operating days.
        before: The company's log begins here: what was assigned later is in it. None: no log.
    """

    scenario: Scenario
    tables: TravelTables
    company_id: int
    zone: ZoneInfo
    before: datetime | None

    def first(self, session: Session) -> datetime | None:
        """The first assignment of the company's history."""
        return session.scalar(
            select(func.min(Assignment.assigned_at))
            .join(Booking, Booking.id == Assignment.booking_id)
            .where(Booking.company_id == self.company_id)
        )

    def days(self, begin: datetime, end: datetime) -> list[date]:
        """Operating days of a stretch of time that lie before the log, at least in part."""
        if self.before is not None:
            end = min(end, self.before)
        if begin > end:
            return []
        rules = self.scenario.rules
        first = operating_day(begin, rules, self.zone).date
        last = operating_day(end, rules, self.zone).date
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    def days_of(self, session: Session, bookings: Sequence[int]) -> set[date]:
        """Operating days on which some bookings were assigned before the log."""
        found: set[date] = set()
        for made in assignments_of(session, bookings).values():
            for a in made:
                found.update(self.days(a.assigned_at, a.assigned_at))
        return found

    def experiences(
        self, session: Session, days: Sequence[date], chain: Chain, now: datetime, tally: Tally
    ) -> Iterator[Item]:
        """Ids and experiences of the assignments of some operating days.

        Args:
            session: Of one consistent state.
            days: Which.
            chain: Values them.
            now: The moment at which outcomes are read.
            tally: Counts.
        """
        settling = Settling.at(now, self.scenario.rules)
        for local in days:
            yield from _Day(self, session, local).experiences(session, chain, settling, tally)


class _Day:
    """One operating day's rows."""

    def __init__(self, history: History, session: Session, local: date) -> None:
        self._history = history
        scenario, zone = history.scenario, history.zone
        rules = scenario.rules
        self._day: OperatingDay = day_of(local, rules, zone)
        lasting = rules.horizon_min + rules.overtime_min
        # Half open, as `operating_day` cuts days: what lies between two belongs to the next.
        self._begin = day_of(local - timedelta(days=1), rules, zone).instant(lasting)
        self._end = self._day.instant(lasting)
        of = Booking.company_id == history.company_id
        # History has the same driver and booking decided nowhere in the log.
        logged = select(Decision.id).where(
            Decision.booking_id == Assignment.booking_id,
            Decision.driver_id == Assignment.driver_id,
            Decision.shadow.is_(False),
        )
        rows = session.execute(
            select(
                Assignment.id, Assignment.booking_id, Assignment.driver_id,
                Assignment.assigned_at, Assignment.status, Assignment.actual_pickup_at,
                Assignment.actual_dropoff_at, logged.exists(),
            )
            .join(Booking, Booking.id == Assignment.booking_id)
            .where(of, Assignment.assigned_at > self._begin, Assignment.assigned_at <= self._end)
            .order_by(Assignment.assigned_at, Assignment.id)
        ).all()  # fmt: skip
        self._made = [(AssignmentRow(*row[:7]), bool(row[7])) for row in rows]
        if not self._made:
            return
        horizon = self._day.instant(rules.horizon_min)
        self._bookings: dict[int, Any] = {
            row.id: row
            for row in session.execute(
                select(Booking.__table__)
                .where(
                    of,
                    complete(),
                    Booking.scheduled_time > self._begin - FORGOTTEN,
                    Booking.scheduled_time < max(horizon, self._end),
                )
                .order_by(Booking.id)
            )
        }
        self._first_given: dict[int, datetime] = {}
        for made in assignments_of(session, self._bookings).values():
            for a in made:
                if a.status != CANCELED:
                    known = self._first_given.get(a.booking_id, a.assigned_at)
                    self._first_given[a.booking_id] = min(known, a.assigned_at)
        self._drivers = list(
            session.execute(
                select(Driver.__table__)
                .where(
                    Driver.company_id == history.company_id,
                    Driver.shift_start.is_not(None),
                    Driver.shift_end.is_not(None),
                    Driver.is_active | Driver.id.in_({a.driver_id for a, _ in self._made}),
                )
                .order_by(Driver.id)
            )
        )

    def experiences(
        self, session: Session, chain: Chain, settling: Settling, tally: Tally
    ) -> Iterator[Item]:
        """One item per assignment that was made on the day before the log began."""
        if not self._made:
            return
        before = self._history.before
        ids = {a.booking_id for a, _ in self._made}
        bookings = bookings_of(session, self._history.company_id, ids)
        assignments = assignments_of(session, ids)
        for n, (assignment, logged) in enumerate(self._made):
            if logged or (before is not None and assignment.assigned_at >= before):
                continue
            id_ = f"{HISTORY_PREFIX}{assignment.id}"
            made = assignments[assignment.booking_id]
            last = max(made, key=lambda a: (a.assigned_at, a.id)).id == assignment.id
            came = settling.came(
                bookings.get(assignment.booking_id), made, assignment.driver_id,
                assignment.assigned_at, last,
            )  # fmt: skip
            if not came.left_out and came.ending is None:
                tally.reconstruction_provisional += 1
                tally.wait_for(assignment.assigned_at)
                yield id_, None
                continue
            seen, planned, reason = (None, None, came.left_out)
            if not reason:
                seen, planned, reason = self._state(n)
            if seen is None or planned is None:
                tally.not_reconstructed[reason] += 1
                yield id_, None
                continue
            tally.reconstructed += 1
            action = (
                seen.driver_row[assignment.driver_id],
                seen.booking_row[assignment.booking_id],
            )
            yield id_, chain.experience(
                id_, self._day.date, assignment.assigned_at, assignment.assigned_at, seen, (),
                action, came, planned.deadhead_km, planned.pickup_min, planned.late_min,
                planned.depart_min, planned.drive_min,
                propensity=None, k=1, arm="", unit="", model="", source="reconstructed",
                overridden=False,
            )  # fmt: skip

    def _state(self, n: int) -> tuple[Seen | None, Any, str]:
        """State and plan of the n-th assignment of the day; or why there is none."""
        assignment = self._made[n][0]
        at, history = assignment.assigned_at, self._history
        booking = self._bookings.get(assignment.booking_id)
        if booking is None:
            return None, None, "booking_of_another_day"
        if booking.created_at > at:
            return None, None, "assigned_before_creation"
        if all(driver.id != assignment.driver_id for driver in self._drivers):
            return None, None, "driver_without_shift"
        open_ = [b for b in self._bookings.values() if b.id == booking.id or self._is_open(b, at)]
        rows = np.zeros(len(self._drivers), dtype=STATE_DRIVER_DTYPE)
        for d, driver in enumerate(self._drivers):
            rows[d] = self._driver_row(driver, n, at)
        d = next(i for i, each in enumerate(self._drivers) if each.id == assignment.driver_id)
        most = 1 + history.scenario.rules.queue  # encoders refuse a longer queue
        if rows["committed"][d] >= most or rows["committed"].max() > most:
            return None, None, "more_jobs_than_the_rules_allow"
        state, _ = state_of(
            rows, [driver.id for driver in self._drivers], open_, at, self._day,
            history.scenario, history.tables,
        )  # fmt: skip
        seen = Seen(
            Rows(state.now_min, state.drivers, state.bookings),
            state.driver_ids,
            state.booking_ids,
            state.extra["own_window_end_min"],
            state.extra["own_priority"],
        )
        planned = Schedule.of_state(state, history.tables).planned(
            seen.driver_row[assignment.driver_id], seen.booking_row[booking.id]
        )
        return seen, planned, ""

    def _is_open(self, booking: Any, at: datetime) -> bool:
        """Whether a booking was known and without a driver at a moment."""
        if booking.created_at > at or booking.scheduled_time <= at - FORGOTTEN:
            return False
        if booking.cancelled_at is not None and booking.cancelled_at <= at:
            return False
        given = self._first_given.get(booking.id)
        if given is not None:
            return given > at
        if booking.status in (COMPLETED, NO_SHOW):
            return False  # by somebody whom no row names
        rules = self._history.scenario.rules
        promised = max(booking.scheduled_time, booking.created_at)
        gone = promised + timedelta(minutes=rules.window_min + rules.grace_min)
        return bool(booking.status != UNASSIGNED or at <= gone)

    def _driver_row(self, driver: Any, n: int, at: datetime) -> tuple[object, ...]:
        """A driver behind the work of the day so far, as `STATE_DRIVER_DTYPE`."""
        history, day = self._history, self._day
        scenario = history.scenario
        now_min = day.minute(at)
        start, end = shift_of(driver, None, at, day, scenario, history.zone)
        place = (scenario.place.base.lat, scenario.place.base.lon)
        if driver.home_lat is not None and driver.home_lon is not None:
            place = (driver.home_lat, driver.home_lon)
        free, committed, served, busy = start, 0, 0, 0.0
        for earlier, _ in self._made[:n]:
            booking = self._bookings.get(earlier.booking_id)
            if earlier.driver_id != driver.id or earlier.status == CANCELED or booking is None:
                continue
            begin, done = self._times(earlier, booking, place, free, now_min)
            place = (booking.dropoff_lat, booking.dropoff_lon)
            busy += max(0.0, done - begin)
            free = max(free, done)
            if done <= now_min:
                served += earlier.status == COMPLETED
            else:
                committed += 1
        values = {
            "lat": place[0],
            "lon": place[1],
            "zone": -1,
            "free_at_min": max(free, now_min),
            "committed": committed,
            "shift_start_min": start,
            "shift_end_min": end,
            "wheelchair": driver.wheelchair_vehicle,
            "emergency": driver.driver_type.upper() == "EMERGENCY",
            "down": False,
            "served": served,
            "busy_min": busy,
        }
        return tuple(values[name] for name in STATE_DRIVER_DTYPE.names or ())

    def _times(
        self,
        made: AssignmentRow,
        booking: Any,
        place: tuple[float, float],
        free: float,
        now_min: float,
    ) -> tuple[float, float]:
        """When an earlier job began and was done: as known at the moment, else by forecast."""
        day, tables = self._day, self._history.tables
        service = _minutes(booking.dropoff_service_min)
        pickup_at = (booking.pickup_lat, booking.pickup_lon)
        promised = day.minute(max(booking.scheduled_time, booking.created_at))
        way_km = km_between(tables, place, pickup_at)
        ready = max(free, day.minute(made.assigned_at))
        begin = ready
        if promised > ready:
            begin = max(ready, depart_min(tables, promised, way_km, 0, 0))
        pickup = max(arrive_min(tables, begin, way_km, 0, 0), promised)
        told = made.actual_pickup_at
        if told is not None and day.minute(told) <= now_min:
            pickup = day.minute(told)
            begin = min(begin, pickup)
        elif told is not None:
            pickup = max(pickup, now_min)
        dropped = made.actual_dropoff_at
        if dropped is not None and day.minute(dropped) <= now_min:
            return begin, day.minute(dropped) + service
        leave = pickup + _minutes(booking.pickup_service_min)
        trip_km = km_between(tables, pickup_at, (booking.dropoff_lat, booking.dropoff_lon))
        done = arrive_min(tables, leave, trip_km, 0, 0) + service
        if dropped is not None:
            done = max(done, now_min)  # not there yet, whatever the forecast says
        return begin, done


def _minutes(value: float | None) -> float:
    return value if value is not None and 0.0 <= value <= 1440.0 else _SERVICE_MIN
