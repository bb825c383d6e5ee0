"""Experiences as bytes: what lies in a replay store, whatever is behind it.

One experience is a msgpack array ``[MARK, schema, crc32, body]``; the body is a msgpack array of
`FIELDS` in that order. Rows of drivers and bookings are raw (`experience_rows`). Numbers beside
them are float32, so that what is read is rounded once: encoding it again gives the same bytes.
Moments are microseconds in UTC, days proleptic ordinals.

Nothing that is read can run code, and nothing is trusted: bytes that are not an experience, are of
another schema or are damaged raise `ExperienceUnreadable`, which says which of the three.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped]
import numpy as np

from services.rl.errors import AtmrError, DataError

from .experience import EXPERIENCE_SCHEMA, Ending, Experience, RewardTerms, Rows
from .experience_rows import BOOKINGS, DRIVERS

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

_FLOAT = struct.Struct("<f")
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


# --- writing -------------------------------------------------------------------------------------


def encode(experience: Experience) -> bytes:
    """An experience as bytes; equal experiences give equal bytes.

    Raises:
        DataError: If it holds what the format cannot (a number that is not finite, a moment
            without a time zone, an action outside the rows); naming experience and field.
    """
    try:
        with np.errstate(over="ignore"):
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
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0] + 0.0
    except (OverflowError, struct.error):
        raise DataError(f"{name} is {value!r}") from None
    if not math.isfinite(rounded):
        raise DataError(f"{name} is {value}")
    return rounded


def _optional(name: str, value: float | None) -> float | None:
    return None if value is None else _number(name, value)


def _packed_rows(rows: Rows) -> list[object]:
    return [
        _number("now_min", rows.now_min),
        DRIVERS.pack(rows.drivers),
        BOOKINGS.pack(rows.bookings),
    ]


def _complaint(body: Sequence[Any], drivers: int, bookings: int) -> str | None:
    """What is wrong with values of the right types; None: nothing."""
    prior, action, dt, following, done = body[6:11]
    loss, propensity, k, source = body[12], body[17], body[18], body[22]
    taken = prior[1::2]
    if prior:
        if min(prior) < 0 or max(prior[::2]) >= drivers or max(taken) >= bookings:
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
    drivers = DRIVERS.unpack(b"".join([packed[1] for packed in rows]))
    bookings = BOOKINGS.unpack(b"".join([packed[2] for packed in rows]))
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
                    d_end = d + len(packed[1]) // DRIVERS.wire.itemsize
                    b_end = b + len(packed[2]) // BOOKINGS.wire.itemsize
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
    drivers = len(body[5][1]) // DRIVERS.wire.itemsize
    bookings = len(body[5][2]) // BOOKINGS.wire.itemsize
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
_SHAPES = frozenset(itertools.product(*_TYPES))
_INTEGERS, _FLOATS = {int}, {float}


def _mistyped(body: Any) -> str | None:
    """What is of the wrong type or length; None: nothing."""
    if type(body) is not list or len(body) != len(FIELDS):
        return f"it has not the {len(FIELDS)} fields of its schema"
    kinds = tuple(map(type, body))
    if kinds not in _SHAPES:
        wrong = [n for n, kind, may in zip(FIELDS, kinds, _TYPES, strict=True) if kind not in may]
        return f"{wrong[0]} is of the wrong type"
    prior, action, terms = body[6], body[7], body[11]
    if not set(map(type, prior)) <= _INTEGERS or len(prior) % 2:
        return "prior is not made of pairs of rows"
    if action is not None and (len(action) != 2 or not set(map(type, action)) <= _INTEGERS):
        return "action is not a pair of rows"
    if len(terms) != len(_TERMS) or not set(map(type, terms)) <= _FLOATS:
        return f"terms are not {len(_TERMS)} numbers"
    # A sum is finite if all are: numbers of 32 bits cannot overflow one of 64.
    if not math.isfinite(sum(terms) + sum(v for v in body[8:18] if type(v) is float)):
        return "a number is not finite"
    if body[16] not in _ENDINGS:
        return f"ending is {body[16]!r}"
    return _misshapen("state", body[5]) or _misshapen("next_state", body[9])


_ROWS_SHAPE = (float, bytes, bytes)


def _misshapen(name: str, packed: list[Any] | None) -> str | None:
    if packed is None:
        return None
    if tuple(map(type, packed)) != _ROWS_SHAPE or not math.isfinite(packed[0]):
        return f"{name} is not a time and two tables"
    if len(packed[1]) % DRIVERS.wire.itemsize or len(packed[2]) % BOOKINGS.wire.itemsize:
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
