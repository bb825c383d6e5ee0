"""One company of the twin: its day's bookings, drivers and reports, told to the API as a host does.

The host's side knows what happened on the street (`streets`); the backend knows what it is told:
most at once, some hours later, some never. What the API refuses or cannot answer is tried again
and counted; nothing is silently left out.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from clock import Clock
from extensions import Database
from models import Assignment, Booking
from routes.statuses import CANCELED, PENDING, UNASSIGNED
from services.dispatching.operating_day import OperatingDay
from services.rl.errors import DataError
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import Day

from .calls import Calls
from .streets import DriverOnDuty, Happening, Job, Streets, luck_of

Event = tuple[datetime, int, Callable[[], None]]
"""When, a number that keeps the order of equals, what."""

_AGAIN = frozenset({0, 502, 503})
_TRY_AGAIN_AFTER = timedelta(minutes=5)


@dataclass(frozen=True)
class Habits:
    """How people and hosts behave.

    Attributes:
        told_late: Share of outcomes told hours later.
        told_late_h: Mean of that delay, hours.
        never_told: Share of outcomes never told.
        no_show: Share of patients who are not there.
        called_off: Share of bookings that patients cancel before.
        overridden: Share of answers of ``POST /dispatch`` that a person replaces.
        given_up_min: After so many minutes a patient whom nobody was sent goes another way.
    """

    told_late: float = 0.05
    told_late_h: float = 3.0
    never_told: float = 0.01
    no_show: float = 0.02
    called_off: float = 0.03
    overridden: float = 0.01
    given_up_min: float = 75.0


@dataclass
class Told:
    """What the company has done; every count is checked against the database in the end."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class TwinCompany:
    """A company.

    Args:
        company_id: Whose rows.
        calls: To the API, with an admin key.
        database: The host's own tables are in it.
        clock: The twin's.
        tables: Travel times as planned.
        habits: Of people and hosts.
        seed: Of everything drawn here.

    Attributes:
        told: Counts.
    """

    def __init__(
        self,
        company_id: int,
        calls: Calls,
        database: Database,
        clock: Clock,
        tables: TravelTables,
        habits: Habits,
        seed: int,
    ) -> None:
        self.company_id = company_id
        self.told = Told()
        self._calls = calls
        self._database = database
        self._clock = clock
        self._tables = tables
        self._habits = habits
        self._seed = seed
        self._drivers: list[int] = []
        self._day: OperatingDay | None = None
        self._streets = Streets(tables, [])
        self._last_assignment = 0
        self._later: list[Event] = []
        self._order = 0
        self._open: dict[int, datetime] = {}  # booking: promised; nobody is sent yet
        self._queued: dict[int, int] = {}  # assignment: booking; nobody has left yet

    # --- days ------------------------------------------------------------------------------------

    def hire(self, played: Day, clock_time: Callable[[float], str]) -> None:
        """Make the drivers of a simulated day known, once."""
        if self._drivers:
            return
        for row in played.drivers:
            body = {
                "driver_type": "EMERGENCY" if row["emergency"] else "REGULAR",
                "wheelchair_vehicle": bool(row["wheelchair"]),
                "shift_start": clock_time(float(row["shift_start_min"])),
                "shift_end": clock_time(float(row["shift_end_min"])),
                "home": {"lat": float(row["lat"]), "lon": float(row["lon"])},
            }
            once = f"twin-{self.company_id}-driver-{len(self._drivers)}"
            status, answer = self._calls.call("POST", "/drivers", body, once)
            if status != 201:
                raise DataError(f"company {self.company_id}: POST /drivers answered {status}")
            self._drivers.append(int(answer["id"]))

    def begin(self, day: OperatingDay, played: Day) -> None:
        """A new operating day: drivers are at home, the day's bookings will come."""
        self._day = day
        on_duty = [
            DriverOnDuty(driver_id, (float(row["lat"]), float(row["lon"])),
                         float(row["shift_start_min"]))
            for driver_id, row in zip(self._drivers, played.drivers, strict=True)
        ]  # fmt: skip
        self._streets = Streets(self._tables, on_duty)
        self._open.clear()
        self._queued.clear()
        before = day.start - timedelta(minutes=30)
        for row in played.bookings:
            created = max(before, day.instant(float(row["created_min"])))
            self._at(created, lambda row=row: self._book(row))

    def look(self, until: datetime) -> None:
        """Learn who was sent, and let the street go on until a moment."""
        assert self._day is not None
        self._read_assignments()
        for happening in self._streets.until(self._day.minute(until)):
            self._report(happening)
        self._give_up(until)

    def due(self, until: datetime) -> list[Event]:
        """What the company does by a moment; each is to be called when the clock stands there."""
        due = [event for event in self._later if event[0] <= until]
        self._later = [event for event in self._later if event[0] > until]
        return due

    @property
    def waiting_reports(self) -> int:
        """Reports and calls that are still to come."""
        return len(self._later)

    # --- bookings --------------------------------------------------------------------------------

    def _book(self, row: Any) -> None:
        assert self._day is not None
        urgent = bool(row["immediate"])
        promised = self._day.instant(float(row["promised_min"]))
        body: dict[str, Any] = {
            "pickup": {"lat": float(row["pickup_lat"]), "lon": float(row["pickup_lon"])},
            "dropoff": {"lat": float(row["dropoff_lat"]), "lon": float(row["dropoff_lon"])},
            "priority": int(row["priority"]),
            "is_urgent": urgent,
            "wheelchair_need": bool(row["wheelchair"]),
            "is_return": bool(row["is_return"]),
            "pickup_service_min": float(row["pickup_service_min"]),
            "dropoff_service_min": float(row["dropoff_service_min"]),
        }
        if not urgent:
            body["scheduled_time"] = promised.isoformat()
        self._ask("booked", "POST", "/bookings", body, self._booked, good=(201,))

    def _booked(self, answer: dict[str, Any]) -> None:
        booking_id = int(answer["id"])
        promised = datetime.fromisoformat(answer["scheduled_time"])
        self._open[booking_id] = promised
        draw = self._draw(booking_id)
        if draw.random() < self._habits.called_off:
            span = promised - datetime.fromisoformat(answer["created_at"])
            when = promised - timedelta(minutes=5) - float(draw.random()) * 0.5 * span
            self._at(when, lambda: self._call_off(booking_id))
        if answer["is_urgent"]:
            replaced = bool(draw.random() < self._habits.overridden)
            self._ask(
                "asked", "POST", "/dispatch", {"booking_id": booking_id},
                lambda answer: self._replace(answer) if replaced else None, good=(200, 404, 409),
            )  # fmt: skip

    def _replace(self, answer: dict[str, Any]) -> None:
        """A person sends somebody else."""
        if answer["action"] != "assign":
            return
        others = [d for d in self._drivers if d != answer["driver_id"]]
        draw = self._draw(int(answer["booking_id"]), 2)
        body = {
            "driver_id": others[int(draw.integers(len(others)))],
            "reason_code": "continuity_of_care",
        }
        path = f"/decisions/{answer['decision_id']}/override"
        self._ask("overridden", "POST", path, body, good=(200, 201, 409, 422))

    def _call_off(self, booking_id: int) -> None:
        if self._streets.under_way(booking_id):
            return
        path = f"/bookings/{booking_id}/cancel"
        self._ask("called_off", "POST", path, {}, lambda _: self._gone(booking_id), good=(200, 409))

    def _gone(self, booking_id: int) -> None:
        self._open.pop(booking_id, None)
        for assignment, booking in list(self._queued.items()):
            if booking == booking_id:
                self._streets.take_away(assignment)
                del self._queued[assignment]

    def _give_up(self, now: datetime) -> None:
        """The host closes bookings of patients who went another way."""
        patience = timedelta(minutes=self._habits.given_up_min)
        gone = [b for b, promised in self._open.items() if promised + patience < now]
        if not gone:
            return
        with self._database.writing() as session:
            closed = session.scalars(
                update(Booking)
                .where(Booking.id.in_(gone), Booking.status == PENDING)
                .values(status=UNASSIGNED)
                .returning(Booking.id)
            ).all()
        for booking_id in gone:
            del self._open[booking_id]
        self.told.counts["given_up"] += len(closed)

    # --- drivers ---------------------------------------------------------------------------------

    def _read_assignments(self) -> None:
        """Whom the dispatcher has given what since, and what was taken back."""
        assert self._day is not None
        with self._database.reading() as session:
            rows = session.execute(
                select(Assignment, Booking)
                .join(Booking, Booking.id == Assignment.booking_id)
                .where(Booking.company_id == self.company_id, Assignment.id > self._last_assignment)
                .order_by(Assignment.id)
            ).all()
            taken_back = self._taken_back(session)
        for assignment_id in taken_back:
            if self._streets.take_away(assignment_id):
                self.told.counts["taken_back"] += 1
            self._queued.pop(assignment_id, None)
        self.told.counts["assignments"] += len(rows)
        for assignment, booking in rows:
            self._last_assignment = assignment.id
            self._open.pop(booking.id, None)
            if assignment.status == CANCELED or assignment.driver_id not in self._streets.drivers:
                continue
            self._queued[assignment.id] = booking.id
            self.told.counts["given"] += 1
            self._streets.give(assignment.driver_id, self._job(assignment, booking))

    def _taken_back(self, session: Session) -> list[int]:
        return list(
            session.scalars(
                select(Assignment.id).where(
                    Assignment.id.in_(list(self._queued)), Assignment.status == CANCELED
                )
            )
        )

    def _job(self, assignment: Assignment, booking: Booking) -> Job:
        assert self._day is not None
        promised = max(booking.scheduled_time, booking.created_at)
        return Job(
            booking.id,
            assignment.id,
            self._day.minute(assignment.assigned_at),
            self._day.minute(promised),
            (booking.pickup_lat, booking.pickup_lon),
            (booking.dropoff_lat, booking.dropoff_lon),
            booking.pickup_service_min or 0.0,
            booking.dropoff_service_min or 0.0,
            luck_of(self._seed, booking.id, self._habits.no_show),
        )

    def _report(self, happening: Happening) -> None:
        """What happened, told at once, later, or never; drawn per booking."""
        assert self._day is not None
        job, at = happening.job, self._day.instant(happening.at_min)
        self._queued.pop(job.assignment_id, None)
        draw = self._draw(job.booking_id, 1)
        fate = draw.random()
        last = happening.kind != "picked_up"
        if last:
            self.told.counts[f"happened_{happening.kind}"] += 1
        if fate < self._habits.never_told:
            self.told.counts["never_told"] += last
            return
        self.told.counts["owed"] += last
        late = fate < self._habits.never_told + self._habits.told_late
        if late and not last:
            return  # the pickup is told with the end
        body: dict[str, Any] = {"outcome": happening.kind, "at": at.isoformat()}
        if happening.kind == "completed":
            body["picked_up_at"] = self._day.instant(happening.pickup_min).isoformat()
        when = at
        if late:
            self.told.counts["told_late"] += 1
            when += timedelta(hours=float(draw.exponential(self._habits.told_late_h)))
        self._at(when, lambda: self._tell(happening, body, late))

    def _tell(self, happening: Happening, body: dict[str, Any], late: bool) -> None:
        path = f"/assignments/{happening.job.assignment_id}/outcome"

        def told(_: dict[str, Any]) -> None:
            self.told.counts["owed"] -= happening.kind != "picked_up"

        self._ask(f"told_{happening.kind}", "POST", path, body, told, good=(200,))
        if not late:
            lat, lon = happening.place
            place = {"lat": lat, "lon": lon}
            self._ask("position", "PUT", f"/drivers/{happening.driver_id}/position", place)

    # --- calling ---------------------------------------------------------------------------------

    def _ask(
        self,
        name: str,
        method: str,
        path: str,
        body: dict[str, Any],
        then: Callable[[dict[str, Any]], None] = lambda _: None,
        *,
        good: tuple[int, ...] = (200,),
    ) -> None:
        """Do something by a request; without an answer it is tried again, later, as the same deed.

        Args:
            name: Of the deed, to be counted.
            method: Of the request.
            path: Below the API's.
            body: JSON.
            then: Called with the answer.
            good: Statuses that can be; others are counted as refused.
        """
        self._order += 1
        once = f"twin-{self.company_id}-{self._order}"

        def attempt() -> None:
            status, answer = self._calls.call(method, path, body, once)
            if status in _AGAIN:
                self.told.counts["no_answer"] += 1
                self._at(self._clock.now() + _TRY_AGAIN_AFTER, attempt)
            elif status not in good:
                detail = str(answer.get("detail", ""))
                self.told.refused[f"{name}: {status} {detail}"[:160]] += 1
            elif status >= 400:
                self.told.counts[f"{name}_{status}"] += 1
            else:
                self.told.counts[name] += 1
                then(answer)

        attempt()

    def _at(self, when: datetime, what: Callable[[], None]) -> None:
        self._order += 1
        self._later.append((when, self._order, what))

    def _draw(self, number: int, stream: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._seed, abs(number), stream, int(number < 0)))
