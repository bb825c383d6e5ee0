"""A plausible company history, as plain rows: for demos, tests and first experiments.

Bookings come from a scenario's demand model with weekly and seasonal variation; a plain
dispatcher (the driver who can be there first) serves them with noisy travel times, so the history
has honest delays, cancellations and unserved bookings. It is invented: no real company's data.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import HaversineTravel, Scenario
from services.rl.simulation.travel import TravelModel, haversine_tables
from services.rl.simulation.types import FloatArray

from .sampling import KM_PER_DEGREE, sample_bookings

Row = dict[str, Any]

WEEKDAY_VOLUME = (1.06, 1.02, 1.00, 1.03, 0.94, 0.38, 0.0)
"""Demand by day of the week, Monday first; the company rests on Sunday."""

SEASONAL_SWING = 0.10
LOAD = 0.7  # of the scenario's demand: a company that still serves nine of ten, by a heuristic
"""Winter has this much more demand than the yearly mean, summer this much less."""

GROWTH_PER_YEAR = 0.08
SATURDAY_DRIVERS = 0.5
ABSENCE = 0.04
"""Probability that a driver is off sick on a day."""

CALLED_OFF = 0.08
TRAVEL_NOISE = 0.15
"""Log-normal standard deviation of real travel times around the model's."""

DECIDED_AHEAD_MIN = 45.0
"""A pre-booked trip is given to a driver this long before the promised time."""


@dataclass(frozen=True)
class SyntheticHistory:
    """Rows of the three tables, with the field names of ``backend/models``."""

    drivers: list[Row]
    bookings: list[Row]
    assignments: list[Row]


@dataclass
class _Fleet:
    """Drivers on duty on one day; arrays of one entry per driver."""

    driver_id: npt.NDArray[np.int64]
    lat: FloatArray
    lon: FloatArray
    free_at: FloatArray
    shift_end: FloatArray
    wheelchair: npt.NDArray[np.bool_]
    emergency: npt.NDArray[np.bool_]


def synthesise_history(
    scenario: Scenario, *, start: date, days: int, seed: int, company_id: int = 1
) -> SyntheticHistory:
    """Invent ``days`` calendar days of bookings, drivers and assignments.

    Args:
        scenario: Gives demand, fleet, travel times and the operating day.
        start: First calendar day.
        days: Calendar days (Sundays have no bookings).
        seed: Same seed, same rows.
        company_id: Written to every row.

    Raises:
        UsageError: If the scenario's travel is not by coordinates.
    """
    if not isinstance(scenario.travel, HaversineTravel):
        raise UsageError(f"scenario {scenario.name!r} has zone travel; a history needs coordinates")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x41544D52]))
    model = scenario.demand_model()
    rules = scenario.rules
    travel = TravelModel(
        haversine_tables(scenario.travel.circuity, scenario.travel.speed_kmh, rules.day_start_min)
    )
    history = SyntheticHistory(_drivers(scenario, rng, company_id), [], [])
    zone = ZoneInfo(scenario.place.timezone)
    for offset in range(days):
        day = start + timedelta(days=offset)
        volume = _volume(day, start)
        if volume <= 0:
            continue
        bookings = sample_bookings(model, rng, window_min=rules.window_min, volume=volume)
        day_start = datetime.combine(day, time(), zone) + timedelta(minutes=rules.day_start_min)
        fleet = _fleet_of_day(history.drivers, day, rng, rules.day_start_min)
        _play_day(history, bookings, fleet, travel, scenario, day_start, rng, company_id)
    return history


def _volume(day: date, start: date) -> float:
    """Factor on the demand of a date: weekday, season and slow growth."""
    year_angle = 2 * np.pi * (day.timetuple().tm_yday - 15) / 365.25
    growth = 1 + GROWTH_PER_YEAR * (day - start).days / 365.25
    season = 1 + SEASONAL_SWING * float(np.cos(year_angle))
    return float(LOAD * WEEKDAY_VOLUME[day.weekday()] * season * growth)


def _drivers(scenario: Scenario, rng: np.random.Generator, company_id: int) -> list[Row]:
    """The scenario's fleet as rows, plus one driver who has left."""
    rules = scenario.rules
    site = {s.name: s for s in scenario.place.sites}
    rows = []
    for i in range(scenario.fleet.num_drivers + 1):
        pattern = scenario.fleet.patterns[i % len(scenario.fleet.patterns)]
        at = site[pattern.start] if pattern.start is not None else scenario.place.base
        end = rules.horizon_min if pattern.shift_end_min is None else pattern.shift_end_min
        jitter = 0.3 / KM_PER_DEGREE * rng.standard_normal(2)
        rows.append(
            {
                "id": i + 1,
                "company_id": company_id,
                "driver_type": "EMERGENCY" if pattern.emergency else "REGULAR",
                "is_active": i < scenario.fleet.num_drivers,
                "wheelchair_vehicle": pattern.wheelchair,
                "shift_start": _clock(rules.day_start_min + pattern.shift_start_min),
                "shift_end": _clock(rules.day_start_min + end),
                "home_lat": round(float(at.lat + jitter[0]), 6),
                "home_lon": round(float(at.lon + jitter[1]), 6),
            }
        )
    return rows


def _clock(minutes: float) -> time:
    whole = round(minutes) % 1440
    return time(whole // 60, whole % 60)


def _fleet_of_day(
    drivers: list[Row], day: date, rng: np.random.Generator, day_start_min: int
) -> _Fleet:
    """Who works on a date: everyone not absent; on Saturdays a part, in rotation."""
    active = [row for row in drivers if row["is_active"]]
    present = [row for row in active if rng.random() >= ABSENCE] or active[:1]
    if day.weekday() == 5:
        wanted = max(1, round(SATURDAY_DRIVERS * len(active)))
        turn = day.toordinal() // 7 % len(present)
        present = (present[turn:] + present[:turn])[:wanted]
    start = np.array([_minutes(row["shift_start"]) for row in present]) - day_start_min
    end = np.array([_minutes(row["shift_end"]) for row in present]) - day_start_min
    return _Fleet(
        driver_id=np.array([row["id"] for row in present], dtype=np.int64),
        lat=np.array([row["home_lat"] for row in present]),
        lon=np.array([row["home_lon"] for row in present]),
        free_at=start.astype(np.float64),
        shift_end=np.where(end <= start, end + 1440, end).astype(np.float64),
        wheelchair=np.array([row["wheelchair_vehicle"] for row in present]),
        emergency=np.array([row["driver_type"] == "EMERGENCY" for row in present]),
    )


def _minutes(clock: time) -> float:
    return clock.hour * 60.0 + clock.minute


def _play_day(
    history: SyntheticHistory,
    bookings: npt.NDArray[np.void],
    fleet: _Fleet,
    travel: TravelModel,
    scenario: Scenario,
    day_start: datetime,
    rng: np.random.Generator,
    company_id: int,
) -> None:
    """Write a day's bookings, then dispatch them in the order a person would decide."""
    # People promise round times; someone who needs a car now does not.
    rounded = np.round(bookings["promised_min"] / 5) * 5
    lead = bookings["promised_min"] - bookings["created_min"]
    promised = np.where(bookings["immediate"], np.floor(bookings["promised_min"]), rounded)
    # Wall-clock arithmetic: 09:00 stays 09:00 on the days when the clocks change.
    created = promised - np.maximum(lead, 0)
    called_off = np.where(
        (rng.random(len(bookings)) < CALLED_OFF) & ~bookings["immediate"],
        created + rng.random(len(bookings)) * (promised - 5 - created),
        np.inf,
    )
    decided = np.maximum(created, promised - DECIDED_AHEAD_MIN)
    first_id = len(history.bookings) + 1
    for i, booking in enumerate(bookings):
        instant = (day_start + timedelta(minutes=float(promised[i]))).astimezone(UTC)
        cancelled = bool(np.isfinite(called_off[i]))
        history.bookings.append(
            {
                "id": first_id + i,
                "company_id": company_id,
                **{
                    name: round(float(booking[name]), 6)
                    for name in ("pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon")
                },
                "scheduled_time": instant,
                "created_at": _seconds(
                    instant - timedelta(minutes=float(promised[i] - created[i]))
                ),
                "status": "CANCELED" if cancelled else "UNASSIGNED",
                "priority": int(booking["priority"]),
                "is_urgent": bool(booking["immediate"]),
                "wheelchair_need": bool(booking["wheelchair"]),
                "is_return": bool(booking["is_return"]),
                "pickup_service_min": round(float(booking["pickup_service_min"]), 1),
                "dropoff_service_min": round(float(booking["dropoff_service_min"]), 1),
                "cancelled_at": _seconds(
                    instant - timedelta(minutes=float(promised[i] - called_off[i]))
                )
                if cancelled
                else None,
            }
        )
    for i in np.argsort(decided, kind="stable"):
        if called_off[i] <= decided[i]:
            continue
        _dispatch(
            history,
            history.bookings[first_id - 1 + int(i)],
            float(promised[i]),
            float(decided[i]),
            fleet,
            travel,
            scenario,
            rng,
        )


def _dispatch(
    history: SyntheticHistory,
    row: Row,
    promised: float,
    decided: float,
    fleet: _Fleet,
    travel: TravelModel,
    scenario: Scenario,
    rng: np.random.Generator,
) -> None:
    """Give one booking to the driver who can start it first; nobody may be left."""
    rules = scenario.rules
    zero = np.zeros(len(fleet.lat), dtype=np.int64)
    pickup = [row["pickup_lat"]], [row["pickup_lon"]], [0]
    km = travel.km_matrix(fleet.lat, fleet.lon, zero, *pickup)
    depart = np.maximum(fleet.free_at, decided)
    drive = travel.minutes_matrix(depart, km, zero, [0])[:, 0]
    start = np.maximum(depart + drive, promised)
    trip_km = travel.km_matrix(*pickup, [row["dropoff_lat"]], [row["dropoff_lon"]], [0])
    board, alight = row["pickup_service_min"], row["dropoff_service_min"]
    trip = float(travel.minutes_matrix(promised + board, trip_km, [0], [0])[0, 0])
    able = (start <= promised + rules.window_min + rules.grace_min) & (
        start + board + trip + alight <= fleet.shift_end + rules.overtime_min
    )
    if row["wheelchair_need"]:
        able &= fleet.wheelchair
    if row["priority"] < rules.emergency_min_priority:
        able &= ~fleet.emergency
    if not able.any():
        return
    cost = np.where(able, start + 0.01 * km[:, 0], np.inf)
    d = int(np.argmin(cost))
    scheduled: datetime = row["scheduled_time"]
    assignment: Row = {
        "id": len(history.assignments) + 1,
        "booking_id": row["id"],
        "driver_id": int(fleet.driver_id[d]),
        "assigned_at": _seconds(scheduled - timedelta(minutes=promised - decided)),
        "status": "CANCELED",
        "actual_pickup_at": None,
        "actual_dropoff_at": None,
    }
    history.assignments.append(assignment)
    if row["cancelled_at"] is not None:
        return  # called off after the decision: the driver never leaves
    noise = np.exp(TRAVEL_NOISE * rng.standard_normal(2) - TRAVEL_NOISE**2 / 2)
    picked_up = max(float(depart[d] + drive[d] * noise[0]), promised)
    dropped_off = picked_up + board + max(trip * float(noise[1]), 0.5)
    fleet.free_at[d] = dropped_off + alight
    fleet.lat[d], fleet.lon[d] = row["dropoff_lat"], row["dropoff_lon"]
    row["status"] = "COMPLETED"
    assignment["status"] = "COMPLETED"
    assignment["actual_pickup_at"] = _seconds(scheduled + timedelta(minutes=picked_up - promised))
    assignment["actual_dropoff_at"] = _seconds(
        scheduled + timedelta(minutes=dropped_off - promised)
    )


def _seconds(instant: datetime) -> datetime:
    """Whole seconds, as a backend records them."""
    return (instant + timedelta(microseconds=500_000)).replace(microsecond=0)
