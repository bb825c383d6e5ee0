"""Days as rows of the host's tables."""

from collections.abc import Sequence
from datetime import date, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from extensions import Database
from models import Assignment, Booking, Driver
from services.dispatching.operating_day import day_of
from services.rl.data.sampling import sample_days
from services.rl.simulation.sampling import fleet_rows
from services.rl.simulation.scenarios import Scenario, parse_scenario
from services.rl.simulation.types import Day

ZONE = ZoneInfo("Europe/Zurich")


def busier(scenario: Scenario, factor: float, moved: dict[str, dict[str, float]]) -> Scenario:
    """More bookings, and sites elsewhere."""
    raw = scenario.model_dump(mode="json")
    for site in raw["place"]["sites"]:
        site.update(moved.get(site["name"], {}))
    raw["demand"]["bookings_per_day"] *= factor
    return parse_scenario(raw, "shifted")


def drawn(scenario: Scenario, count: int, seed: int) -> list[Day]:
    """Sampled days."""
    table, counts = sample_days(
        scenario.demand_model(),
        np.random.default_rng(seed),
        count,
        window_min=scenario.rules.window_min,
    )
    ends = np.cumsum(counts)
    fleet = fleet_rows(scenario)
    return [
        Day(f"{seed}/{i}", table[e - n : e].copy(), fleet.copy())
        for i, (n, e) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True))
    ]


def write_days(
    database: Database,
    scenario: Scenario,
    days: Sequence[Day],
    first: date,
    *,
    company: int = 1,
    speed_kmh: float = 20.0,
) -> None:
    """Bookings with assignments that went as booked, one operating day after the other."""
    drivers = scenario.fleet.num_drivers
    with database.writing() as session:
        session.add_all(
            Driver(
                id=100 * company + d,
                company_id=company,
                wheelchair_vehicle=True,
                shift_start=time(8),
                shift_end=time(17),
                home_lat=scenario.place.base.lat,
                home_lon=scenario.place.base.lon,
            )
            for d in range(drivers)
        )
        session.flush()
        number = 100_000 * company
        for i, day in enumerate(days):
            start = day_of(first + timedelta(days=i), scenario.rules, ZONE)
            for b in day.bookings:
                number += 1
                promised = start.instant(float(b["promised_min"]))
                km = (
                    1.35
                    * 111.195
                    * float(
                        np.hypot(
                            b["pickup_lat"] - b["dropoff_lat"],
                            0.69 * (b["pickup_lon"] - b["dropoff_lon"]),
                        )
                    )
                )
                left = promised + timedelta(minutes=2 + float(b["pickup_service_min"]))
                session.add(
                    Booking(
                        id=number,
                        company_id=company,
                        pickup_lat=float(b["pickup_lat"]),
                        pickup_lon=float(b["pickup_lon"]),
                        dropoff_lat=float(b["dropoff_lat"]),
                        dropoff_lon=float(b["dropoff_lon"]),
                        scheduled_time=promised,
                        created_at=start.instant(float(b["created_min"])),
                        status="COMPLETED",
                        priority=int(b["priority"]),
                        is_urgent=bool(b["immediate"]),
                        wheelchair_need=bool(b["wheelchair"]),
                        is_return=bool(b["is_return"]),
                        pickup_service_min=float(b["pickup_service_min"]),
                        dropoff_service_min=float(b["dropoff_service_min"]),
                    )
                )
                session.flush()
                session.add(
                    Assignment(
                        booking_id=number,
                        driver_id=100 * company + number % drivers,
                        assigned_at=start.instant(float(b["created_min"])),
                        status="COMPLETED",
                        actual_pickup_at=promised + timedelta(minutes=2),
                        actual_dropoff_at=left + timedelta(minutes=60.0 * km / speed_kmh),
                    )
                )
