"""A company in a database: drivers and bookings of a simulated day, and a clock to live it by."""

from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import select

from clock import FixedClock
from extensions import Database
from models import Assignment, Base, Booking, Commitment, Driver
from services.dispatching.desk import Desk
from services.dispatching.dispatcher import Dispatcher
from services.dispatching.operating_day import OperatingDay, operating_day
from services.rl.simulation.days import Day
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario

from .mirrored_days import ZONE, clock_time, start_of_day

COMPANY = 7


class Company:
    """One company that lives a simulated day."""

    def __init__(self, url: str, scenario: Scenario, seed: int, registry=None) -> None:
        self.scenario = scenario
        self.database = Database(url)
        Base.metadata.create_all(self.database.engine)
        self.day: OperatingDay = operating_day(start_of_day(), scenario.rules, ZONE)
        self.clock = FixedClock(self.day.start)
        self.desk = Desk(scenario, self.database, self.clock, registry, budget_ms=5_000.0)
        self.dispatcher = Dispatcher(self.desk, self.database, self.clock, ZONE)
        engine = Engine(scenario, 1)
        engine.start(np.array([seed]))
        self.played: Day = engine.day(0)
        self._hire()
        self._booked = 0

    def _hire(self) -> None:
        with self.database.writing() as session:
            for d, row in enumerate(self.played.drivers):
                session.add(
                    Driver(
                        id=d + 1,
                        company_id=COMPANY,
                        driver_type="EMERGENCY" if row["emergency"] else "REGULAR",
                        is_active=True,
                        wheelchair_vehicle=bool(row["wheelchair"]),
                        shift_start=clock_time(self.day, float(row["shift_start_min"])),
                        shift_end=clock_time(self.day, float(row["shift_end_min"])),
                        home_lat=float(row["lat"]),
                        home_lon=float(row["lon"]),
                    )
                )

    def now_min(self) -> float:
        return self.day.minute(self.clock.now())

    def book(self) -> None:
        """Bookings that were created by now."""
        bookings = self.played.bookings
        with self.database.writing() as session:
            while (
                self._booked < len(bookings)
                and bookings["created_min"][self._booked] <= self.now_min()
            ):
                row = bookings[self._booked]
                self._booked += 1
                session.add(
                    Booking(
                        id=self._booked,
                        company_id=COMPANY,
                        pickup_lat=float(row["pickup_lat"]),
                        pickup_lon=float(row["pickup_lon"]),
                        dropoff_lat=float(row["dropoff_lat"]),
                        dropoff_lon=float(row["dropoff_lon"]),
                        scheduled_time=self.day.instant(float(row["promised_min"])),
                        created_at=self.day.instant(float(row["created_min"])),
                        status="PENDING",
                        priority=int(row["priority"]),
                        is_urgent=bool(row["immediate"]),
                        wheelchair_need=bool(row["wheelchair"]),
                        is_return=bool(row["is_return"]),
                        pickup_service_min=float(row["pickup_service_min"]),
                        dropoff_service_min=float(row["dropoff_service_min"]),
                    )
                )

    def drive(self) -> None:
        """Everything that was planned for now or earlier has happened as planned."""
        now = self.clock.now()
        with self.database.writing() as session:
            for row in session.scalars(select(Commitment).order_by(Commitment.order_no)).all():
                booking = session.get(Booking, row.booking_id)
                assignment = session.get(Assignment, row.assignment_id)
                end = row.planned_dropoff_at + timedelta(minutes=booking.dropoff_service_min)
                if row.planned_pickup_at <= now:
                    row.state, booking.status = "onboard", "IN_PROGRESS"
                    assignment.actual_pickup_at = row.planned_pickup_at
                if end <= now:
                    assignment.actual_dropoff_at = row.planned_dropoff_at
                    assignment.status = booking.status = "COMPLETED"
                    session.delete(row)

    def live(self, until_min: float) -> None:
        """Tick by tick."""
        while self.now_min() < until_min:
            self.book()
            self.drive()
            self.dispatcher.dispatch(COMPANY)
            self.clock.advance(minutes=self.scenario.rules.epoch_min)

    def bookings(self) -> list[Booking]:
        with self.database.reading() as session:
            return list(session.scalars(select(Booking).order_by(Booking.id)))

    def at(self, minute: float) -> datetime:
        return self.day.instant(minute)
