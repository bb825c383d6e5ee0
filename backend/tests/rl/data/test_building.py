"""Operating days: local minutes across clock changes, periods, rosters, splits."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rl.data.building import DayRules, build_days
from services.rl.data.dataset import HistoryDays, split_by_calendar
from services.rl.data.history import from_rows
from services.rl.data.local_time import instants, wall_seconds
from services.rl.data.roster import known_drivers
from services.rl.data.validation import validate
from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import Split

ZURICH = ZoneInfo("Europe/Zurich")


def build(table, drivers=(), rules=None) -> HistoryDays:
    raw = from_rows(table, drivers=drivers)
    history = validate(raw)
    rules = rules or DayRules(day_start="08:00", horizon_min=480)
    return build_days(
        history, known_drivers(raw, history, None), rules, name="t", source=raw.source
    )


def local(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), ZURICH)


@given(
    st.datetimes(datetime(2023, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
    st.sampled_from(["Europe/Zurich", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_wall_clock_and_instant_are_inverse_where_the_time_exists(naive, name):
    zone = ZoneInfo(name)
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001
    wall = np.array([(naive - epoch).total_seconds()])
    utc, exists = instants(wall, zone)
    expected = naive.replace(tzinfo=zone)
    real = expected.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == naive
    assert exists[0] == real
    if real:
        assert utc[0] == pytest.approx(expected.timestamp(), abs=1e-3)
        assert wall_seconds(utc, zone)[0] == pytest.approx(wall[0], abs=1e-3)


def test_nine_oclock_is_nine_oclock_before_and_after_the_clocks_change(booking_row):
    days = [date(2025, 3, 29), date(2025, 3, 30), date(2025, 3, 31)]
    table = [
        booking_row(
            scheduled_time=local(day, 9),
            created_at=local(day, 9).astimezone(UTC) - timedelta(hours=20),
        )
        for day in days
    ]
    history = build(table)
    assert history.dates == ("2025-03-29", "2025-03-30", "2025-03-31")
    assert history.bookings["promised_min"].tolist() == [60, 60, 60]
    # The lead is true time: 20 hours, although the wall clock says 21 on the day of the change.
    assert history.bookings["created_min"].tolist() == [-1140, -1140, -1140]


def test_a_night_belongs_to_the_day_it_began_on(booking_row):
    at = local(date(2025, 3, 5), 1, 30)
    table = [
        booking_row(scheduled_time=at, created_at=at - timedelta(hours=1)),
        booking_row(scheduled_time=local(date(2025, 3, 4), 20), created_at=at - timedelta(days=2)),
    ]
    history = build(table, rules=DayRules(day_start="18:00", horizon_min=720))
    assert history.dates == ("2025-03-04",)
    assert history.bookings["promised_min"].tolist() == [120, 450]


def test_bookings_outside_the_operating_day_are_rejected_and_counted(booking_row, rows):
    late = local(date(2025, 3, 3), 22)
    table = [*rows, booking_row(scheduled_time=late, created_at=late - timedelta(hours=3))]
    counts = build(table).facts["counts"]
    assert counts["rejected_by_reason"] == {"outside_operating_day": 1}
    assert counts["read"] == 31 == counts["kept"] + counts["rejected"]


def test_bookings_before_the_period_are_rejected_and_counted(booking_row, rows):
    old = local(date(2025, 1, 6), 9)
    table = [*rows, booking_row(scheduled_time=old, created_at=old - timedelta(hours=3))]
    history = build(table, rules=DayRules(days=30, day_start="08:00", horizon_min=480))
    assert history.dates == ("2025-03-03",)
    assert history.facts["counts"]["rejected_by_reason"] == {"outside_period": 1}


def test_a_date_mistyped_into_the_future_does_not_push_the_history_out(booking_row, rows):
    typo = local(date(2052, 3, 3), 9)
    table = [*rows, booking_row(scheduled_time=typo)]
    history = build(
        table,
        rules=DayRules(days=30, until=date(2025, 6, 1), day_start="08:00", horizon_min=480),
    )
    assert history.dates == ("2025-03-03",)
    assert history.facts["counts"]["rejected_by_reason"] == {"outside_period": 1}


def test_a_wall_time_that_the_clocks_skipped_is_rejected(booking_row, rows):
    for row in rows:
        row["scheduled_time"] = row["scheduled_time"].strftime("%Y-%m-%d %H:%M")
        row["created_at"] = "2025-02-01 08:00"
    table = [*rows, booking_row(scheduled_time="2025-03-30 02:30", created_at="2025-02-01 08:00")]
    history = validate(from_rows(table, naive_times="Europe/Zurich"))
    assert history.rejections.counts() == {"not_a_time": 1}


def test_nothing_left_is_an_error(rows):
    with pytest.raises(DataError, match="outside_operating_day 30"):
        build(rows, rules=DayRules(day_start="02:00", horizon_min=60))


def test_the_operating_day_is_inferred_in_whole_hours(booking_row):
    table = []
    for minute in range(6 * 60 + 20, 17 * 60 + 40, 4):
        at = local(date(2025, 3, 3), minute // 60, minute % 60)
        table.append(booking_row(scheduled_time=at, created_at=at - timedelta(hours=30)))
    history = build(table, rules=DayRules())
    assert (history.day_start, history.horizon_min) == ("06:00", 780.0)


@pytest.mark.parametrize("rules", [DayRules(day_start="25:00"), DayRules(horizon_min=0)])
def test_an_impossible_operating_day_is_one_sentence(rows, rules):
    with pytest.raises(UsageError):
        build(rows, rules=rules)


def test_fields_of_a_day(booking_row):
    at = local(date(2025, 3, 3), 10)
    usual = booking_row(scheduled_time=at, created_at=at - timedelta(hours=4), priority=5)
    urgent = booking_row(scheduled_time=at, created_at=at - timedelta(hours=2), is_urgent=True)
    now = booking_row(scheduled_time=at, created_at=at - timedelta(minutes=8))
    late_entry = booking_row(scheduled_time=at, created_at=at + timedelta(minutes=20))
    off = booking_row(
        scheduled_time=at,
        created_at=at - timedelta(hours=3),
        cancelled_at=at - timedelta(minutes=45),
        is_return="yes",
    )
    day = build([usual, urgent, now, late_entry, off]).day("2025-03-03")
    bookings = day.bookings
    assert bookings["created_min"].tolist() == [-120, -60, 0, 112, 140]
    assert bookings["promised_min"].tolist() == [120, 120, 120, 120, 140]
    assert bookings["window_end_min"].tolist() == [135, 135, 135, 135, 155]
    assert bookings["immediate"].tolist() == [False, False, True, True, True]
    assert bookings["cancelled_min"].tolist() == [np.inf, 75, np.inf, np.inf, np.inf]
    assert bookings["is_return"].tolist() == [False, True, False, False, False]
    assert np.isnan(bookings["fare"]).all()
    assert (bookings["trip_noise"] == 1).all()
    assert (bookings["pickup_service_min"] == 5).all()


DRIVERS = [
    {"id": 1, "shift_start": time(7), "shift_end": time(15), "home_lat": 46.2, "home_lon": 6.1},
    {"id": 2, "is_active": False, "driver_type": "EMERGENCY", "wheelchair_vehicle": True},
    {"id": 3, "shift_start": "20:00", "shift_end": "23:00"},
]


def test_who_worked_that_day_is_on_duty(rows):
    rows[0]["driver_id"] = 1
    rows[1]["driver_id"] = 2  # has left since, but drove that day
    drivers = build(rows, DRIVERS).day("2025-03-03").drivers
    assert drivers["shift_start_min"].tolist() == [0, 0]
    assert drivers["shift_end_min"].tolist() == [420, 480]
    assert drivers["emergency"].tolist() == [False, True]
    assert drivers["lat"][0] == 46.2
    assert 46.19 < drivers["lat"][1] < 46.23  # home unknown: the middle of the demand
    assert np.isinf(drivers["breakdown_min"]).all()


def test_without_assignments_every_active_driver_is_on_duty_within_the_day(rows):
    drivers = build(rows, DRIVERS).day("2025-03-03").drivers
    assert len(drivers) == 1  # 2 has left, 3 works at night


def test_a_faulty_driver_row_is_rejected_with_its_reason(rows):
    history = validate(from_rows(rows))
    raw = from_rows(
        rows,
        drivers=[
            {"id": 1, "home_lat": 6.1, "home_lon": 46.2},
            {"id": 2, "shift_start": "late", "shift_end": "08:00"},
            {"id": None},
            {"id": 4, "is_active": "perhaps"},
            {"id": 5},
            {"id": 5},
        ],
    )
    assert [driver.key for driver in known_drivers(raw, history, None)] == ["5"]
    reasons = [reason.value for _, reason, _ in history.rejections.drivers]
    assert reasons == [
        "far_from_everything",
        "not_a_shift",
        "missing_field",
        "not_yes_or_no",
        "duplicate_id",
    ]


def test_a_source_without_drivers_gets_an_assumed_fleet_and_says_so(rows):
    history = build(rows)
    assert history.facts["counts"]["drivers_assumed"]
    assert len(history.day("2025-03-03").drivers) == 4  # 30 bookings at 8.5 a driver


def test_drivers_known_from_assignments_alone_work_the_whole_day(rows):
    for i, row in enumerate(rows):
        row["driver_id"] = f"d{i % 3}"
        row["wheelchair_need"] = i == 0
    drivers = build(rows).day("2025-03-03").drivers
    assert drivers["shift_end_min"].tolist() == [480, 480, 480]
    assert drivers["wheelchair"].tolist() == [True, False, False]


@given(st.integers(1, 400))
def test_splits_follow_the_calendar(days):
    split = split_by_calendar(days)
    assert (np.diff(split) >= 0).all()
    assert split[0] == 0
    if days >= 3:
        assert set(split) == {0, 1, 2}
        assert abs((split == 2).sum() - 0.2 * days) < 1
        assert abs((split == 1).sum() - 0.1 * days) < 1
    else:
        assert not split.any()


def test_a_split_without_days_is_one_sentence(rows):
    history = build(rows)
    assert history.labels(Split.TRAIN) == ["2025-03-03"]
    with pytest.raises(DataError, match="no test day"):
        history.labels(Split.TEST)
