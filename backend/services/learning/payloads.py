"""States of the log, read fast: what `DispatchState.from_json` reads, column by column in NumPy.

A company's log holds thousands of states, and the careful reader looks at each number in Python.
Here a column is taken whole where all its values are of the kind that they should be; anything
else is left to the careful reader, so that both accept and refuse the same (a test compares them).
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.rl.data.experience import Rows
from services.rl.data.experience_codec import packed_rows
from services.rl.errors import AtmrError, StateError
from services.rl.simulation.types import (
    STATE_BOOKING_DTYPE,
    STATE_DRIVER_DTYPE,
    STATE_SCHEMA,
    DispatchState,
)

DAMAGED: Final = "damaged_snapshot"
OLDER: Final = "other_schema"

_INTS: Final = frozenset({int})
_NUMBERS: Final = frozenset({int, float})
_FLAGS: Final = frozenset({bool})
_MISSING: Final = frozenset({type(None)})


class UnreadableError(Exception):
    """A payload that this code cannot read; ``reason`` is `DAMAGED` or `OLDER`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Seen:
    """What dispatch knew at one epoch.

    Attributes:
        rows: Drivers and open bookings.
        driver_ids: In row order.
        booking_ids: In row order.
        own_window_end_min: By booking id, of bookings that were shown with another window.
        own_priority: Likewise.
    """

    rows: Rows
    driver_ids: tuple[str, ...]
    booking_ids: tuple[str, ...]
    own_window_end_min: Mapping[str, float]
    own_priority: Mapping[str, int]

    @cached_property
    def driver_row(self) -> dict[int, int]:
        """Row by driver id."""
        return {int(name): row for row, name in enumerate(self.driver_ids)}

    @cached_property
    def booking_row(self) -> dict[int, int]:
        """Row by booking id."""
        return {int(name): row for row, name in enumerate(self.booking_ids)}

    def window_end_min(self, row: int) -> float:
        """End of a booking's own window."""
        own = self.own_window_end_min.get(self.booking_ids[row])
        return float(self.rows.bookings["window_end_min"][row]) if own is None else float(own)

    def priority(self, row: int) -> int:
        """A booking's own priority."""
        own = self.own_priority.get(self.booking_ids[row])
        return int(self.rows.bookings["priority"][row]) if own is None else int(own)


def read_payload(payload: bytes, schema: int) -> Seen:
    """Read one snapshot's state.

    Args:
        payload: zlib of `DispatchState.to_json`.
        schema: As the snapshot's row has it.

    Raises:
        UnreadableError: If it is damaged, or of another schema.
    """
    if schema != STATE_SCHEMA:
        raise UnreadableError(OLDER)
    try:
        text = zlib.decompress(payload).decode()
        raw = json.loads(text)
        seen = _fast(raw) or _careful(text)
        _ = seen.driver_row, seen.booking_row  # ids are numbers in a company's log
        _check(seen)
    except (zlib.error, ValueError, TypeError, OverflowError, RecursionError, AtmrError) as error:
        raise UnreadableError(DAMAGED) from error
    return seen


def _check(seen: Seen) -> None:
    """Refuse what no experience can hold.

    Raises:
        AtmrError: If there is such a value.
    """
    packed_rows(seen.rows)
    priorities = seen.rows.bookings["priority"]
    if len(priorities) and not 1 <= priorities.min() <= priorities.max() <= 5:
        raise StateError("dispatch state: a priority is not of 1 to 5")
    if not all(1 <= own <= 5 for own in seen.own_priority.values()):
        raise StateError("dispatch state: extra has a priority that is not of 1 to 5")


def _careful(text: str) -> Seen:
    state = DispatchState.from_json(text)
    extra = state.extra
    return Seen(
        Rows(state.now_min, state.drivers, state.bookings),
        state.driver_ids,
        state.booking_ids,
        _numbers(extra.get("own_window_end_min")),
        {name: int(value) for name, value in _numbers(extra.get("own_priority")).items()},
    )


def _fast(raw: Any) -> Seen | None:
    """The state, or None where something is unusual."""
    if not isinstance(raw, dict) or raw.get("schema") != STATE_SCHEMA:
        return None
    now = raw.get("now_min")
    names, orders = raw.get("driver_ids"), raw.get("booking_ids")
    extra = raw.get("extra", {})
    if not isinstance(names, list) or not isinstance(orders, list) or not isinstance(extra, dict):
        return None
    if not isinstance(now, float) or not math.isfinite(now):
        return None
    drivers = _table(raw.get("drivers"), STATE_DRIVER_DTYPE, len(names))
    bookings = _table(raw.get("bookings"), STATE_BOOKING_DTYPE, len(orders))
    if drivers is None or bookings is None:
        return None
    return Seen(
        Rows(now, drivers, bookings),
        tuple(map(str, names)),
        tuple(map(str, orders)),
        _numbers(extra.get("own_window_end_min")),
        {name: int(value) for name, value in _numbers(extra.get("own_priority")).items()},
    )


_FLOAT_FIELDS: Final = {
    dtype: tuple(n for n in dtype.names or () if dtype[n].kind == "f" and n != "fare")
    for dtype in (STATE_DRIVER_DTYPE, STATE_BOOKING_DTYPE)
}


def _table(columns: Any, dtype: np.dtype[np.void], rows: int) -> npt.NDArray[np.void] | None:
    """A table of columns; None where a value is not what it usually is."""
    if not isinstance(columns, dict):
        return None
    for name in dtype.names or ():
        values = columns.get(name)
        if not isinstance(values, list) or len(values) != rows:
            return None
        kinds = frozenset(map(type, values))
        kind = dtype[name].kind
        if name == "fare":
            if kinds - _MISSING:
                return None
        elif not kinds <= (_NUMBERS if kind == "f" else _INTS if kind == "i" else _FLAGS):
            return None
    table = np.zeros(rows, dtype=dtype)
    try:
        floats = np.array([columns[name] for name in _FLOAT_FIELDS[dtype]], dtype=np.float64)
        if not np.isfinite(floats).all():
            return None
        for name, column in zip(_FLOAT_FIELDS[dtype], floats, strict=True):
            table[name] = column
        for name in dtype.names or ():
            if dtype[name].kind != "f":
                table[name] = columns[name]
            elif name == "fare":
                table[name] = np.nan
    except OverflowError:
        return None
    return table


def _numbers(found: Any) -> Mapping[str, float]:
    """What a mapping says in numbers; states that other hosts logged may lack it."""
    if not found:
        return {}
    if not isinstance(found, dict) or not all(
        isinstance(value, int | float) for value in found.values()
    ):
        raise StateError("dispatch state: extra is not as the backend writes it")
    return found
