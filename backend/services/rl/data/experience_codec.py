"""Experiences as bytes: what lies in a replay store, whatever is behind it.

One experience is a msgpack array ``[MARK, schema, crc32, body]``; the body is a msgpack array of
`FIELDS` in that order. Rows of drivers and bookings are raw: packed little-endian records, in a
record first the floats (float32), then the integers (int32), then the flags (one byte each), each
in the order of `DRIVER_RECORD` and `BOOKING_RECORD`. Numbers beside them are float32 too, so that
what is read is rounded once: encoding it again gives the same bytes. Moments are microseconds in
UTC, days proleptic ordinals.

Nothing that is read can run code, and nothing is trusted: bytes that are not an experience, are of
another schema or are damaged raise `ExperienceUnreadable`, which says which of the three.
"""

import math
import zlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from services.rl.errors import AtmrError, DataError
from services.rl.simulation.types import STATE_BOOKING_DTYPE, STATE_DRIVER_DTYPE

from .experience import EXPERIENCE_SCHEMA, Ending, Experience, RewardTerms, Rows

MARK = "atmr-x"
"""What every encoded experience begins with."""

FIELDS = (
    "id",
    "company_id",
    "day",  # proleptic ordinal
    "at",  # microseconds since 1970, UTC
    "scenario_hash",
    "state",  # [now_min, drivers, bookings]
    "prior",  # flat: driver, booking, driver, booking, ...
    "action",  # nil or [driver, booking]
    "dt",
    "next_state",  # nil or as state
    "done",
    "terms",  # completion, lateness, deadhead, loaded, cancellation
    "loss",
    "pickup_in_min",
    "planned_pickup_in_min",
    "planned_reward",
    "ending",
    "propensity",
    "k",
    "arm",
    "unit",
    "model",
    "source",
    "overridden",
)
"""Names of the body's fields, in order."""

Reason = Literal["foreign", "schema", "damaged"]

_WIRE_KIND = {"f": "<f4", "i": "<i4", "b": "u1"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ENDINGS = {ending.value: ending for ending in Ending}
_SOURCES = frozenset({"policy", "human", "reconstructed"})
_PREFIX = b"\x94" + msgpack.packb(MARK)


class ExperienceUnreadable(AtmrError):  # noqa: N818 - it is a finding, counted, not a failure
    """Bytes that are no experience this code can read.

    Attributes:
        reason: ``foreign``: something else; ``schema``: of another version of this format;
            ``damaged``: cut off, altered, or with impossible values.
    """

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(f"experience cannot be read ({reason}): {what}")
        self.reason: Reason = reason


class _Records:
    """A table's packed form.

    Attributes:
        wire: Packed record: floats, integers, flags.
    """

    def __init__(self, table: npt.DTypeLike, may_be_nan: str | None) -> None:
        self._table = np.dtype(table)
        names = [n for kind in "fib" for n in self._names(kind)]
        self.wire = np.dtype([(n, _WIRE_KIND[self._table[n].kind]) for n in names])
        # The same memory as the table's, its fields in the record's order: NumPy casts by place.
        fields = self._table.fields
        assert fields is not None
        self._reordered = np.dtype(
            {
                "names": names,
                "formats": [self._table[n] for n in names],
                "offsets": [fields[n][1] for n in names],
                "itemsize": self._table.itemsize,
            }
        )
        floats, flags = self._names("f"), self._names("b")
        self._floats, self._flags = len(floats), len(flags)
        self._nan_column = floats.index(may_be_nan) if may_be_nan else None
        self._integers = self._names("i")

    def _names(self, kind: str) -> list[str]:
        return [n for n in self._table.names or () if self._table[n].kind == kind]

    def pack(self, rows: npt.NDArray[np.void]) -> bytes:
        """Rows as bytes.

        Raises:
            DataError: If the rows are of another type, or hold what the record cannot.
        """
        if rows.dtype != self._table or rows.ndim != 1:
            raise DataError(f"rows have type {rows.dtype}, expected {self._table}")
        with np.errstate(over="ignore"):
            packed = rows.view(self._reordered).astype(self.wire)
        floats = self._float_columns(packed)
        floats += 0.0  # no minus zero: equal rows, equal bytes
        if self._nan_column is not None:
            column = floats[:, self._nan_column]
            column[np.isnan(column)] = np.nan
        if not self._finite(floats):
            raise DataError("rows hold a number that is not finite or beyond float32")
        for name in self._integers:
            if not np.array_equal(packed[name], rows[name]):
                raise DataError(f"rows hold a {name} beyond 32 bits")
        return packed.tobytes()

    def unpack(self, data: bytes) -> npt.NDArray[np.void] | None:
        """Rows of whole records; None if a value is impossible."""
        packed = np.frombuffer(data, self.wire)
        if not self._finite(self._float_columns(packed)):
            return None
        flags = np.ndarray(
            (len(packed), self._flags),
            np.uint8,
            data,
            self.wire.itemsize - self._flags,
            (self.wire.itemsize, 1),
        )
        if flags.size and flags.max() > 1:
            return None
        rows: npt.NDArray[np.void] = np.empty(len(packed), self._table)
        rows.view(self._reordered)[...] = packed
        return rows

    def _float_columns(self, packed: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
        """View of the floats, ``(rows, floats)``."""
        return np.ndarray((len(packed), self._floats), "<f4", packed, 0, (self.wire.itemsize, 4))

    def _finite(self, floats: npt.NDArray[np.float32]) -> bool:
        if self._nan_column is None:
            return bool(np.isfinite(floats).all())
        good = np.isfinite(floats)
        good[:, self._nan_column] |= np.isnan(floats[:, self._nan_column])
        return bool(good.all())


_DRIVERS = _Records(STATE_DRIVER_DTYPE, None)
_BOOKINGS = _Records(STATE_BOOKING_DTYPE, "fare")

DRIVER_RECORD = _DRIVERS.wire
"""One driver as bytes."""

BOOKING_RECORD = _BOOKINGS.wire
"""One open booking as bytes; ``fare`` may be NaN."""


# --- writing -------------------------------------------------------------------------------------


def encode(experience: Experience) -> bytes:
    """An experience as bytes; equal experiences give equal bytes.

    Raises:
        DataError: If it holds what the format cannot (a number that is not finite, a moment
            without a time zone, an action outside the rows); naming experience and field.
    """
    try:
        body = msgpack.packb(_body(experience), use_single_float=True)
    except (DataError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"experience {experience.id!r} cannot be kept: {error}") from error
    assert isinstance(body, bytes)
    whole = msgpack.packb([MARK, EXPERIENCE_SCHEMA, zlib.crc32(body), body])
    assert isinstance(whole, bytes)
    return whole


def moment_of(at: datetime) -> int:
    """Microseconds since 1970 in UTC: the order of experiences in a store.

    Raises:
        DataError: If the moment has no time zone.
    """
    if at.tzinfo is None:
        raise DataError("at has no time zone")
    return (at - _EPOCH) // _MICROSECOND


def _body(e: Experience) -> list[object]:
    """The fields, checked."""
    body = [
        str(e.id),
        int(e.company_id),
        e.day.toordinal(),
        moment_of(e.at),
        str(e.scenario_hash),
        _packed_rows(e.state),
        [int(row) for pair in e.prior for row in pair],
        None if e.action is None else [int(row) for row in e.action],
        _number("dt", e.dt),
        None if e.next_state is None else _packed_rows(e.next_state),
        bool(e.done),
        [_number(f"terms.{n}", getattr(e.terms, n)) for n in _TERMS],
        _number("loss", e.loss),
        _optional("pickup_in_min", e.pickup_in_min),
        _optional("planned_pickup_in_min", e.planned_pickup_in_min),
        _optional("planned_reward", e.planned_reward),
        str(e.ending),
        _optional("propensity", e.propensity),
        int(e.k),
        str(e.arm),
        str(e.unit),
        str(e.model),
        str(e.source),
        bool(e.overridden),
    ]
    if complaint := _complaint(body, len(e.state.drivers), len(e.state.bookings)):
        raise DataError(complaint)
    return body


_TERMS = ("completion", "lateness", "deadhead", "loaded", "cancellation")


def _number(name: str, value: float) -> float:
    """The value as float32 holds it; no minus zero."""
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value)) + 0.0
    if not math.isfinite(rounded):
        raise DataError(f"{name} is {value}")
    return rounded


def _optional(name: str, value: float | None) -> float | None:
    return None if value is None else _number(name, value)


def _packed_rows(rows: Rows) -> list[object]:
    return [
        _number("now_min", rows.now_min),
        _DRIVERS.pack(rows.drivers),
        _BOOKINGS.pack(rows.bookings),
    ]


def _complaint(body: Sequence[Any], drivers: int, bookings: int) -> str | None:
    """What is wrong with values of the right types; None: nothing."""
    prior, action, dt, following, done = body[6:11]
    loss, propensity, k, source = body[12], body[17], body[18], body[22]
    taken = prior[1::2]
    if any(not 0 <= d < drivers for d in prior[::2]) or any(not 0 <= b < bookings for b in taken):
        return "prior names a row that is not there"
    if len(set(taken)) != len(taken):
        return "prior commits a booking twice"
    if action is None:
        if (following is None) != done:
            return "a WAIT has a next state unless it is done"
    elif not (0 <= action[0] < drivers and 0 <= action[1] < bookings) or action[1] in taken:
        return "action names a row that is not there, or a booking of prior"
    elif following is not None:
        return "an assignment has no next state of its own"
    if not (dt >= 0.0 and loss >= 0.0 and k >= 0):
        return "dt, loss and k cannot be negative"
    if propensity is not None and not 0.0 <= propensity <= 1.0:
        return f"propensity is {propensity}"
    if source not in _SOURCES:
        return f"source is {source!r}"
    return None


# --- reading -------------------------------------------------------------------------------------


def decode(data: bytes) -> Experience:
    """What `encode` was given, its numbers rounded to float32.

    Raises:
        ExperienceUnreadable: If the bytes are something else, of another schema, or damaged.
    """
    outcome = decode_each([data])[0]
    if isinstance(outcome, ExperienceUnreadable):
        raise outcome
    return outcome


def decode_each(items: Sequence[bytes]) -> list[Experience | ExperienceUnreadable]:
    """Decode many at once: rows are cast together, several times faster than one by one."""
    bodies: list[Any] = []
    for data in items:
        try:
            bodies.append(_read_body(data))
        except ExperienceUnreadable as error:
            bodies.append(error)
    good = [body for body in bodies if not isinstance(body, ExperienceUnreadable)]
    rows = [packed for body in good for packed in (body[5], body[9]) if packed is not None]
    drivers = _DRIVERS.unpack(b"".join([packed[1] for packed in rows]))
    bookings = _BOOKINGS.unpack(b"".join([packed[2] for packed in rows]))
    if drivers is None or bookings is None:
        if len(items) > 1:  # one spoils the batch: find out which
            return [decode_each([data])[0] for data in items]
        return [ExperienceUnreadable("damaged", "a row holds an impossible value")]
    outcomes: list[Experience | ExperienceUnreadable] = []
    d = b = 0
    for body in bodies:
        if not isinstance(body, ExperienceUnreadable):
            for place in (5, 9):
                if (packed := body[place]) is not None:
                    d_end = d + len(packed[1]) // DRIVER_RECORD.itemsize
                    b_end = b + len(packed[2]) // BOOKING_RECORD.itemsize
                    body[place] = Rows(packed[0], drivers[d:d_end], bookings[b:b_end])
                    d, b = d_end, b_end
            body = _experience(body)
        outcomes.append(body)
    return outcomes


def _read_body(data: bytes) -> list[Any]:
    """The fields, of the right types and in range; rows still packed."""
    if not data.startswith(_PREFIX):
        raise ExperienceUnreadable("foreign", "it does not begin as an experience does")
    try:
        head = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ExperienceUnreadable("damaged", "it is cut off or altered") from error
    if not isinstance(head[1], int):
        raise ExperienceUnreadable("damaged", "it has no schema number")
    if head[1] != EXPERIENCE_SCHEMA:
        raise ExperienceUnreadable(
            "schema", f"it has schema {head[1]}, this code reads {EXPERIENCE_SCHEMA}"
        )
    if not isinstance(head[3], bytes) or head[2] != zlib.crc32(head[3]):
        raise ExperienceUnreadable("damaged", "its checksum does not fit")
    try:
        body = msgpack.unpackb(head[3])
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ExperienceUnreadable("damaged", "its body is no msgpack") from error
    if complaint := _mistyped(body):
        raise ExperienceUnreadable("damaged", complaint)
    drivers = len(body[5][1]) // DRIVER_RECORD.itemsize
    bookings = len(body[5][2]) // BOOKING_RECORD.itemsize
    if complaint := _complaint(body, drivers, bookings):
        raise ExperienceUnreadable("damaged", complaint)
    try:
        body[2] = date.fromordinal(body[2])
        body[3] = _EPOCH + timedelta(microseconds=body[3])
    except (ValueError, OverflowError) as error:
        raise ExperienceUnreadable("damaged", f"its moment does not exist: {error}") from error
    checked: list[Any] = body
    return checked


_NIL = type(None)
_TYPES: tuple[frozenset[type], ...] = tuple(
    frozenset(types)
    for types in (
        (str,),  # id
        (int,),
        (int,),  # day
        (int,),  # at
        (str,),
        (list,),  # state
        (list,),  # prior
        (list, _NIL),  # action
        (float,),
        (list, _NIL),  # next_state
        (bool,),
        (list,),  # terms
        (float,),
        (float, _NIL),  # pickup_in_min
        (float, _NIL),
        (float, _NIL),
        (str,),  # ending
        (float, _NIL),  # propensity
        (int,),
        (str,),
        (str,),
        (str,),
        (str,),
        (bool,),
    )
)
assert len(_TYPES) == len(FIELDS)


def _mistyped(body: Any) -> str | None:
    """What is of the wrong type or length; None: nothing."""
    if type(body) is not list or len(body) != len(FIELDS):
        return f"it has not the {len(FIELDS)} fields of its schema"
    for name, value, types in zip(FIELDS, body, _TYPES, strict=True):
        kind = type(value)
        if kind not in types:
            return f"{name} is of type {kind.__name__}"
        if kind is float and not math.isfinite(value):
            return f"{name} is {value}"
    prior, action, terms = body[6], body[7], body[11]
    if any(type(row) is not int for row in prior) or len(prior) % 2:
        return "prior is not made of pairs of rows"
    if action is not None and [type(row) for row in action] != [int, int]:
        return "action is not a pair of rows"
    if len(terms) != len(_TERMS) or any(
        type(value) is not float or not math.isfinite(value) for value in terms
    ):
        return f"terms are not {len(_TERMS)} numbers"
    if body[16] not in _ENDINGS:
        return f"ending is {body[16]!r}"
    return _misshapen("state", body[5]) or _misshapen("next_state", body[9])


def _misshapen(name: str, packed: list[Any] | None) -> str | None:
    if packed is None:
        return None
    if [type(part) for part in packed] != [float, bytes, bytes] or not math.isfinite(packed[0]):
        return f"{name} is not a time and two tables"
    if len(packed[1]) % DRIVER_RECORD.itemsize or len(packed[2]) % BOOKING_RECORD.itemsize:
        return f"{name} does not consist of whole rows"
    return None


def _experience(body: list[Any]) -> Experience:
    """The experience of a body that was checked; its rows are unpacked."""
    prior = body[6]
    body[6] = tuple(zip(prior[::2], prior[1::2], strict=True))
    body[7] = None if body[7] is None else tuple(body[7])
    body[11] = RewardTerms(*body[11])
    body[16] = _ENDINGS[body[16]]
    return Experience(*body)
