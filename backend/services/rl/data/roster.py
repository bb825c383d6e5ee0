"""Drivers of a history: rows of the driver table, or what the assignments tell about them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.simulation.types import DRIVER_DTYPE, NEVER

from .coercion import clock_minutes, flags, is_missing, numbers
from .history import RawHistory
from .validation import FAR_KM, History, Reason, great_circle, shown_id

TRIPS_PER_DRIVER_DAY = 8.5
"""What a driver serves in a day of the `geneva` scenario; sizes a fleet nobody told us about."""

ASSUMED = "assumed-"
"""Prefix of the keys of drivers that were assumed, not read."""


@dataclass(frozen=True)
class KnownDriver:
    """One driver, in minutes after midnight and degrees.

    Attributes:
        key: The source's id.
        active: Whether the company still employs the driver.
        shift: Start and end on the local clock; None: the whole operating day.
        home: Where the shift starts; None: the middle of the demand.
    """

    key: str
    active: bool = True
    emergency: bool = False
    wheelchair: bool = False
    shift: tuple[float, float] | None = None
    home: tuple[float, float] | None = None


def known_drivers(raw: RawHistory, history: History, company_id: str | None) -> list[KnownDriver]:
    """Valid rows of the driver table, then drivers known from assignments alone.

    Rejected rows are added to the history's rejections. A driver whom only assignments mention
    gets the whole operating day, starts in the middle of the demand, and can carry a wheelchair
    if that ever happened.
    """
    middle = middle_of(history)
    drivers: dict[str, KnownDriver] = {}
    for i, row in enumerate(raw.drivers):
        of = row.get("company_id")
        if company_id is not None and not is_missing(of) and str(of) != company_id:
            continue  # another company's driver is no faulty row
        driver, fault = _driver(row, middle, drivers)
        if driver is not None:
            drivers[driver.key] = driver
        elif fault is not None:
            history.rejections.drivers.append((f"driver row {i + 1}", *fault))
    if not drivers and not history.driver_keys:
        return assumed_fleet(history)
    carried = set(history.bookings["driver"][history.bookings["wheelchair"]].tolist())
    for index, key in enumerate(history.driver_keys):
        if key not in drivers:
            drivers[key] = KnownDriver(key=key, active=False, wheelchair=index in carried)
    return list(drivers.values())


def assumed_fleet(history: History) -> list[KnownDriver]:
    """A fleet for a history that says nothing about drivers, sized by its mean demand."""
    days = len(np.unique(history.bookings["scheduled_s"] // 86_400))
    size = max(1, math.ceil(len(history.bookings) / days / TRIPS_PER_DRIVER_DAY))
    return [KnownDriver(key=f"{ASSUMED}{i + 1}", wheelchair=True) for i in range(size)]


def middle_of(history: History) -> tuple[float, float]:
    """Median pickup: where a driver of unknown home starts."""
    bookings = history.bookings
    return float(np.median(bookings["pickup_lat"])), float(np.median(bookings["pickup_lon"]))


def _driver(
    row: Mapping[str, Any], middle: tuple[float, float], seen: Mapping[str, KnownDriver]
) -> tuple[KnownDriver | None, tuple[Reason, str] | None]:
    if is_missing(row.get("id")):
        return None, (Reason.MISSING, "id is missing")
    key = str(row["id"]).strip()
    if key in seen:
        return None, (Reason.DUPLICATE, f"the driver id {shown_id(key)} was used before")
    (active, wheelchair), unusable = flags(
        [
            True if is_missing(row.get("is_active")) else row["is_active"],
            row.get("wheelchair_vehicle"),
        ]
    )
    if unusable.any():
        return None, (Reason.BAD_FLAG, "is_active or wheelchair_vehicle is neither yes nor no")
    shift = None
    if not (is_missing(row.get("shift_start")) and is_missing(row.get("shift_end"))):
        start, end = clock_minutes(row.get("shift_start")), clock_minutes(row.get("shift_end"))
        if start is None or end is None:
            return None, (Reason.BAD_SHIFT, "shift_start or shift_end is no clock time")
        shift = (start, end if end > start else end + 1440)
    (lat, lon), unusable = numbers([row.get("home_lat"), row.get("home_lon")])
    if unusable.any():
        return None, (Reason.NOT_A_NUMBER, "home_lat or home_lon is no finite number")
    home = None
    if not (np.isnan(lat) or np.isnan(lon)):
        if not float(great_circle(lat, lon, *middle)) <= FAR_KM:
            return None, (Reason.FAR, f"home is more than {FAR_KM:g} km from the bookings")
        home = (float(lat), float(lon))
    kind = row.get("driver_type")
    emergency = not is_missing(kind) and str(kind).strip().upper().endswith("EMERGENCY")
    return KnownDriver(key, bool(active), emergency, bool(wheelchair), shift, home), None


def day_drivers(
    drivers: list[KnownDriver],
    on_duty: list[int],
    middle: tuple[float, float],
    day_start_min: float,
    horizon_min: float,
) -> tuple[npt.NDArray[np.void], list[int]]:
    """Rows of `DRIVER_DTYPE` of those on duty, and which of ``drivers`` they are.

    Shifts are cut to the operating day; a driver whose shift lies outside it is left out.
    """
    rows, chosen = [], []
    for index in on_duty:
        driver = drivers[index]
        start, end = driver.shift or (day_start_min, day_start_min + horizon_min)
        start, end = start - day_start_min, end - day_start_min
        if end <= 0:  # a shift after midnight belongs to the end of this operating day
            start, end = start + 1440, end + 1440
        start, end = max(start, 0.0), min(end, horizon_min)
        if end <= start:
            continue
        lat, lon = driver.home or middle
        rows.append((lat, lon, -1, start, end, driver.wheelchair, driver.emergency, NEVER, NEVER))
        chosen.append(index)
    return np.array(rows, dtype=DRIVER_DTYPE), chosen
