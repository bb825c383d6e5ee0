"""Where days come from: sampled by seed, or read from real history."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from services.rl.errors import DataError

from .scenarios import Split
from .types import MOST_MIN, Day


class DaySource(Protocol):
    """Real days of a scenario, split by calendar."""

    def labels(self, split: Split) -> Sequence[str]:
        """Dates of a split, in order.

        Raises:
            DataError: If the split is kept elsewhere or has no day.
        """
        ...

    def day(self, label: str) -> Day:
        """The bookings and drivers of one date."""
        ...


_BOOKING_RANGE: dict[str, tuple[float, float]] = {
    "created_min": (-MOST_MIN, MOST_MIN),
    "promised_min": (-MOST_MIN, MOST_MIN),
    "window_end_min": (-MOST_MIN, MOST_MIN),
    "priority": (1, 5),
    "pickup_lat": (-90, 90),
    "pickup_lon": (-180, 180),
    "dropoff_lat": (-90, 90),
    "dropoff_lon": (-180, 180),
    "pickup_service_min": (0, MOST_MIN),
    "dropoff_service_min": (0, MOST_MIN),
    "deadhead_noise": (0, 1000),
    "trip_noise": (0, 1000),
    "cancelled_min": (-MOST_MIN, np.inf),
}
_DRIVER_RANGE: dict[str, tuple[float, float]] = {
    "lat": (-90, 90),
    "lon": (-180, 180),
    "shift_start_min": (-MOST_MIN, MOST_MIN),
    "shift_end_min": (-MOST_MIN, MOST_MIN),
    "breakdown_min": (-MOST_MIN, np.inf),
    "repaired_min": (-MOST_MIN, np.inf),
}


def check_day(day: Day, zones: int = 0) -> None:
    """Check what compiled code relies on: there, a zone out of range would read other memory.

    Args:
        day: The day.
        zones: Size of the travel matrix, 0 where travel is by coordinates.

    Raises:
        DataError: Naming day, row and field.
    """
    tables = (("booking", day.bookings, _BOOKING_RANGE), ("driver", day.drivers, _DRIVER_RANGE))
    for kind, table, ranges in tables:
        limits = dict(ranges)
        for name in table.dtype.names or ():
            if name.endswith("zone") and zones:
                limits[name] = (0, zones - 1)
        for name, (low, high) in limits.items():
            wrong = ~((table[name] >= low) & (table[name] <= high))  # NaN is wrong too
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise DataError(
                    f"day {day.label}: {kind} {row}: {name} is {table[name][row]}, "
                    f"expected {low:g}..{high:g}"
                )
    if np.isinf(day.bookings["fare"]).any():
        raise DataError(f"day {day.label}: a fare is infinite")
    early = day.bookings["window_end_min"] < day.bookings["promised_min"]
    if early.any():
        raise DataError(
            f"day {day.label}: booking {int(np.flatnonzero(early)[0])}: its window ends before "
            "the promised time"
        )
    if np.any(np.diff(day.bookings["created_min"]) < 0):
        raise DataError(f"day {day.label}: bookings are not in order of created_min")
