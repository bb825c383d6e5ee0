"""Experiences survive as bytes; whatever else is read is refused with its reason, never a crash."""

import math
import pickle
import zlib
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rl.data.experience import EXPERIENCE_SCHEMA, Experience, RewardTerms, Rows
from services.rl.data.experience_codec import (
    FIELDS,
    MARK,
    ExperienceUnreadable,
    decode,
    decode_each,
    encode,
)
from services.rl.errors import DataError

from .experiences import experience, experiences, rows


def _same_rows(got: Rows, given: Rows) -> None:
    assert got.now_min == np.float32(given.now_min)
    for read, wrote in ((got.drivers, given.drivers), (got.bookings, given.bookings)):
        assert read.dtype == wrote.dtype
        for name in wrote.dtype.names or ():
            if name.endswith(("lat", "lon")):
                np.testing.assert_allclose(read[name], wrote[name], rtol=0, atol=0.51e-7)
            elif wrote.dtype[name].kind == "f":
                np.testing.assert_array_equal(read[name], wrote[name].astype(np.float32))
            else:
                np.testing.assert_array_equal(read[name], wrote[name])


@pytest.mark.parametrize("wait", [False, True])
def test_every_field_comes_back(wait: bool) -> None:
    given = experience(1, wait=wait)
    got = decode(encode(given))
    _same_rows(got.state, given.state)
    if given.next_state is not None:
        assert got.next_state is not None
        _same_rows(got.next_state, given.next_state)
    for field in fields(Experience):
        read, wrote = getattr(got, field.name), getattr(given, field.name)
        if isinstance(wrote, float):
            assert read == np.float32(wrote), field.name
        elif field.name == "terms":
            assert read.total == pytest.approx(wrote.total, rel=1e-6)
        elif field.name not in ("state", "next_state"):
            assert read == wrote, field.name
            assert type(read) is type(wrote), field.name
    assert np.isnan(got.state.bookings["fare"]).any()


def test_names_of_fields_are_those_of_the_class() -> None:
    assert FIELDS == tuple(field.name for field in fields(Experience))


def test_what_was_read_is_written_as_it_was() -> None:
    for given in experiences(40):
        data = encode(given)
        assert encode(decode(data)) == data


def test_equal_experiences_give_equal_bytes() -> None:
    one = experience(2)
    other = experience(2, terms=RewardTerms(12.0, -0.9, -2.35, -0.0, -0.0))
    minus = one.state.bookings.copy()
    minus["created_min"] = -0.0
    plus = minus.copy()
    plus["created_min"] = 0.0
    payload = np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\xff", "<f8")[0]  # another NaN
    minus["fare"], plus["fare"] = payload, math.nan
    summer = timezone(timedelta(hours=2))
    assert encode(one) == encode(other) == encode(replace(one, at=one.at.astimezone(summer)))
    made = [replace(one, state=Rows(5.0, one.state.drivers, t)) for t in (minus, plus)]
    assert encode(made[0]) == encode(made[1])


def test_an_assignment_takes_little_more_than_a_kilobyte() -> None:
    assert len(encode(experience(1))) < 1250
    assert len(encode(experience(1, wait=True))) < 2250
    assert len(encode(experience(1))) < len(pickle.dumps(experience(1))) / 2


def test_fleets_without_bookings_can_be_kept() -> None:
    rng = np.random.default_rng(0)
    bare = experience(3, wait=True, state=rows(rng, 4, 0), next_state=rows(rng, 4, 0), prior=())
    got = decode_each([encode(bare), encode(experience(1)), encode(bare)])
    assert [len(e.state.bookings) for e in got if isinstance(e, Experience)] == [0, 10, 0]


def test_arrays_that_were_read_may_be_written_to() -> None:
    got = decode(encode(experience(1)))
    got.state.drivers["served"] += 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dt": math.nan},
        {"dt": -1.0},
        {"loss": math.inf},
        {"loss": 1e300},
        {"terms": RewardTerms(completion=math.nan)},
        {"propensity": 1.5},
        {"k": -1},
        {"k": 2**70},
        {"at": datetime(2026, 3, 2, 8)},
        {"action": (10, 0)},
        {"action": (0, 10)},
        {"action": (0, 1)},  # committed already
        {"prior": ((-1, 0),)},
        {"prior": ((0, 1), (1, 1))},
        {"action": None},  # a WAIT that leads nowhere and is not done
        {"next_state": rows(np.random.default_rng(1))},
        {"source": "nobody"},
        {"arm": "\ud800"},
        {"pickup_in_min": "soon"},
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="experience '1' cannot be kept"):
        encode(experience(1, **changes))


@pytest.mark.parametrize(
    ("table", "field", "value"),
    [
        ("drivers", "lat", math.nan),
        ("drivers", "lon", 200.0),
        ("drivers", "free_at_min", math.inf),
        ("drivers", "busy_min", 1e300),
        ("drivers", "served", 2**40),
        ("bookings", "fare", math.inf),
        ("bookings", "promised_min", math.nan),
    ],
)
def test_rows_that_cannot_be_kept_are_refused(table: str, field: str, value: float) -> None:
    given = experience(1)
    getattr(given.state, table)[field][3] = value
    with pytest.raises(DataError):
        encode(given)


def _reason(data: bytes) -> str:
    with pytest.raises(ExperienceUnreadable) as caught:
        decode(data)
    assert caught.value.reason in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"hello", pickle.dumps(experience(1)), msgpack.packb({"id": 1}), b"{}"],
)
def test_other_programs_bytes_are_foreign(data: bytes) -> None:
    assert _reason(data) == "foreign"


def test_another_schema_is_told_from_damage() -> None:
    mark, schema, checksum, body = msgpack.unpackb(encode(experience(1)))
    assert (mark, schema) == (MARK, EXPERIENCE_SCHEMA)
    assert _reason(msgpack.packb([mark, schema + 1, checksum, body])) == "schema"
    assert _reason(msgpack.packb([mark, schema + 1, "new", {"of": "things"}])) == "schema"
    assert _reason(msgpack.packb([mark, "1", checksum, body])) == "damaged"
    assert _reason(msgpack.packb([mark, True, checksum, body])) == "damaged"
    assert _reason(msgpack.packb([mark, schema, checksum + 1, body])) == "damaged"
    assert _reason(msgpack.packb([mark, schema, zlib.crc32(b"no"), b"no"])) == "damaged"


def test_one_damaged_item_does_not_spoil_the_others() -> None:
    good = encode(experience(1))
    mark, schema, _, body = msgpack.unpackb(good)
    fields = msgpack.unpackb(body)
    fields[5][1] = b"\xff" * len(fields[5][1])  # places and floats that cannot be
    bad = _whole(fields)
    outcomes = decode_each([good, bad, b"foreign", good])
    kinds = [e.reason if isinstance(e, ExperienceUnreadable) else e.id for e in outcomes]
    assert kinds == ["1", "damaged", "foreign", "1"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_bytes_are_never_taken_for_an_experience(data: st.DataObject) -> None:
    good = encode(experience(data.draw(st.integers(0, 3))))
    altered = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(altered)[: data.draw(st.integers(0, len(altered)))]
    for candidate in (bytes(altered), cut, cut + cut):
        if candidate != good:
            assert _reason(candidate) in ("foreign", "schema", "damaged")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_never_taken_for_an_experience(data: bytes) -> None:
    assert _reason(data) == "foreign"
    head = encode(experience(1))[:12]
    assert _reason(head + data) in ("schema", "damaged")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(width=32)
    | st.text(max_size=8)
    | st.binary(max_size=120),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(FIELDS) - 1), _VALUES, st.booleans())
def test_any_value_in_any_field_is_read_or_refused(place: int, value: object, wait: bool) -> None:
    """Behind a checksum that fits: the checks of the fields themselves."""
    body = msgpack.unpackb(msgpack.unpackb(encode(experience(1, wait=wait)))[3])
    body[place] = value
    try:
        got = decode(_whole(body))
    except ExperienceUnreadable as error:
        assert error.reason == "damaged"
    else:
        encode(got)  # what is read is sound


@pytest.mark.parametrize("count", [0, 23, 25])
def test_a_body_of_another_length_is_damaged(count: int) -> None:
    body = msgpack.unpackb(msgpack.unpackb(encode(experience(1)))[3])
    assert _reason(_whole([*body, 1][:count])) == "damaged"


def _whole(fields: list[object]) -> bytes:
    body = msgpack.packb(fields, use_single_float=True)
    whole: bytes = msgpack.packb([MARK, EXPERIENCE_SCHEMA, zlib.crc32(body), body])
    return whole
