"""Companies in the middle of a working day, in a fresh database: for benchmark and fault tests.

The app goes by the machine's clock. For a day in progress at any hour, the app is given a time zone
in which it is now the third hour of the operating day: a setting, no code.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy.orm import Session

from access import create_key
from clock import FixedClock
from extensions import Database
from migrations import upgrade
from models import Booking, Driver, DriverStatus, Experiment
from routes.statuses import PENDING
from services.dispatching.experiments import DISPATCH
from services.dispatching.operating_day import OperatingDay, operating_day
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario

_INTO_THE_DAY_H: Final = 2
LEAD_MIN: Final = (30.0, 120.0)
"""Bookings are promised so long after they are made."""


@dataclass
class Company:
    """One company.

    Attributes:
        company_id: Whose rows.
        key: Of the API, for dispatching and reading.
        open: Ids of its open bookings.
        trips: Trips of a simulated day, from which its bookings are drawn.
    """

    company_id: int
    key: str
    open: list[int]
    trips: Any = field(repr=False)


def zone_of_day(now: datetime, scenario: Scenario) -> str:
    """Name of a time zone in which ``now`` lies in the third hour of the operating day."""
    hours = (scenario.rules.day_start_min // 60 + _INTO_THE_DAY_H - now.hour) % 24
    hours -= 24 if hours > 12 else 0
    # Etc/GMT-3 is three hours *before* UTC's noon, that is UTC+3.
    return f"Etc/GMT{'-' if hours >= 0 else '+'}{abs(hours)}"


def fill(
    database: Database,
    scenario: Scenario,
    now: datetime,
    *,
    companies: int = 20,
    bookings: int = 20,
    mode: str = "ab",
    unit: str = "switchback",
    seed: int = 0,
) -> list[Company]:
    """Migrate an empty database and fill it: drivers on shift, open bookings, an experiment each.

    The learned arm has all units of the experiment.

    Args:
        database: Empty.
        scenario: Drivers and trips are those of its simulated days.
        now: The present moment.
        companies: How many; ids from 1.
        bookings: Open ones of each.
        mode: Of the experiment.
        unit: Of the experiment.
        seed: Of days and trips.
    """
    upgrade(database.engine)
    zone = ZoneInfo(zone_of_day(now, scenario))
    day = operating_day(now, scenario.rules, zone)
    engine = Engine(scenario, 1)
    random = np.random.default_rng(seed)
    clock = FixedClock(now)
    found = []
    with database.writing() as session:
        for company_id in range(1, companies + 1):
            engine.start(np.array([seed + company_id]))
            played = engine.day(0)
            for row in played.drivers:
                _hire(session, company_id, row, day, zone, now)
            open_ = [
                _book(session, company_id, draw_trip(random, played.bookings), random, now)
                for _ in range(bookings)
            ]
            session.add(
                Experiment(
                    company_id=company_id, name=DISPATCH, mode=mode, unit=unit, salt="busy",
                    rl_share=1.0, block_min=60, epsilon=0.0, guardrails={}, created_at=now,
                    updated_at=now,
                )
            )  # fmt: skip
            _, key = create_key(
                session, clock, company_id=company_id, name="busy", scopes=("dispatch", "read")
            )
            session.flush()
            ids = [booking.id for booking in open_]
            found.append(Company(company_id, key, ids, played.bookings))
    return found


def draw_trip(random: np.random.Generator, trips: Any) -> Any:
    """One trip of the day."""
    return trips[int(random.integers(len(trips)))]


def draw_promise(random: np.random.Generator, now: datetime) -> datetime:
    """When a new booking is to be fetched."""
    return now + timedelta(minutes=float(random.uniform(*LEAD_MIN)))


def _hire(
    session: Session, company_id: int, row: Any, day: OperatingDay, zone: ZoneInfo, now: datetime
) -> None:
    def on_the_clock(minute: float) -> Any:
        return day.instant(minute).astimezone(zone).time().replace(tzinfo=None)

    driver = Driver(
        company_id=company_id,
        driver_type="EMERGENCY" if row["emergency"] else "REGULAR",
        is_active=True,
        wheelchair_vehicle=bool(row["wheelchair"]),
        shift_start=on_the_clock(float(row["shift_start_min"])),
        shift_end=on_the_clock(float(row["shift_end_min"])),
        home_lat=float(row["lat"]),
        home_lon=float(row["lon"]),
    )
    session.add(driver)
    session.flush()
    session.add(
        DriverStatus(
            driver_id=driver.id, company_id=company_id, lat=float(row["lat"]),
            lon=float(row["lon"]), position_at=now, on_shift=True, down=False, updated_at=now,
        )
    )  # fmt: skip


def _book(
    session: Session, company_id: int, trip: Any, random: np.random.Generator, now: datetime
) -> Booking:
    booking = Booking(
        company_id=company_id,
        pickup_lat=float(trip["pickup_lat"]),
        pickup_lon=float(trip["pickup_lon"]),
        dropoff_lat=float(trip["dropoff_lat"]),
        dropoff_lon=float(trip["dropoff_lon"]),
        scheduled_time=draw_promise(random, now),
        created_at=now,
        status=PENDING,
        priority=int(trip["priority"]),
        is_urgent=False,
        wheelchair_need=bool(trip["wheelchair"]),
        is_return=bool(trip["is_return"]),
        pickup_service_min=float(trip["pickup_service_min"]),
        dropoff_service_min=float(trip["dropoff_service_min"]),
    )
    session.add(booking)
    return booking
