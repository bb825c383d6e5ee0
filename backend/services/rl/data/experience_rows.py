"""Rows of drivers and bookings as raw bytes: half a `DispatchState`'s size, cast all at once.

A row is a packed little-endian record: first places (int32, ten-millionths of a degree, a
centimetre; the field names end in ``lat`` and ``lon``), then other floats (float32), integers
(int32) and flags (one byte each), each in the order in which the table has them. In 32-bit floats a
latitude would be right to 0.2 m only, and what a network sees off by 1e-4.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError
from services.rl.simulation.types import STATE_BOOKING_DTYPE, STATE_DRIVER_DTYPE

PLACES_PER_DEGREE = 1e7

_MOST = 180 * PLACES_PER_DEGREE
_WIRE = {"p": "<i4", "f": "<f4", "i": "<i4", "b": "u1"}


class RowFormat:
    """A table's packed form.

    Args:
        table: Of the rows.
        may_be_nan: The one float that may be NaN.

    Attributes:
        wire: One row as bytes.
    """

    def __init__(self, table: np.dtype[Any], may_be_nan: str | None) -> None:
        self._table = table
        kinds: dict[str, list[str]] = {"p": [], "f": [], "i": [], "b": []}
        for name in table.names or ():
            place = name.endswith(("lat", "lon"))
            kinds["p" if place else table[name].kind].append(name)
        names = [name for group in kinds.values() for name in group]
        self.wire = np.dtype(
            [(name, _WIRE[kind]) for kind, group in kinds.items() for name in group]
        )
        # The same memory as the table's, its fields in the record's order: NumPy casts by place.
        self._reordered = np.dtype(
            {
                "names": names,
                "formats": [table[name] for name in names],
                "offsets": [_offset(table, name) for name in names],
                "itemsize": table.itemsize,
            }
        )
        places, floats, flags = len(kinds["p"]), len(kinds["f"]), len(kinds["b"])
        self._places = np.dtype(  # they stand side by side in the table
            {
                "names": ["places"],
                "formats": [("f8", (places,))],
                "offsets": [_offset(table, kinds["p"][0])],
                "itemsize": table.itemsize,
            }
        )
        self._blocks = np.dtype(
            {
                "names": ["places", "floats", "flags"],
                "formats": [("<i4", (places,)), ("<f4", (floats,)), ("u1", (flags,))],
                "offsets": [0, 4 * places, self.wire.itemsize - flags],
                "itemsize": self.wire.itemsize,
            }
        )
        self._nan_column = kinds["f"].index(may_be_nan) if may_be_nan else None
        self._integers = kinds["i"]

    def pack(self, rows: npt.NDArray[np.void]) -> bytes:
        """Rows as bytes.

        Raises:
            DataError: If the rows are of another type, or hold what the record cannot.
        """
        if rows.dtype != self._table or rows.ndim != 1:
            raise DataError(f"rows have type {rows.dtype}, expected {self._table}")
        places = np.rint(rows.view(self._places)["places"] * PLACES_PER_DEGREE)
        if not (np.abs(places) <= _MOST).all():
            raise DataError("rows hold a place that is not on earth")
        packed = rows.view(self._reordered).astype(self.wire)
        blocks = packed.view(self._blocks)
        blocks["places"] = places
        floats = blocks["floats"]
        floats += 0.0  # no minus zero: equal rows, equal bytes
        if self._nan_column is not None:
            column = floats[:, self._nan_column]
            column[np.isnan(column)] = np.nan
        if not self._finite(floats):
            raise DataError("rows hold a number that is not finite or beyond float32")
        for name in self._integers:
            if (packed[name] != rows[name]).any():
                raise DataError(f"rows hold a {name} beyond 32 bits")
        return packed.tobytes()

    def unpack(self, data: bytes) -> npt.NDArray[np.void] | None:
        """Rows of whole records; None if a value is impossible."""
        packed = np.frombuffer(data, self.wire)
        blocks = packed.view(self._blocks)
        places, flags = blocks["places"], blocks["flags"]
        if not self._finite(blocks["floats"]):
            return None
        if len(packed) and (flags.max() > 1 or places.max() > _MOST or places.min() < -_MOST):
            return None
        rows: npt.NDArray[np.void] = np.empty(len(packed), self._table)
        rows.view(self._reordered)[...] = packed
        rows.view(self._places)["places"] = places / PLACES_PER_DEGREE
        return rows

    def _finite(self, floats: npt.NDArray[np.float32]) -> bool:
        good = np.isfinite(floats)
        if self._nan_column is not None:
            good[:, self._nan_column] |= np.isnan(floats[:, self._nan_column])
        return bool(good.all())


def _offset(table: np.dtype[Any], name: str) -> int:
    assert table.fields is not None
    return int(table.fields[name][1])


DRIVERS = RowFormat(STATE_DRIVER_DTYPE, None)
BOOKINGS = RowFormat(STATE_BOOKING_DTYPE, "fare")
