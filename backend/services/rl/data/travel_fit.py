"""Calibrate the travel model on what drives really took."""

from dataclasses import dataclass

import numpy as np

from services.rl.simulation.scenarios import HaversineTravel, load_scenario
from services.rl.simulation.types import FloatArray

from .dataset import HistoryDays
from .goodness import trip_km

SHORTEST_KM = 1.0
"""Shorter trips say more about parking and lifts than about speed."""

_PRIOR_TRIPS = 20.0
_ENOUGH_TRIPS = 30
_PLAUSIBLE_KMH = (3.0, 130.0)


@dataclass(frozen=True)
class TravelFit:
    """A travel model and what it rests on.

    Attributes:
        travel: Circuity (kept) and hourly speeds (fitted).
        trips: Drives used; 0: the default profile, unchanged.
        trips_by_hour: ``(24,)``.
        minutes_error_before: Median absolute error of a drive's minutes under the default.
        minutes_error_after: The same under the fit (on the same, training, drives).
    """

    travel: HaversineTravel
    trips: int
    trips_by_hour: tuple[int, ...]
    minutes_error_before: float
    minutes_error_after: float


def fit_travel(history: HistoryDays, dates: list[str]) -> TravelFit:
    """Median speed by hour of the clock, shrunk towards the default profile's shape.

    A drive lasts from the actual pickup plus its service time to the actual dropoff. Only the
    product of circuity and pace can be told from such data: circuity is kept, speed fitted. The
    default profile of ``geneva`` is scaled to the history's median pace, and counts for 20 drives
    in each hour.

    Args:
        history: The data set.
        dates: Training dates.
    """
    default = load_scenario("geneva").travel
    assert isinstance(default, HaversineTravel)
    km, minutes, hour = _drives(history, dates, default.circuity)
    profile = np.asarray(default.speed_kmh)
    if len(km) < _ENOUGH_TRIPS:
        return TravelFit(default, 0, (0,) * 24, float("nan"), float("nan"))
    speed = km / (minutes / 60.0)
    pace = float(np.median(speed / profile[hour]))
    prior = profile * pace
    fitted = prior.copy()
    count = np.bincount(hour, minlength=24)
    for h in np.flatnonzero(count):
        median = float(np.median(speed[hour == h]))
        fitted[h] = (count[h] * median + _PRIOR_TRIPS * prior[h]) / (count[h] + _PRIOR_TRIPS)
    fitted = np.clip(np.round(fitted, 2), 1.0, 200.0)

    def error(of: FloatArray) -> float:
        return float(np.median(np.abs(km / of[hour] * 60.0 - minutes)))

    travel = HaversineTravel(circuity=default.circuity, speed_kmh=tuple(fitted.tolist()))
    by_hour = tuple(int(n) for n in count)
    return TravelFit(travel, len(km), by_hour, error(profile), error(fitted))


def speed_ratio(
    history: HistoryDays, dates: list[str], travel: HaversineTravel
) -> tuple[float, int] | None:
    """Median of real speeds over those of a travel model, and the drives behind it.

    Returns:
        None where fewer than 30 drives tell.
    """
    km, minutes, hour = _drives(history, dates, travel.circuity)
    if len(km) < _ENOUGH_TRIPS:
        return None
    speed = km / (minutes / 60.0)
    return float(np.median(speed / np.asarray(travel.speed_kmh)[hour])), len(km)


def _drives(
    history: HistoryDays, dates: list[str], circuity: float
) -> tuple[FloatArray, FloatArray, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Road kilometres, minutes and hour of the clock of each usable drive."""
    bookings = np.concatenate([history.day(date).bookings for date in dates])
    outcome = np.concatenate([history.outcome(date) for date in dates])
    left = outcome["pickup_min"] + bookings["pickup_service_min"]
    minutes = outcome["dropoff_min"] - left
    km = circuity * trip_km(bookings)
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = km / (minutes / 60.0)
        slow, fast = _PLAUSIBLE_KMH
        usable = (minutes > 0) & (km >= SHORTEST_KM) & (speed >= slow) & (speed <= fast)
    hours, _, rest = history.day_start.partition(":")
    clock = 60 * int(hours) + int(rest) + left[usable] + minutes[usable] / 2
    return km[usable], minutes[usable], (clock // 60).astype(np.int64) % 24
