"""From raw values (text of a CSV, objects of a database) to typed columns.

Every function takes a whole column and also says which values it could not use, so that one bad
cell costs one row, never the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from services.rl.simulation.types import BoolArray, FloatArray

from .local_time import instants

_TRUE = {"true", "t", "1", "yes", "y", "oui", "ja", "vrai"}
_FALSE = {"false", "f", "0", "no", "n", "non", "nein", "faux"}
FIRST_YEAR, LAST_YEAR = 1990, 2100
"""Times outside these years are typing errors (or a database's "never")."""

_SWISS_FORMATS = ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S")


def is_missing(value: Any) -> bool:
    """Whether a raw value stands for nothing: None, blank text, or NULL written out."""
    if value is None:
        return True
    return isinstance(value, str) and value.strip().lower() in {"", "null", "none"}


def missing(values: Sequence[Any]) -> BoolArray:
    """Mask of the values that stand for nothing."""
    return np.fromiter((is_missing(v) for v in values), dtype=np.bool_, count=len(values))


def numbers(values: Sequence[Any]) -> tuple[FloatArray, BoolArray]:
    """Floats (NaN where missing or unusable) and the mask of what is no finite number.

    ``nan`` and ``inf`` written in the source are unusable, not missing.
    """
    result = np.full(len(values), np.nan)
    unusable = np.zeros(len(values), dtype=np.bool_)
    for i, value in enumerate(values):
        if type(value) is float:
            number = value
        elif is_missing(value):
            continue
        else:
            try:
                number = float(value)
            except (TypeError, ValueError):
                unusable[i] = True
                continue
        if math.isfinite(number):
            result[i] = number
        else:
            unusable[i] = True
    return result, unusable


def flags(values: Sequence[Any]) -> tuple[BoolArray, BoolArray]:
    """Booleans (False where missing) and the mask of what is neither yes nor no."""
    result = np.zeros(len(values), dtype=np.bool_)
    unusable = np.zeros(len(values), dtype=np.bool_)
    for i, value in enumerate(values):
        if isinstance(value, bool | int | float):
            result[i] = value == 1
            unusable[i] = value not in (0, 1)
        elif not is_missing(value):
            word = str(value).strip().lower()
            result[i] = word in _TRUE
            unusable[i] = word not in _TRUE and word not in _FALSE
    return result, unusable


@dataclass(frozen=True)
class Times:
    """A column of instants.

    Attributes:
        utc_s: ``(n,)`` seconds since 1970 UTC; NaN where missing or unusable.
        unusable: Mask of what is no time, or a wall time that the clocks skipped.
        zoned: Mask of what was written with a zone.
        naive: Mask of what was written without one.
    """

    utc_s: FloatArray
    unusable: BoolArray
    zoned: BoolArray
    naive: BoolArray


def times(values: Sequence[Any], naive_zone: ZoneInfo) -> Times:
    """Parse datetimes and ISO 8601 text; those without a zone are read on ``naive_zone``."""
    n = len(values)
    seconds = np.full(n, np.nan)
    unusable, zoned, naive = (np.zeros(n, dtype=np.bool_) for _ in range(3))
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001 - wall clock of the source
    for i, value in enumerate(values):
        if is_missing(value):
            continue
        parsed = value if isinstance(value, datetime) else _parsed(value)
        if parsed is None or not FIRST_YEAR <= parsed.year <= LAST_YEAR:
            unusable[i] = True
        elif parsed.tzinfo is None:
            naive[i] = True
            seconds[i] = (parsed - epoch).total_seconds()
        else:
            zoned[i] = True
            seconds[i] = parsed.timestamp()
    if naive.any():
        seconds[naive], exists = instants(seconds[naive], naive_zone)
        unusable[np.flatnonzero(naive)[~exists]] = True
        seconds[unusable] = np.nan
    return Times(seconds, unusable, zoned, naive)


def _parsed(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    text = value.strip()
    if len(text) <= 10 and "." not in text:
        return None  # a bare date is no pickup time
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for pattern in _SWISS_FORMATS:
        try:
            return datetime.strptime(text, pattern)  # noqa: DTZ007 - wall clock of the source
        except ValueError:
            continue
    return None


def clock_minutes(value: Any) -> float | None:
    """Minutes after midnight of a clock time (``time`` or "HH:MM[:SS]"); None if it is none."""
    if isinstance(value, str):
        try:
            value = time.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, time):
        return None
    return value.hour * 60.0 + value.minute + value.second / 60.0


def texts(values: Sequence[Any]) -> list[str]:
    """Stripped text of each value; empty where missing."""
    return ["" if is_missing(v) else str(v).strip() for v in values]
