"""A company that lives simulated days in a database: for demonstrations, and tests of the pages.

Drivers and bookings are those of the simulator's days; everything else happens as in production:
the dispatcher decides tick by tick, commits and logs. What the streets make of a plan is drawn
here: pickups a little later than planned, now and then a patient who is not there.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from clock import FixedClock
from extensions import Database
from models import Assignment, Booking, Commitment, Driver, DriverStatus, Experiment
from models.experiment import ExperimentEvent
from routes.statuses import ASSIGNED, COMPLETED, IN_PROGRESS, NO_SHOW, PENDING, UNASSIGNED
from services.rl.errors import UsageError
from services.rl.serving.registry import Registry
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day

from .desk import Desk
from .dispatcher import Dispatcher
from .experiments import DISPATCH
from .operating_day import OperatingDay, day_of

_SPREAD_MIN: Final = 2.0  # of pickups around the plan
_NO_SHOW: Final = 0.02


class DemoCompany:
    """One company.

    Args:
        database: At the newest revision; the company's ids must be free.
        scenario: The world.
        zone: Of shifts and operating days.
        registry: Model versions; None: the heuristic stands in for the learned arm.
        company_id: Whose rows.
        first_id: First id of its drivers and bookings.
        seed: Of days and streets.
        given_up_after: Who has waited so long after the promise goes another way; None: nobody.

    Attributes:
        clock: Where the company's time stands.
        dispatcher: Decides, as in production.
    """

    def __init__(
        self,
        database: Database,
        scenario: Scenario,
        zone: ZoneInfo,
        registry: Registry | None = None,
        *,
        company_id: int = 1,
        first_id: int = 1,
        seed: int = 1_000_000,
        given_up_after: timedelta | None = timedelta(minutes=45),
    ) -> None:
        self.database = database
        self.company_id = company_id
        self.clock = FixedClock(datetime(2026, 1, 1, tzinfo=zone))
        self._scenario = scenario
        self._zone = zone
        self._seed = seed
        self._next_id = first_id
        self._drivers: list[int] = []
        self._given_up_after = given_up_after
        self._today: _Today | None = None
        desk = Desk(scenario, database, self.clock, registry, budget_ms=1_000.0)
        self.dispatcher = Dispatcher(desk, database, self.clock, zone)

    def open_experiment(
        self,
        at: datetime,
        *,
        mode: str = "ab",
        unit: str = "switchback",
        rl_share: float = 0.5,
    ) -> None:
        """Begin the experiment that the dashboard shows."""
        with self.database.writing() as session:
            row = Experiment(
                company_id=self.company_id, name=DISPATCH, mode=mode, unit=unit,
                salt="demo", rl_share=rl_share, block_min=60, epsilon=0.0, guardrails={},
                created_at=at, updated_at=at,
            )  # fmt: skip
            session.add(row)
            session.flush()
            session.add(
                ExperimentEvent(
                    experiment_id=row.id, at=at, kind="created", who="demo", why="demo",
                    data={"mode": mode},
                )
            )  # fmt: skip

    @property
    def today_from(self) -> int:
        """Id of the first booking of the day in progress."""
        return self._next_id if self._today is None else self._today.ids.start

    def live(self, local: date, until: datetime) -> int:
        """Live the operating day of a local date until a moment; how many bookings it has had.

        Args:
            local: The date.
            until: Where the clock stops; later than the day: its end.
        """
        self._begin(local)
        self.go_on(until)
        assert self._today is not None
        return self._today.booked

    def resume(self, local: date, first_booking: int, moment: datetime) -> None:
        """Take over a company that another process has lived with.

        Args:
            local: Date of the day in progress.
            first_booking: Id of its first booking (`today_from`).
            moment: Where the clock stood.
        """
        with self.database.reading() as session:
            self._drivers = list(
                session.scalars(
                    select(Driver.id)
                    .where(Driver.company_id == self.company_id)
                    .order_by(Driver.id)
                )
            )
            self._next_id = first_booking
            self._begin(local)
            assert self._today is not None
            ids = self._today.ids
            self._today.booked = (
                session.scalar(
                    select(func.count())
                    .select_from(Booking)
                    .where(Booking.id >= ids.start, Booking.id < ids.stop)
                )
                or 0
            )
        self.clock.set(moment)

    def go_on(self, until: datetime) -> None:
        """Live on in the day in progress until a moment, or its end.

        At every epoch the dispatcher decides; between two, patients and drivers go on.
        """
        today = self._today
        if today is None:
            raise UsageError("no day is in progress: live() or resume() one")
        rules = self._scenario.rules
        epoch = timedelta(minutes=rules.epoch_min)
        end = min(until, today.day.instant(rules.horizon_min + rules.overtime_min))
        while self.clock.now() < end:
            begun = self.clock.now()
            next_epoch = begun + epoch - (begun - today.day.start) % epoch
            now = min(next_epoch, end)
            self.clock.set(now)
            with self.database.writing() as session:
                self._book(session, today, now)
                self._drive(session, now)
            if now == next_epoch:
                self.dispatcher.dispatch(self.company_id)

    @property
    def over(self) -> bool:
        """Whether the day in progress has ended."""
        rules = self._scenario.rules
        minute = rules.horizon_min + rules.overtime_min
        return self._today is None or self.clock.now() >= self._today.day.instant(minute)

    def _begin(self, local: date) -> None:
        rules = self._scenario.rules
        day = day_of(local, rules, self._zone)
        engine = Engine(self._scenario, 1)
        engine.start(np.array([self._seed + local.toordinal() % 10_000]))
        played = engine.day(0)
        self._hire(played, day)
        ids = range(self._next_id, self._next_id + len(played.bookings))
        self._next_id = ids.stop
        self._today = _Today(day, played, ids)
        self.clock.set(day.start - timedelta(minutes=rules.epoch_min))

    def _book(self, session: Session, today: "_Today", now: datetime) -> None:
        rows = today.played.bookings
        while today.booked < len(rows) and (
            rows["created_min"][today.booked] <= today.day.minute(now)
        ):
            n = today.booked
            session.add(self._booking(today.ids[n], rows[n], today.day))
            today.booked += 1

    def _hire(self, played: Day, day: OperatingDay) -> None:
        """The day's drivers: the same people every day, with the shifts of the first."""
        if self._drivers:
            return
        with self.database.writing() as session:
            for d, row in enumerate(played.drivers):
                driver_id = self._next_id + d
                self._drivers.append(driver_id)
                session.add(
                    Driver(
                        id=driver_id,
                        company_id=self.company_id,
                        driver_type="EMERGENCY" if row["emergency"] else "REGULAR",
                        is_active=True,
                        wheelchair_vehicle=bool(row["wheelchair"]),
                        shift_start=self._clock_time(day, float(row["shift_start_min"])),
                        shift_end=self._clock_time(day, float(row["shift_end_min"])),
                        home_lat=float(row["lat"]),
                        home_lon=float(row["lon"]),
                    )
                )
                session.flush()
                session.add(
                    DriverStatus(
                        driver_id=driver_id, company_id=self.company_id,
                        lat=float(row["lat"]), lon=float(row["lon"]), position_at=None,
                        on_shift=True, down=False, updated_at=day.start,
                    )
                )  # fmt: skip
        self._next_id += len(played.drivers)

    def _booking(self, booking_id: int, row: Any, day: OperatingDay) -> Booking:
        return Booking(
            id=booking_id,
            company_id=self.company_id,
            pickup_lat=float(row["pickup_lat"]),
            pickup_lon=float(row["pickup_lon"]),
            dropoff_lat=float(row["dropoff_lat"]),
            dropoff_lon=float(row["dropoff_lon"]),
            scheduled_time=day.instant(float(row["promised_min"])),
            created_at=day.instant(float(row["created_min"])),
            status=PENDING,
            priority=int(row["priority"]),
            is_urgent=bool(row["immediate"]),
            wheelchair_need=bool(row["wheelchair"]),
            is_return=bool(row["is_return"]),
            pickup_service_min=float(row["pickup_service_min"]),
            dropoff_service_min=float(row["dropoff_service_min"]),
        )

    def _clock_time(self, day: OperatingDay, minute: float) -> time:
        return day.instant(minute).astimezone(self._zone).time().replace(tzinfo=None)

    # --- the streets -----------------------------------------------------------------------------

    def _drive(self, session: Session, now: datetime) -> None:
        """Everything that was due by now has happened, a little later than planned."""
        rows = session.scalars(
            select(Commitment)
            .where(Commitment.company_id == self.company_id)
            .order_by(Commitment.order_no)
        ).all()
        for row in rows:
            booking, assignment = (
                session.get(Booking, row.booking_id),
                session.get(Assignment, row.assignment_id),
            )
            status = session.get(DriverStatus, row.driver_id)
            if booking is None or assignment is None or status is None:
                continue
            lost, nobody = self._drawn(row.booking_id)
            pickup = max(row.planned_pickup_at + timedelta(minutes=lost), assignment.assigned_at)
            trip = max(row.planned_dropoff_at - row.planned_pickup_at, timedelta(minutes=1))
            if pickup > now:
                if row.planned_depart_at <= now:
                    row.state = "driving"
                    share = _share(row.planned_depart_at, pickup, now)
                    goal = (booking.pickup_lat, booking.pickup_lon)
                    _move(status, goal, min(1.0, 0.5 * share + 0.1), now)
                continue
            if nobody:
                assignment.status = booking.status = NO_SHOW
                session.delete(row)
                continue
            row.state, booking.status = "onboard", IN_PROGRESS
            assignment.actual_pickup_at = pickup
            start = (booking.pickup_lat, booking.pickup_lon)
            _move(status, start, 1.0, now)
            _move(
                status,
                (booking.dropoff_lat, booking.dropoff_lon),
                _share(pickup, pickup + trip, now),
                now,
            )
            service = timedelta(minutes=booking.dropoff_service_min or 0.0)
            if pickup + trip + service <= now:
                assignment.actual_dropoff_at = pickup + trip
                assignment.status = booking.status = COMPLETED
                session.delete(row)
        if self._given_up_after is not None:
            self._give_up(session, now - self._given_up_after)

    def _give_up(self, session: Session, before: datetime) -> None:
        """Patients whom nobody has fetched for long have gone another way."""
        rows = session.scalars(
            select(Booking).where(
                Booking.company_id == self.company_id,
                Booking.status.in_((PENDING, ASSIGNED)),
                Booking.scheduled_time < before,
            )
        )
        for booking in rows:
            if booking.status == PENDING:
                booking.status = UNASSIGNED

    def _drawn(self, booking_id: int) -> tuple[float, bool]:
        """What the streets do to a booking: minutes lost (or won), and whether nobody is there."""
        random = np.random.default_rng((self._seed, booking_id))
        return float(random.gamma(1.2, _SPREAD_MIN) - 1.5), bool(random.random() < _NO_SHOW)


@dataclass
class _Today:
    """The day in progress, and how many of its bookings were made by now."""

    day: OperatingDay
    played: Day
    ids: range
    booked: int = 0


def _share(begin: datetime, end: datetime, now: datetime) -> float:
    """How much of a stretch of time is over."""
    if end <= begin:
        return 1.0
    return min(1.0, max(0.0, (now - begin) / (end - begin)))


def _move(status: DriverStatus, goal: tuple[float, float], share: float, now: datetime) -> None:
    """Move a driver a part of the straight way to a place."""
    lat = goal[0] if status.lat is None else status.lat + share * (goal[0] - status.lat)
    lon = goal[1] if status.lon is None else status.lon + share * (goal[1] - status.lon)
    status.lat, status.lon = round(lat, 6), round(lon, 6)
    status.position_at = status.updated_at = now
