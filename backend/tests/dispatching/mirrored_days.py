"""Days of the simulator written into a database, moment by moment, as a company's rows."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import delete
from sqlalchemy.orm import Session

from models import Assignment, Booking, Commitment, Driver
from services.dispatching.operating_day import OperatingDay
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.types import BookingStatus

ZONE = ZoneInfo("Europe/Zurich")
COMPANY = 7


def clock_time(day: OperatingDay, minute: float) -> time:
    return day.instant(minute).astimezone(ZONE).time().replace(tzinfo=None)


def mirror(session: Session, engine: Engine, day: OperatingDay) -> None:
    """Replace the company's rows by what environment 0 knows now."""
    for model in (Commitment, Assignment, Booking, Driver):
        session.execute(delete(model))
    w = engine.world
    now = engine.now_min(0)
    played = engine.day(0)
    for d, row in enumerate(played.drivers):
        session.add(
            Driver(
                id=d + 1,
                company_id=COMPANY,
                driver_type="EMERGENCY" if row["emergency"] else "REGULAR",
                is_active=True,
                wheelchair_vehicle=bool(row["wheelchair"]),
                shift_start=clock_time(day, float(row["shift_start_min"])),
                shift_end=clock_time(day, float(row["shift_end_min"])),
                home_lat=float(w.drivers[0, world.AT_LAT, d]),
                home_lon=float(w.drivers[0, world.AT_LON, d]),
            )
        )
    for b, row in enumerate(played.bookings):
        status = int(w.booking_ints[0, b, world.STATUS])
        if row["created_min"] > now:
            continue
        open_ = status == BookingStatus.OPEN
        session.add(
            Booking(
                id=b + 1,
                company_id=COMPANY,
                pickup_lat=float(row["pickup_lat"]),
                pickup_lon=float(row["pickup_lon"]),
                dropoff_lat=float(row["dropoff_lat"]),
                dropoff_lon=float(row["dropoff_lon"]),
                scheduled_time=day.instant(float(row["promised_min"])),
                created_at=day.instant(float(row["created_min"])),
                status="PENDING" if open_ else "ASSIGNED",
                priority=int(row["priority"]),
                is_urgent=bool(row["immediate"]),
                wheelchair_need=bool(row["wheelchair"]),
                is_return=bool(row["is_return"]),
                pickup_service_min=float(row["pickup_service_min"]),
                dropoff_service_min=float(row["dropoff_service_min"]),
            )
        )
    session.flush()
    for d in range(engine.num_drivers):
        for k in range(int(w.driver_ints[0, world.COMMITTED, d])):
            b = int(w.queue[0, d, k])
            when = {
                name: day.instant(float(w.bookings[0, b, column]))
                for name, column in (
                    ("depart", world.DEPART),
                    ("pickup", world.PICKUP),
                    ("dropoff", world.DROPOFF),
                )
            }
            stage = int(w.driver_ints[0, world.STAGE, d]) if k == 0 else world.TO_DEPART
            state = {world.TO_DEPART: "queued", world.TO_PICK_UP: "driving"}.get(stage, "onboard")
            if float(w.bookings[0, b, world.PICKUP]) > now:
                state = "queued" if when["depart"] > day.instant(now) else "driving"
            session.add(
                Assignment(
                    id=b + 1, booking_id=b + 1, driver_id=d + 1, assigned_at=day.instant(now)
                )
            )
            session.flush()
            session.add(
                Commitment(
                    booking_id=b + 1,
                    company_id=COMPANY,
                    driver_id=d + 1,
                    assignment_id=b + 1,
                    slot=k,
                    order_no=k,
                    planned_depart_at=when["depart"],
                    planned_pickup_at=when["pickup"],
                    planned_dropoff_at=when["dropoff"],
                    state=state,
                    created_at=day.instant(now),
                )
            )
    session.flush()


def start_of_day() -> datetime:
    """08:00 in Geneva on a day without a change of clocks."""
    return datetime(2026, 3, 3, 7, 0, tzinfo=UTC)


def same(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-6) -> bool:
    return bool(np.allclose(a.astype(float), b.astype(float), rtol=0, atol=tolerance))


def hours(count: float) -> timedelta:
    return timedelta(hours=count)
