"""Experiences to test stores with: invented, all fields in use."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from services.rl.data.experience import WAIT_PREFIX, Ending, Experience, RewardTerms, Rows
from services.rl.simulation.types import STATE_BOOKING_DTYPE, STATE_DRIVER_DTYPE

MONDAY = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)


def rows(rng: np.random.Generator, drivers: int = 10, bookings: int = 10) -> Rows:
    """A fleet and its open bookings, near Geneva."""
    fleet = np.zeros(drivers, STATE_DRIVER_DTYPE)
    fleet["lat"] = rng.uniform(46.1, 46.3, drivers)
    fleet["lon"] = rng.uniform(6.0, 6.3, drivers)
    fleet["zone"] = -1
    fleet["free_at_min"] = rng.uniform(0, 480, drivers)
    fleet["committed"] = rng.integers(0, 2, drivers)
    fleet["shift_end_min"] = 480
    fleet["wheelchair"] = rng.random(drivers) < 0.3
    fleet["served"] = rng.integers(0, 9, drivers)
    fleet["busy_min"] = rng.uniform(0, 300, drivers)
    wanted = np.zeros(bookings, STATE_BOOKING_DTYPE)
    for name in ("pickup_lat", "dropoff_lat"):
        wanted[name] = rng.uniform(46.1, 46.3, bookings)
    for name in ("pickup_lon", "dropoff_lon"):
        wanted[name] = rng.uniform(6.0, 6.3, bookings)
    for name in ("pickup_zone", "dropoff_zone"):
        wanted[name] = -1
    wanted["created_min"] = rng.uniform(-600, 0, bookings)
    wanted["promised_min"] = rng.uniform(0, 480, bookings)
    wanted["window_end_min"] = wanted["promised_min"] + 15
    wanted["priority"] = rng.integers(1, 6, bookings)
    wanted["immediate"] = rng.random(bookings) < 0.3
    wanted["pickup_service_min"] = wanted["dropoff_service_min"] = 3.0
    wanted["fare"] = np.where(rng.random(bookings) < 0.5, np.nan, 40.0)
    return Rows(float(5 * rng.integers(0, 96)), fleet, wanted)


def experience(
    number: int, *, company_id: int = 1, wait: bool = False, **changes: Any
) -> Experience:
    """One of them; the same number gives the same experience."""
    rng = np.random.default_rng([number, company_id, wait])
    at = MONDAY + timedelta(minutes=5 * number, microseconds=number)
    fields: dict[str, Any] = {
        "id": f"{WAIT_PREFIX}{number}" if wait else str(number),
        "company_id": company_id,
        "day": at.date(),
        "at": at,
        "scenario_hash": "5d" * 32,
        "state": rows(rng),
        "prior": ((3, 1), (0, 4)),
        "action": None if wait else (2, 7),
        "dt": 1.0 if wait else 0.0,
        "next_state": rows(rng) if wait else None,
        "done": False,
        "terms": RewardTerms(12.0, -0.9, -2.35, 0.0, 0.0),
        "loss": 12.0,
        "pickup_in_min": None if wait else 37.25,
        "planned_pickup_in_min": None if wait else 35.0,
        "planned_reward": None if wait else 10.1,
        "ending": Ending.WAITED if wait else Ending.COMPLETED,
        "propensity": None if wait else 0.94,
        "k": 3,
        "arm": "treatment",
        "unit": "zone-3:2026-03-02T08",
        "model": "planner-0007",
        "source": "policy",
    }
    return Experience(**{**fields, **changes})


def experiences(count: int, *, company_id: int = 1, first: int = 0) -> list[Experience]:
    """Assignments and, every fourth, a WAIT."""
    return [
        experience(n, company_id=company_id, wait=n % 4 == 3) for n in range(first, first + count)
    ]
