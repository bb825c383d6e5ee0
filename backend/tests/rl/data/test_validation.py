"""Every row is kept or rejected for a named reason, and nothing else of it leaks."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.rl.data.history import from_rows
from services.rl.data.validation import Reason, validate
from services.rl.errors import DataError

NOON = datetime(2025, 3, 3, 12, 0, tzinfo=UTC)

FAULTS = [
    ({"pickup_lat": None}, Reason.MISSING, "pickup_lat is missing"),
    ({"id": " "}, Reason.MISSING, "id is missing"),
    ({"scheduled_time": "NULL"}, Reason.MISSING, "scheduled_time"),
    ({"dropoff_lon": float("nan")}, Reason.NOT_A_NUMBER, "dropoff_lon is no finite number"),
    ({"pickup_lat": "nan"}, Reason.NOT_A_NUMBER, "pickup_lat"),
    ({"pickup_lon": "inf"}, Reason.NOT_A_NUMBER, "pickup_lon"),
    ({"pickup_lat": "Mme Dupont"}, Reason.NOT_A_NUMBER, "pickup_lat"),
    ({"pickup_lat": 95.0}, Reason.OUT_OF_RANGE, "95"),
    ({"dropoff_lon": -181}, Reason.OUT_OF_RANGE, "-181"),
    ({"pickup_lat": 6.14, "pickup_lon": 46.2}, Reason.SWAPPED, "pickup_lat and pickup_lon look"),
    ({"dropoff_lat": 6.14, "dropoff_lon": 46.2}, Reason.SWAPPED, "dropoff_lat and dropoff_lon"),
    ({"pickup_lat": 0.0, "pickup_lon": 0.0}, Reason.FAR, "200 km"),
    ({"dropoff_lat": 48.85, "dropoff_lon": 2.35}, Reason.FAR, "dropoff"),
    (
        {"pickup_lat": 46.2, "pickup_lon": 6.1, "dropoff_lat": 46.2, "dropoff_lon": 6.1},
        Reason.SAME_PLACE,
        "one place",
    ),
    ({"priority": 7}, Reason.PRIORITY, "7"),
    ({"priority": "2.5"}, Reason.PRIORITY, "2.5"),
    ({"priority": "urgent"}, Reason.PRIORITY, "1 to 5"),
    ({"wheelchair_need": "peut-être"}, Reason.BAD_FLAG, "wheelchair_need"),
    ({"pickup_service_min": -3}, Reason.SERVICE, "-3"),
    ({"scheduled_time": "tomorrow"}, Reason.BAD_TIME, "scheduled_time"),
    ({"scheduled_time": "2025-03-03"}, Reason.BAD_TIME, "scheduled_time"),
    ({"scheduled_time": datetime(9999, 12, 31, tzinfo=UTC)}, Reason.BAD_TIME, "scheduled_time"),
    ({"created_at": "0001-01-01T00:00:00+00:00"}, Reason.BAD_TIME, "created_at"),
    ({"created_at": "2025-02-30T10:00:00+01:00"}, Reason.BAD_TIME, "created_at"),
    ({"scheduled_time": "2025-03-03 09:00:00"}, Reason.NO_ZONE, "no zone"),
    ({"created_at": NOON + timedelta(hours=9)}, Reason.SCHEDULED_EARLY, "after its scheduled"),
    ({"status": "CANCELED"}, Reason.CANCELLED_UNKNOWN, "cancelled_at is missing"),
    ({"cancelled_at": NOON - timedelta(days=9)}, Reason.CANCELLED_EARLY, "before it was created"),
    (
        {"actual_pickup_at": NOON, "cancelled_at": NOON + timedelta(hours=1)},
        Reason.CANCELLED_LATE,
        "after the actual pickup",
    ),
    (
        {"actual_pickup_at": NOON, "actual_dropoff_at": NOON - timedelta(minutes=1)},
        Reason.DROPOFF_EARLY,
        "before the pickup",
    ),
    ({"actual_dropoff_at": NOON}, Reason.NO_PICKUP, "no actual pickup"),
    (
        {"actual_pickup_at": NOON, "actual_dropoff_at": NOON + timedelta(hours=7)},
        Reason.TRIP,
        "360 minutes",
    ),
    ({"actual_pickup_at": NOON + timedelta(days=2)}, Reason.DELAY, "720 minutes"),
    ({"id": 3}, Reason.DUPLICATE, "booking row 3"),
]


@pytest.mark.parametrize(("fault", "reason", "words"), FAULTS, ids=[str(f[0]) for f in FAULTS])
def test_a_faulty_row_is_rejected_with_its_reason_and_the_others_kept(
    rows, booking_row, fault, reason, words
):
    history = validate(from_rows([*rows, booking_row(**fault)]))
    assert list(history.rejections.entries) == [30]
    found, sentence = history.rejections.entries[30]
    assert found is reason
    assert words in sentence
    assert len(history.bookings) == 30


def test_the_words_of_a_shifted_row_are_never_repeated(rows, booking_row):
    row = booking_row(pickup_lat="Mme Dupont", priority="Dupont", scheduled_time="M. Dupont")
    row["id"] = "Dupont"
    history = validate(from_rows([*rows, row]))
    assert len(history.rejections.entries) == 1
    assert "Dupont" not in str(history.rejections.entries)


def test_a_missing_optional_value_takes_its_default_and_is_counted(rows, booking_row):
    history = validate(from_rows([*rows, booking_row(priority=None)]))
    assert history.bookings["priority"][-1] == 3
    assert history.defaulted["priority"] == 1


def test_a_cancelled_booking_is_kept_with_its_time(booking_row, rows):
    row = booking_row(status="CANCELED")
    row["cancelled_at"] = row["scheduled_time"] - timedelta(hours=1)
    history = validate(from_rows([*rows, row]))
    assert not history.rejections.entries
    last = history.bookings[-1]
    assert last["scheduled_s"] - last["cancelled_s"] == 3600
    assert np.isinf(history.bookings["cancelled_s"][:-1]).all()


def test_a_duplicate_of_a_rejected_row_is_kept(rows, booking_row):
    broken = booking_row(id="7b", pickup_lat=None)
    mended = booking_row(id="7b")
    history = validate(from_rows([*rows, broken, mended]))
    assert list(history.rejections.entries) == [30]


def test_an_empty_history_is_an_error():
    with pytest.raises(DataError, match="empty"):
        validate(from_rows([]))


def test_a_history_without_a_valid_row_is_an_error_that_counts_reasons(booking_row):
    with pytest.raises(DataError, match=r"none of the 2 bookings is valid \(not_a_number 2\)"):
        validate(from_rows([booking_row(pickup_lat="x"), booking_row(pickup_lat="x")]))


def test_several_companies_need_a_choice(rows, booking_row):
    table = from_rows([*rows, booking_row(company_id=2)])
    with pytest.raises(DataError, match="--company-id"):
        validate(table)
    history = validate(table, company_id="1")
    assert history.rejections.counts() == {"other_company": 1}


_VALUES = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(10**6), 10**6),
    st.text(max_size=12),
    st.booleans(),
    st.datetimes(timezones=st.sampled_from([UTC])),
    st.datetimes(),
)
_FIELDS = [
    *("id", "pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon", "scheduled_time"),
    *("created_at", "status", "priority", "is_urgent", "wheelchair_need", "is_return"),
    *("pickup_service_min", "cancelled_at", "actual_pickup_at", "actual_dropoff_at", "driver_id"),
]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    damage=st.lists(st.tuples(st.integers(0, 29), st.sampled_from(_FIELDS), _VALUES), max_size=12)
)
def test_whatever_the_values_read_is_kept_plus_rejected(rows, damage):
    table = [dict(row) for row in rows]
    for index, name, value in damage:
        table[index][name] = value
    try:
        history = validate(from_rows(table))
    except DataError:
        return  # all rows rejected: also an answer
    assert len(history.bookings) + len(history.rejections.entries) == 30
    assert set(history.bookings["row"]).isdisjoint(history.rejections.entries)
    for name in ("pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon", "scheduled_s"):
        assert np.isfinite(history.bookings[name]).all()
