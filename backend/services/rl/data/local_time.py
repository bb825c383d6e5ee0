"""Between instants (UTC) and wall clocks, for whole columns at once.

Time zones change their offset on quarter hours, so one look-up per distinct quarter hour of the
data is enough: a few thousand for a year of history, however many bookings it has.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from services.rl.simulation.types import BoolArray, FloatArray

_QUARTER_S = 900
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def wall_seconds(instant_s: FloatArray, zone: ZoneInfo) -> FloatArray:
    """Seconds of the local wall clock since 1970-01-01 00:00 local, for finite UTC seconds."""
    quarter, inverse = np.unique((instant_s // _QUARTER_S).astype(np.int64), return_inverse=True)
    offset = np.array([_offset_s(int(q) * _QUARTER_S, zone) for q in quarter], dtype=np.float64)
    shifted: FloatArray = instant_s + (offset[inverse] if len(quarter) else 0.0)
    return shifted


def instants(wall_s: FloatArray, zone: ZoneInfo) -> tuple[FloatArray, BoolArray]:
    """UTC seconds of wall-clock seconds, and whether that wall time exists.

    A time that occurs twice (clocks set back) is taken as the first; one that never occurs
    (clocks set forward) is marked.
    """
    quarter, inverse = np.unique((wall_s // _QUARTER_S).astype(np.int64), return_inverse=True)
    offset = np.zeros(len(quarter))
    exists = np.ones(len(quarter), dtype=np.bool_)
    for i, q in enumerate(quarter):
        naive = (_EPOCH + timedelta(seconds=int(q) * _QUARTER_S)).replace(tzinfo=zone)
        offset[i] = _seconds(naive.utcoffset())
        exists[i] = naive.astimezone(UTC).astimezone(zone).replace(fold=0) == naive
    if not len(quarter):
        return wall_s, np.zeros(0, dtype=np.bool_)
    return wall_s - offset[inverse], exists[inverse]


def iso_dates(day: npt.NDArray[np.int64]) -> list[str]:
    """``YYYY-MM-DD`` of days since 1970-01-01."""
    return [str(d) for d in day.astype("datetime64[D]")]


def _offset_s(instant_s: int, zone: ZoneInfo) -> float:
    return _seconds((_EPOCH + timedelta(seconds=instant_s)).astimezone(zone).utcoffset())


def _seconds(offset: timedelta | None) -> float:
    return 0.0 if offset is None else offset.total_seconds()
