"""Housekeeping's bodies on rows: yesterday in numbers, old rows gone, ticks that tell."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select

from models import Assignment, Booking, Decision, Driver
from models.learning import CollectionMark, TaskRun
from services.dispatching.fates import DispatchError
from services.learning import task_runs
from services.learning.bodies import BODIES, clear_away
from services.learning.daily_report import report_day
from services.learning.running import carry_out, due
from tasks.schedule import entry_named
from tests.rows import a_decision, a_snapshot

from .conftest import COMPANIES

YESTERDAY = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


def job_for(place, name):
    return due(place, entry_named(name))[0]


def a_day(place):
    """Company 3: one on time, one late by the learned arm, one that nobody served."""
    with place.loop.database.writing() as session:
        driver_id = session.scalar(select(Driver.id).where(Driver.company_id == COMPANIES[0]))
        for n, (late_min, arm) in enumerate([(0, "heuristic"), (40, "rl"), (None, "rl")], start=1):
            session.add(
                Booking(
                    id=n, company_id=COMPANIES[0], pickup_lat=46.2, pickup_lon=6.14,
                    dropoff_lat=46.19, dropoff_lon=6.15, scheduled_time=YESTERDAY,
                    created_at=YESTERDAY - timedelta(days=1),
                    status="PENDING" if late_min is None else "COMPLETED",
                )
            )  # fmt: skip
            session.flush()
            session.add(
                a_decision(
                    f"{n:032x}", YESTERDAY, None, company_id=COMPANIES[0], booking_id=n, arm=arm,
                    driver_id=None if late_min is None else driver_id,
                    action="defer" if late_min is None else "assign",
                    fallback_reason="deadline" if n == 2 else None,
                )
            )  # fmt: skip
            if late_min is not None:
                at = YESTERDAY + timedelta(minutes=late_min)
                session.add(
                    Assignment(
                        booking_id=n, driver_id=driver_id, assigned_at=YESTERDAY,
                        status="COMPLETED", actual_pickup_at=at, actual_dropoff_at=at,
                    )
                )  # fmt: skip
        session.add(
            CollectionMark(
                company_id=COMPANIES[0], decided_before=YESTERDAY, changes_before=YESTERDAY,
                counts={"put": 2}, updated_at=YESTERDAY,
            )
        )  # fmt: skip


def test_yesterdays_report_adds_up_in_both_forms(place):
    a_day(place)
    now = place.loop.clock.now()
    place.loop.clock.set(YESTERDAY)
    run = task_runs.begin(
        place.loop.database, place.loop.clock, "retraining", "3/2026-03-01", most_attempts=1,
        lease=timedelta(minutes=1),
    )  # fmt: skip
    task_runs.finish(run, {"verdict": "no candidate"})
    place.loop.clock.set(now)
    outcome = carry_out(place, job_for(place, "report"), BODIES["report"])
    assert outcome.result == {"date": "2026-03-01", "bookings": 3}, outcome
    folder = place.loop.home / "results" / "reports"
    report = json.loads((folder / "2026-03-01.json").read_text())
    (company,) = report["companies"]
    assert company["outcomes"] == {"late": 1, "on_time": 1, "unserved": 1}
    assert company["by_arm"] == {
        "heuristic": {"on_time": 1}, "rl": {"late": 1, "unserved": 1},
    }  # fmt: skip
    assert company["fallbacks"] == {"deadline": 1} and company["decisions"] == 3
    assert company["last_collection"]["counts"] == {"put": 2}
    assert report["tasks"] == {"retraining": {"done": 1}}
    text = (folder / "2026-03-01.md").read_text()
    assert "| 3 | 3 | 1 | 1 | 1 | 0 | 0 | 1 |" in text
    assert "retraining 3/2026-03-01: done, no candidate" in text
    first = report | {"made_at": ""}
    report_day(place, job_for(place, "purge"))  # again: the same
    assert json.loads((folder / "2026-03-01.json").read_text()) | {"made_at": ""} == first | {
        "tasks": {"retraining": {"done": 1}}
    }
    assert not list(folder.glob(".*"))


def test_the_purge_keeps_what_the_settings_keep(place):
    old = place.loop.clock.now() - timedelta(days=500)
    with place.loop.database.writing() as session:
        session.add(snapshot := a_snapshot(old))
        session.flush()
        session.add(a_decision("1" * 32, old, snapshot.id))
        session.add(
            TaskRun(task="tick", period_key="3/old", state="done", started_at=old, heartbeat_at=old)
        )

    def decisions():
        with place.loop.database.reading() as session:
            return session.scalar(select(func.count()).select_from(Decision))

    assert clear_away(place, job_for(place, "purge")) == {"task_run": 1}
    assert decisions() == 1  # nothing says how long to keep them
    changed = place.loop.config.model_copy(update={"purge_after_days": 400})
    object.__setattr__(place.loop, "config", changed)
    counts = clear_away(place, job_for(place, "purge"))
    assert counts["decision"] == counts["fleet_snapshot"] == 1 and decisions() == 0


def test_a_tick_that_cannot_dispatch_says_why(place, monkeypatch):
    class Busy:
        database, now = place.loop.database, place.loop.clock.now

        def dispatch(self, company_id):
            raise DispatchError("the fleet changes faster than it can be decided")

    monkeypatch.setattr(place, "dispatcher", Busy)
    outcome = carry_out(place, job_for(place, "tick"), BODIES["tick"])
    assert outcome.state == "failed"
    assert outcome.error.startswith("not dispatched: the fleet changes faster")


def test_guardrails_are_looked_at_over_all_companies_and_a_breach_is_told(place, monkeypatch):
    assert carry_out(place, job_for(place, "guardrails"), BODIES["guardrails"]).result == {
        "stopped": {}
    }
    seen = []

    def look(company_ids, now):
        seen.append((company_ids, now))
        return {None: "late_rate", 7: "fallback_rate"}

    monkeypatch.setattr(place, "watches", lambda: SimpleNamespace(look=look))
    place.loop.clock.advance(minutes=5)
    outcome = carry_out(place, job_for(place, "guardrails"), BODIES["guardrails"])
    assert outcome.result["stopped"] == {
        "the default experiment": "late_rate", "company 7": "fallback_rate",
    }  # fmt: skip
    assert seen == [(list(COMPANIES), place.loop.clock.now())]


@pytest.mark.parametrize("state", ["begun twice", "stale"])
def test_a_tick_done_elsewhere_is_left_alone(place, state):
    job = job_for(place, "tick")
    entry = job.entry
    task_runs.begin(
        place.loop.database, place.loop.clock, entry.name, job.key, most_attempts=3,
        lease=timedelta(seconds=entry.lease_s), machine=place.machine, alone_among=job.scope,
    )  # fmt: skip
    if state == "stale":
        place.machine.advance(seconds=entry.lease_s + 1)
    outcome = carry_out(place, job, lambda *_: {})
    assert outcome.state == {"begun twice": "elsewhere", "stale": "done"}[state]
