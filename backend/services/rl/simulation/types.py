"""Plain data that the rooms exchange: a day to play, and the state a policy decides on.

Times are minutes after the start of the operating day (negative: before it), coordinates are
WGS-84 degrees, distances kilometres. Nothing here computes; it can be saved, sent and compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import StateError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NEVER = np.inf
"""A time that does not come (no cancellation, no breakdown)."""

MOST_MIN = 1.0e7
"""Times that are given must lie within twenty years of the day: far beyond, floats lose minutes."""

BOOKING_DTYPE = np.dtype(
    [
        ("created_min", "f8"),  # when dispatch learns of it; <= 0: known when the day starts
        ("promised_min", "f8"),  # start of the pickup window; the request's time if immediate
        ("window_end_min", "f8"),  # a pickup after this is late
        ("priority", "i8"),  # 1 (can wait) .. 5 (urgent)
        ("wheelchair", "?"),
        ("immediate", "?"),  # requested "as soon as possible" rather than pre-booked
        ("is_return", "?"),  # from the care facility back home
        ("pickup_lat", "f8"),
        ("pickup_lon", "f8"),
        ("dropoff_lat", "f8"),
        ("dropoff_lon", "f8"),
        ("pickup_zone", "i8"),  # -1 where travel is by coordinates
        ("dropoff_zone", "i8"),
        ("pickup_service_min", "f8"),
        ("dropoff_service_min", "f8"),
        ("fare", "f8"),  # worth of serving it under profit rules; NaN: weight of its priority
        # Disturbances, drawn with the day so that every policy meets the same ones.
        ("deadhead_noise", "f8"),  # factor on the travel time to the pickup (1: none)
        ("trip_noise", "f8"),  # factor on the travel time with the patient aboard
        ("no_show", "?"),
        ("cancelled_min", "f8"),  # the patient calls it off at this time; inf: never
    ]
)
"""One booking of a day. Rows are sorted by ``created_min``."""

DRIVER_DTYPE = np.dtype(
    [
        ("lat", "f8"),  # where the shift starts
        ("lon", "f8"),
        ("zone", "i8"),
        ("shift_start_min", "f8"),
        ("shift_end_min", "f8"),
        ("wheelchair", "?"),  # the vehicle can carry a wheelchair
        ("emergency", "?"),  # driver type EMERGENCY (False: REGULAR)
        ("breakdown_min", "f8"),  # the vehicle fails at this time; inf: never
        ("repaired_min", "f8"),
    ]
)
"""One driver (with a vehicle) of a day."""


@dataclass(frozen=True)
class Day:
    """Everything that will happen on one day except the dispatcher's decisions.

    Attributes:
        label: The day's seed (``"seed:2000003"``) or date (``"2026-03-02"``).
        bookings: ``(B,)`` of `BOOKING_DTYPE`, sorted by ``created_min``.
        drivers: ``(N,)`` of `DRIVER_DTYPE`.
    """

    label: str
    bookings: npt.NDArray[np.void]
    drivers: npt.NDArray[np.void]


class BookingStatus(IntEnum):
    """Life of a booking inside the engine."""

    UNKNOWN = 0  # not created yet
    OPEN = 1
    ASSIGNED = 2
    ONBOARD = 3
    COMPLETED = 4
    UNSERVED = 5  # grace ran out, or the day ended: the operation's failure
    NO_SHOW = 6  # the patient was not there
    CALLED_OFF = 7  # the patient cancelled


_DRIVER_FIELDS: dict[str, str] = {
    "lat": "f8",  # where committed work ends (the present place if there is none)
    "lon": "f8",
    "zone": "i8",
    "free_at_min": "f8",  # when committed work ends, by plan; never before the shift starts
    "committed": "i8",  # jobs in progress or queued
    "shift_start_min": "f8",
    "shift_end_min": "f8",
    "wheelchair": "?",
    "emergency": "?",
    "down": "?",  # out of service right now
    "served": "i8",  # bookings completed today
    "busy_min": "f8",  # minutes driving or serving today, committed work included
}
_BOOKING_FIELDS: tuple[str, ...] = (
    "created_min",
    "promised_min",
    "window_end_min",
    "priority",
    "wheelchair",
    "immediate",
    "is_return",
    "pickup_lat",
    "pickup_lon",
    "dropoff_lat",
    "dropoff_lon",
    "pickup_zone",
    "dropoff_zone",
    "pickup_service_min",
    "dropoff_service_min",
    "fare",
)

STATE_DRIVER_DTYPE = np.dtype(list(_DRIVER_FIELDS.items()))
"""One driver as a policy sees it: what is committed, never what only the simulator knows."""

STATE_BOOKING_DTYPE = np.dtype([(name, BOOKING_DTYPE[name]) for name in _BOOKING_FIELDS])
"""One open booking as a policy sees it."""

STATE_SCHEMA = 1


@dataclass(frozen=True)
class DispatchState:
    """What is known at one decision epoch: the only input of every policy.

    The engine and the backend build the same type; encoding it gives the environment's
    observation bit for bit.

    Attributes:
        now_min: Minutes after the start of the day.
        driver_ids: N identifiers, in row order.
        drivers: ``(N,)`` of `STATE_DRIVER_DTYPE`.
        booking_ids: B identifiers, in row order.
        bookings: ``(B,)`` of `STATE_BOOKING_DTYPE`: *all* known open bookings.
        scenario: Name of the scenario that gives travel times, rules and reward weights.
        scenario_hash: Its hash; an encoder refuses a state of another scenario.
    """

    now_min: float
    driver_ids: tuple[str, ...]
    drivers: npt.NDArray[np.void]
    booking_ids: tuple[str, ...]
    bookings: npt.NDArray[np.void]
    scenario: str = ""
    scenario_hash: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Serialise without loss: a float survives the round trip bit for bit."""
        return json.dumps(
            {
                "schema": STATE_SCHEMA,
                "now_min": float(self.now_min),
                "driver_ids": list(self.driver_ids),
                "drivers": _columns(self.drivers),
                "booking_ids": list(self.booking_ids),
                "bookings": _columns(self.bookings),
                "scenario": self.scenario,
                "scenario_hash": self.scenario_hash,
                "extra": dict(self.extra),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "DispatchState":
        """Parse what `to_json` wrote.

        Raises:
            StateError: Naming the field that is missing, of the wrong length, or not a number.
        """
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise StateError(f"dispatch state is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise StateError("dispatch state must be a JSON object")
        if raw.get("schema") != STATE_SCHEMA:
            raise StateError(
                f"dispatch state has schema {raw.get('schema')!r}; this code reads {STATE_SCHEMA}"
            )
        try:
            now_min = float(raw["now_min"])
            for name in ("driver_ids", "booking_ids"):
                if not isinstance(raw[name], list):
                    raise StateError(f"dispatch state: {name} must be a list")
            driver_ids = tuple(str(i) for i in raw["driver_ids"])
            booking_ids = tuple(str(i) for i in raw["booking_ids"])
            drivers = _table(raw["drivers"], STATE_DRIVER_DTYPE, len(driver_ids), "drivers")
            bookings = _table(raw["bookings"], STATE_BOOKING_DTYPE, len(booking_ids), "bookings")
        except KeyError as error:
            raise StateError(f"dispatch state lacks the field {error.args[0]!r}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise StateError(f"dispatch state cannot be read: {error}") from error
        if not isinstance(raw.get("extra", {}), dict):
            raise StateError("dispatch state: extra must be an object")
        if not np.isfinite(now_min):
            raise StateError("dispatch state: now_min must be a finite number")
        return cls(
            now_min=now_min,
            driver_ids=driver_ids,
            drivers=drivers,
            booking_ids=booking_ids,
            bookings=bookings,
            scenario=str(raw.get("scenario", "")),
            scenario_hash=str(raw.get("scenario_hash", "")),
            extra=raw.get("extra", {}),
        )


_MAY_BE_NAN = frozenset({"fare"})


def _columns(table: npt.NDArray[np.void]) -> dict[str, list[Any]]:
    assert table.dtype.names is not None
    return {
        name: [None if isinstance(v, float) and v != v else v for v in table[name].tolist()]
        for name in table.dtype.names
    }


def _table(columns: Any, dtype: np.dtype[np.void], rows: int, where: str) -> npt.NDArray[np.void]:
    table = np.zeros(rows, dtype=dtype)
    assert dtype.names is not None
    if not isinstance(columns, dict):
        raise StateError(f"dispatch state: {where} must be an object of columns")
    for name in dtype.names:
        if name not in columns:
            raise StateError(f"dispatch state: {where}.{name} is missing")
        values = columns[name]
        if not isinstance(values, list) or len(values) != rows:
            raise StateError(f"dispatch state: {where}.{name} must be a list of {rows} values")
        kind = dtype[name].kind
        for row, value in enumerate(values):
            if value is None and name in _MAY_BE_NAN:
                value = float("nan")
            elif isinstance(value, bool) != (kind == "b") or not isinstance(
                value, (int, float, bool)
            ):
                raise StateError(f"dispatch state: {where}.{name}[{row}] is {value!r}")
            elif kind == "f" and not np.isfinite(value):
                raise StateError(f"dispatch state: {where}.{name}[{row}] is not finite")
            elif kind == "i" and not (isinstance(value, int) and abs(value) < 2**63):
                raise StateError(
                    f"dispatch state: {where}.{name}[{row}] is {value!r}, not an integer"
                )
            table[name][row] = value
    return table
