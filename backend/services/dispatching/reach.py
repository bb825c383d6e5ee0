"""Who can be at which patient and when; what is made of patients nobody reaches in time."""

import numpy as np

from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelModel, TravelTables
from services.rl.simulation.types import FloatArray

AGING_MIN = 30.0
"""An overdue booking is shown one priority higher for every so many minutes of waiting."""


def km_between(tables: TravelTables, a: tuple[float, float], b: tuple[float, float]) -> float:
    """Road kilometres between two points (degrees)."""
    return float(TravelModel(tables).km_matrix([a[0]], [a[1]], [0], [b[0]], [b[1]], [0])[0, 0])


def earliest_pickups(
    bookings: np.ndarray, drivers: np.ndarray, now_min: float, tables: TravelTables
) -> FloatArray:
    """When each driver could be at each booking at the earliest, ``(N, B)``, by travel alone."""
    model = TravelModel(tables)
    zeros_n, zeros_b = np.zeros(len(drivers), np.int64), np.zeros(len(bookings), np.int64)
    km = model.km_matrix(
        drivers["lat"], drivers["lon"], zeros_n,
        bookings["pickup_lat"], bookings["pickup_lon"], zeros_b,
    )  # fmt: skip
    leave = np.maximum(now_min, drivers["free_at_min"])
    arrive = leave[:, None] + model.minutes_matrix(leave, km, zeros_n, zeros_b)
    result: FloatArray = np.maximum(arrive, bookings["promised_min"][None, :])
    return result


def may_serve(bookings: np.ndarray, drivers: np.ndarray, scenario: Scenario) -> np.ndarray:
    """``(N, B)`` whether vehicle and driver type fit, whatever the time."""
    chair = ~bookings["wheelchair"][None, :] | drivers["wheelchair"][:, None]
    urgent = bookings["priority"] >= scenario.rules.emergency_min_priority
    kind = ~drivers["emergency"][:, None] | urgent[None, :]
    fits: np.ndarray = chair & kind & ~drivers["down"][:, None]
    return fits


def stretch(
    rows: np.ndarray,
    drivers: np.ndarray,
    now_min: float,
    scenario: Scenario,
    tables: TravelTables,
) -> list[int]:
    """Give overdue bookings a window that can still be met; which ones.

    The simulator writes a booking off when its grace has run out. A patient is still waiting.
    """
    if not len(rows):
        return []
    at = np.where(
        may_serve(rows, drivers, scenario), earliest_pickups(rows, drivers, now_min, tables), np.inf
    ).min(axis=0)
    last = rows["window_end_min"] + scenario.rules.grace_min
    overdue = np.flatnonzero((at > last) | (now_min > last))
    for b in overdue:
        if np.isfinite(at[b]):
            rows["window_end_min"][b] = max(rows["window_end_min"][b], at[b])
    return [int(b) for b in overdue]


def age(
    rows: np.ndarray, overdue: list[int], drivers: np.ndarray, now_min: float, scenario: Scenario
) -> None:
    """Raise the priority of overdue bookings with the time they have waited.

    A policy that learned where nobody waits beyond the grace puts a less urgent patient off again
    and again. Aging bounds that; sending whoever is first to the overdue before all others was
    tried and makes everybody wait: measured in `session/RL/SEMAINE_19_GUIDE.md`. Vehicles that are
    kept for urgent bookings stay so.
    """
    urgent = scenario.rules.emergency_min_priority
    for b in overdue:
        own = int(rows["priority"][b])
        most = urgent - 1 if own < urgent and drivers["emergency"].any() else 5
        waited = now_min - float(rows["promised_min"][b])
        rows["priority"][b] = max(own, min(most, own + int(max(0.0, waited) / AGING_MIN)))
