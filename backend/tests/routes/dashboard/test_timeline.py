""" "Why late?": the sentence follows from the log, cause by cause."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from models import Assignment, Booking, Commitment
from routes.dashboard.formats import Formats
from routes.dashboard.timeline import Story, moments, why
from routes.dashboard.told import Teller
from routes.dashboard.words import words_of
from services.dispatching.outcomes import outcome_of

from ...rows import a_commitment, a_decision
from ..conftest import GENEVA

PROMISED = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)  # 11:00 in Geneva, minute 180
NOW = PROMISED + timedelta(hours=3)


def at(minutes):
    return PROMISED + timedelta(minutes=minutes)


def decided(minute, driver=None, *, pickup=None, by=None, **changes):
    """A decision ``minute`` after the promise; ``pickup`` is planned so many minutes after it."""
    features = None if pickup is None else {
        "pickup_min": 180.0 + pickup, "late_min": max(0.0, pickup - 15.0), "drive_min": 9.0,
        "deadhead_km": 3.0,
    }  # fmt: skip
    return a_decision(
        f"{minute + 1000:032d}", at(minute), 1, driver_id=driver, features=features,
        action="defer" if driver is None else "assign", source=changes.pop("source", "policy"),
        must_decide_by=None if by is None else at(by), decide_again_at=at(minute + 5),
        shadow=False, **changes,
    )  # fmt: skip


def story(decisions, *, picked_up=None, asked=-300, commitment=False, status="COMPLETED"):
    booking = Booking(
        id=1, company_id=1, pickup_lat=46.2, pickup_lon=6.1, dropoff_lat=46.2, dropoff_lon=6.1,
        scheduled_time=PROMISED, created_at=at(asked), status=status, priority=3,
        is_urgent=False, wheelchair_need=False, is_return=False,
    )  # fmt: skip
    came = [] if picked_up is None else [
        Assignment(id=1, booking_id=1, driver_id=4, assigned_at=at(-30), status="COMPLETED",
                   actual_pickup_at=at(picked_up), actual_dropoff_at=at(picked_up + 20))
    ]  # fmt: skip
    has: Commitment | None = a_commitment(1, at(0), driver_id=4) if commitment else None
    outcome = outcome_of(booking, came, decisions, NOW, GENEVA.rules)
    return Story(booking, decisions, came, has, None, outcome)


def said(a_story, language="en"):
    fmt = Formats(language, ZoneInfo("Europe/Zurich"))
    return " ".join(why(a_story, Teller(words_of(language), fmt, GENEVA.rules)))


LATE = {
    "on the road": (
        story([decided(-30, 4, pickup=5)], picked_up=28),
        "The plan was good (pickup planned at 11:05); 23 min were lost on the road",
    ),
    "decided late": (
        story([decided(-60, by=2), decided(-5, by=2), decided(6, 4, pickup=25)], picked_up=25),
        "had to be decided by 11:02 and was only at 11:06, after 2 deferrals",
    ),
    "nobody free": (
        story([decided(-60), decided(-30, 4, pickup=30)], picked_up=30),
        "At the first decision (10:00) no driver could be there within the window",
    ),
    "planned late": (
        story([decided(-30, 4, pickup=24, by=1)], picked_up=24),
        "The delay was planned: at 10:30 driver 4 could not be there before 11:24",
    ),
    "short notice": (
        story([decided(-20, 4, pickup=40)], picked_up=40, asked=-20),
        "booked 20 min before the promised time",
    ),
    "at once": (
        story([decided(0, 4, pickup=40)], picked_up=40, asked=0),
        "asked for at once, and driver 4 could not be there before 11:40",
    ),
    "a person": (
        story([decided(-30, 2, pickup=5), decided(-10, 4, pickup=22, source="human",
               reason_code="traffic")], picked_up=22),
        "A person changed the driver (traffic) at 10:50",
    ),
    "kept waiting": (
        story([decided(-60, by=2), decided(20)], status="UNASSIGNED"),
        "deferred 2 times; until 11:02 a driver could still be there",
    ),
    "nobody could": (
        story([decided(-60), decided(20)], status="UNASSIGNED"),
        "At the first decision (10:00) no driver",
    ),
    "driver did not come": (
        story([decided(-30, 4, pickup=0)], commitment=True, status="ASSIGNED"),
        "Driver 4 had it (pickup planned at 11:00), but no pickup was told",
    ),
    "forgotten": (story([], status="UNASSIGNED"), "No decision was made about it"),
    "elsewhere": (story([], picked_up=30), "The log does not say why"),
}  # fmt: skip


@pytest.mark.parametrize("cause", LATE)
def test_the_cause_is_told(cause):
    a_story, expected = LATE[cause]
    assert a_story.outcome.fate in ("late", "unserved")
    assert expected in said(a_story)
    assert said(a_story, "fr") != said(a_story)


def test_what_was_on_time_needs_no_cause():
    told = said(story([decided(-30, 4, pickup=0)], picked_up=3))
    assert told == "On time: picked up 3 min after the promised time."


def test_runs_of_deferrals_are_one_line_and_the_future_is_marked():
    fmt = Formats("en", ZoneInfo("Europe/Zurich"))
    teller = Teller(words_of("en"), fmt, GENEVA.rules)
    deferrals = [decided(m, by=0) for m in range(-60, -30, 5)]
    lines = moments(story(deferrals, status="PENDING"), teller, at(-30))
    assert [m.words for m in lines][1] == "Deferred 6 times until 10:25."
    assert [m.ahead for m in lines] == [False, False, True, True]
