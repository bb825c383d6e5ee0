"""From validated bookings to operating days: local minutes, duty rosters, calendar splits."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Rules
from services.rl.simulation.types import (
    BOOKING_DTYPE,
    DRIVER_DTYPE,
    BoolArray,
    FloatArray,
    IntArray,
)

from .dataset import OUTCOME_DTYPE, HistoryDays, split_by_calendar
from .local_time import iso_dates, wall_seconds
from .roster import ASSUMED, KnownDriver, day_drivers, middle_of
from .validation import History, NoHistoryError, Reason, no_valid_booking

DAY_MIN = 1440.0
IMMEDIATE_LEAD_MIN = 10.0
"""A booking made this shortly before its time is "as soon as possible", whatever its flag."""

DEFAULT_SERVICE_MIN = 5.0
_LAST_TRIP_MIN = 30.0
"""An operating day inferred from the data leaves this long for the last trips."""


@dataclass(frozen=True)
class DayRules:
    """How bookings become operating days.

    Attributes:
        timezone: Whose wall clock counts.
        days: Calendar days to keep, up to the last one.
        until: Later bookings are not history; the last date at or before it that has a valid
            booking ends the period. None: the last of all.
        day_start: "HH:MM"; None: inferred from the promised times.
        horizon_min: Length of the operating day; None: inferred.
        window_min: Width of the pickup window.
    """

    timezone: str = "Europe/Zurich"
    days: int | None = None
    until: date | None = None
    day_start: str | None = None
    horizon_min: float | None = None
    window_min: float = Rules().window_min


def build_days(
    history: History,
    drivers: list[KnownDriver],
    rules: DayRules,
    *,
    name: str,
    source: str,
) -> HistoryDays:
    """Group bookings by operating day; those outside the period or the day are rejected.

    Promised times are minutes of the local wall clock, so 09:00 is 09:00 on the days when the
    clocks change; created, cancelled and actual times keep their true distance to it.

    Raises:
        DataError: If no booking is left.
        UsageError: If the operating day is impossible.
    """
    bookings = history.bookings
    wall_min = wall_seconds(bookings["scheduled_s"], ZoneInfo(rules.timezone)) / 60.0
    in_period = _period(history, np.floor(wall_min / DAY_MIN), rules)
    start, horizon = operating_day(wall_min[in_period] % DAY_MIN, rules)
    day, promised = np.divmod(wall_min - start, DAY_MIN)
    inside = promised < horizon
    until = f"{_clock(start)} to {_clock(start + horizon)}"
    history.rejections.reject(
        bookings["row"][in_period & ~inside],
        Reason.OUTSIDE_DAY,
        lambda _row: f"promised outside the operating day {until}",
    )
    keep = in_period & inside
    if not keep.any():
        raise NoHistoryError(no_valid_booking(source, history.rejections))
    table, outcome = _booking_rows(bookings[keep], promised[keep], rules.window_min)
    order = np.lexsort((table["created_min"], day[keep]))
    table, outcome, day = table[order], outcome[order], day[keep][order].astype(np.int64)
    dates, first = np.unique(day, return_index=True)
    roster, number, driver_offset = _rosters(
        history, drivers, day, outcome["driver"], dates, start, horizon
    )
    outcome["driver"] = _numbers(history, drivers)[outcome["driver"]]
    return HistoryDays(
        name=name,
        timezone=rules.timezone,
        day_start=_clock(start),
        horizon_min=horizon,
        dates=tuple(iso_dates(dates)),
        split=split_by_calendar(len(dates)),
        bookings=table,
        outcomes=outcome,
        booking_offset=np.append(first, len(table)).astype(np.int64),
        drivers=roster,
        driver_number=number,
        driver_offset=driver_offset,
        facts=_facts(history, drivers, source),
    )


def _facts(history: History, drivers: list[KnownDriver], source: str) -> dict[str, Any]:
    rejections = history.rejections
    return {
        "source": source,
        "counts": {
            "read": rejections.total,
            "kept": int(rejections.kept().sum()),
            "rejected": len(rejections.entries),
            "rejected_by_reason": rejections.counts(),
            "defaulted": history.defaulted,
            "drivers": len(drivers),
            "drivers_assumed": any(driver.key.startswith(ASSUMED) for driver in drivers),
            "driver_rows_rejected": len(rejections.drivers),
        },
    }


def _period(history: History, wall_day: FloatArray, rules: DayRules) -> BoolArray:
    """Mask of the bookings within the last ``days`` days; the others are rejected."""
    last = float(wall_day.max())
    if rules.until is not None:
        # A single date mistyped into the future must not push the real history out.
        until = float((rules.until - date(1970, 1, 1)).days)
        last = float(wall_day[wall_day <= until].max(initial=-np.inf))
        last = last if np.isfinite(last) else until
    first = -np.inf if rules.days is None else last - rules.days + 1
    inside: BoolArray = (wall_day >= first) & (wall_day <= last)
    earliest = "" if rules.days is None else f"{_date(first)} to "
    history.rejections.reject(
        history.bookings["row"][~inside],
        Reason.OUTSIDE_PERIOD,
        lambda _row: f"scheduled outside the period ({earliest}{_date(last)})",
    )
    return inside


def _date(day: float) -> date:
    return date(1970, 1, 1) + timedelta(days=int(day))


def operating_day(minute_of_day: FloatArray, rules: DayRules) -> tuple[float, float]:
    """Start (minutes after midnight) and length of the operating day.

    What is not given is inferred: whole hours that hold 99 % of the promised times and leave
    half an hour for the last trips.
    """
    if len(minute_of_day) == 0:
        low, high = 480.0, 960.0
    else:
        low, high = (float(v) for v in np.quantile(minute_of_day, [0.005, 0.995]))
    start = np.floor(low / 60) * 60 if rules.day_start is None else _minutes(rules.day_start)
    if rules.horizon_min is None:
        end = np.ceil((high + _LAST_TRIP_MIN) / 60) * 60
        horizon = float(min(max(end - start, 60.0), DAY_MIN))
    else:
        horizon = rules.horizon_min
    if not 0 < horizon <= DAY_MIN:
        raise UsageError(
            f"the operating day must last more than 0 and up to 24 h: {horizon / 60:g}"
        )
    return float(start), horizon


def _minutes(clock: str) -> float:
    """Minutes after midnight of "HH:MM"."""
    hours, _, minutes = clock.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
        raise UsageError(f"the start of the operating day, {clock!r}, is not HH:MM")
    return 60.0 * int(hours) + int(minutes)


def _clock(minutes: float) -> str:
    whole = round(minutes) % 1440
    return f"{whole // 60:02d}:{whole % 60:02d}"


def _booking_rows(
    bookings: npt.NDArray[np.void], promised: FloatArray, window_min: float
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Bookings and their outcomes on the clock of their operating day."""

    def relative(instant_s: FloatArray) -> FloatArray:
        minutes: FloatArray = promised + (instant_s - bookings["scheduled_s"]) / 60.0
        return minutes

    table = np.zeros(len(bookings), dtype=BOOKING_DTYPE)
    created = relative(bookings["created_s"])
    # Late paperwork: a booking entered after its time asks for a car when it is entered.
    asked = np.maximum(promised, created)
    table["created_min"] = created
    table["promised_min"] = asked
    table["window_end_min"] = asked + window_min
    table["immediate"] = bookings["urgent"] | (asked - created <= IMMEDIATE_LEAD_MIN)
    table["cancelled_min"] = relative(bookings["cancelled_s"])
    table["pickup_zone"] = table["dropoff_zone"] = -1
    table["fare"] = np.nan
    table["deadhead_noise"] = table["trip_noise"] = 1.0
    for name in (
        *("priority", "wheelchair", "is_return"),
        *("pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon"),
    ):
        table[name] = bookings[name]
    for name in ("pickup_service_min", "dropoff_service_min"):
        value = bookings[name]
        known = value[~np.isnan(value)]
        usual = float(np.median(known)) if len(known) else DEFAULT_SERVICE_MIN
        table[name] = np.where(np.isnan(value), usual, value)
    outcome = np.zeros(len(bookings), dtype=OUTCOME_DTYPE)
    outcome["pickup_min"] = relative(bookings["pickup_s"])
    outcome["dropoff_min"] = relative(bookings["dropoff_s"])
    outcome["driver"] = bookings["driver"]
    return table, outcome


def _numbers(history: History, drivers: list[KnownDriver]) -> IntArray:
    """Index of each driver key within ``drivers``, then -1 for "nobody" (index -1)."""
    position = {driver.key: i for i, driver in enumerate(drivers)}
    return np.array([*(position[key] for key in history.driver_keys), -1], dtype=np.int64)


def _rosters(
    history: History,
    drivers: list[KnownDriver],
    day: IntArray,
    driver: IntArray,
    dates: IntArray,
    start: float,
    horizon: float,
) -> tuple[npt.NDArray[np.void], IntArray, IntArray]:
    """Who was on duty on each date.

    Those with an assignment on that date; where the history names nobody, every active driver.
    (A driver on duty who was given nothing all day leaves no trace in a history.)
    """
    number = _numbers(history, drivers)[driver]
    middle = middle_of(history)
    active = [i for i, known in enumerate(drivers) if known.active]
    rows, numbers, offset = [], [], [0]
    edges = np.searchsorted(day, [*dates, dates[-1] + 1])
    for d in range(len(dates)):
        worked = np.unique(number[edges[d] : edges[d + 1]])
        on_duty = [int(i) for i in worked if i >= 0] or active
        of_day, chosen = day_drivers(drivers, on_duty, middle, start, horizon)
        rows.append(of_day)
        numbers.extend(chosen)
        offset.append(len(numbers))
    roster = np.concatenate(rows) if rows else np.zeros(0, dtype=DRIVER_DTYPE)
    return roster, np.array(numbers, dtype=np.int64), np.array(offset, dtype=np.int64)
