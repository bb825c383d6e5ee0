"""Periods: one name for the same piece of time, whoever asks and whenever within it."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learning.periods import Calendar, Daily, Entry, Every, Job, job_of, jobs_now
from services.rl.errors import UsageError

ZURICH = Calendar(ZoneInfo("Europe/Zurich"), 5.0)
INSTANTS = st.integers(0, 3 * 366 * 86_400).map(
    lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
CADENCES = st.sampled_from(
    [Every(None), Every(60.0), Every(0.05), Daily(time(2, 0)), Daily(time(2, 30)), Daily(time(0))]
)
ZONES = st.sampled_from(["Europe/Zurich", "Asia/Kolkata", "America/New_York", "Pacific/Apia"])


@given(INSTANTS, CADENCES, ZONES)
def test_an_instant_lies_in_its_period_and_its_key_names_it(now, cadence, zone):
    calendar = Calendar(ZoneInfo(zone), 5.0)
    period = calendar.period(cadence, now)
    assert period.begin <= now < period.end
    assert calendar.of_key(cadence, period.key) == period
    assert len(period.key) <= 40
    # The next one follows at once, under another name.
    later = calendar.period(cadence, period.end)
    assert later.begin == period.end and later.key != period.key
    last = calendar.period(cadence, period.end - timedelta(microseconds=1))
    assert last.key == period.key


def test_keys_are_told_on_the_companys_clock():
    now = datetime(2026, 7, 1, 23, 47, tzinfo=UTC)
    assert ZURICH.period(Every(None), now).key == "2026-07-02T01:45+02:00"
    assert ZURICH.period(Every(60.0), now).key == "2026-07-02T01:00+02:00"
    assert ZURICH.period(Daily(time(2, 0)), now).key == "2026-07-01"  # it is not two yet
    assert ZURICH.period(Daily(time(1, 15)), now).key == "2026-07-02"


def test_the_night_of_the_changed_clocks_has_one_run_and_the_hour_that_comes_twice_two_keys():
    nights = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1, 2)]
    assert {ZURICH.period(Daily(time(2, 0)), now).key for now in nights} == {"2026-10-25"}
    keys = [ZURICH.period(Every(60.0), now).key for now in nights[:2]]
    assert keys == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]
    spring = ZURICH.of_key(Daily(time(2, 30)), "2026-03-29")  # half past two does not exist
    assert spring.begin == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


ENTRY = Entry("collection", "t", Every(60.0))


def test_jobs_are_for_each_company_or_one_for_all():
    now = datetime(2026, 7, 1, 10, 5, tzinfo=UTC)
    jobs = list(jobs_now(ENTRY, now, ZURICH, [3, 7]))
    assert [job.key for job in jobs] == ["3/2026-07-01T12:00+02:00", "7/2026-07-01T12:00+02:00"]
    assert job_of(ENTRY, jobs[1].key, ZURICH) == jobs[1]
    alone = Entry("report", "t", Daily(time(1)), per_company=False)
    assert [job.key for job in jobs_now(alone, now, ZURICH, [])] == ["2026-07-01"]
    assert Job(alone, jobs[0].period, None).scope == ""


def test_what_was_missed_in_the_night_is_not_begun_in_the_afternoon():
    nightly = Entry("retraining", "t", Daily(time(2)), catch_up_min=480.0)
    morning, afternoon = (datetime(2026, 7, 1, h, tzinfo=UTC) for h in (7, 14))
    assert len(list(jobs_now(nightly, morning, ZURICH, [3]))) == 1
    assert not list(jobs_now(nightly, afternoon, ZURICH, [3]))


@pytest.mark.parametrize("key", ["2026-07-01", "x/2026-07-01T12:00+02:00", "3/noon", "3/", "/"])
def test_a_key_that_names_no_run_is_refused(key):
    with pytest.raises(UsageError):
        job_of(ENTRY, key, ZURICH)
