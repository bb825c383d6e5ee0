"""Runs of tasks: each period once, lost runs taken over, what fails too often kept for a person."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from clock import FixedClock, SystemClock
from extensions import Database
from migrations import upgrade
from models.learning import DeadLetter, TaskRun
from services.learning import task_runs
from services.rl.errors import DataError, UsageError

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LEASE = timedelta(seconds=90)


class Place:
    """A database, and clocks that stand still."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        upgrade(self.database.engine)
        self.clock, self.machine = FixedClock(NOW), FixedClock(NOW)

    def begin(self, task="collection", key="7/09:00", **changes):
        given = {"most_attempts": 3, "lease": LEASE, "machine": self.machine, **changes}
        return task_runs.begin(self.database, self.clock, task, key, **given)

    def row(self, task="collection", key="7/09:00"):
        with self.database.reading() as session:
            return session.get(TaskRun, (task, key))

    def letters(self):
        with self.database.reading() as session:
            return list(session.scalars(select(DeadLetter).order_by(DeadLetter.id)))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request, tmp_path, atmr_home):
    url = f"sqlite:///{tmp_path / 'runs.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    made = Place(url)
    yield made
    made.database.dispose()


def test_a_period_is_done_once(place):
    run = place.begin()
    assert (run.attempt, run.token) == (1, 1)
    assert place.begin() is None
    assert place.begin(key="7/10:00") is not None
    place.clock.advance(minutes=2)
    assert task_runs.finish(run, {"put": 5})
    row = place.row()
    assert (row.state, row.result, row.error) == ("done", {"put": 5}, None)
    assert row.finished_at - row.started_at == timedelta(minutes=2)
    place.machine.advance(minutes=600)
    assert place.begin() is None


def test_many_who_begin_at_once_one_does(place):
    start, found = threading.Barrier(8), []

    def begin():
        start.wait()
        found.append(place.begin())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(run is not None for run in found) == 1 and len(found) == 8


def test_a_silent_run_is_taken_over_and_its_first_holder_cannot_end_it(place):
    first = place.begin()
    place.machine.advance(seconds=80)
    assert task_runs.heartbeat(first)
    place.machine.advance(seconds=80)
    assert place.begin() is None
    place.machine.advance(seconds=20)
    second = place.begin()
    assert (second.attempt, second.token) == (2, 2)
    assert not task_runs.heartbeat(first) and first.lost.is_set()
    assert not task_runs.finish(first, {"by": "first"})
    assert not task_runs.fail(first, "too late")
    assert place.row().state == "running"
    assert task_runs.finish(second, {"by": "second"})
    assert place.row().result == {"by": "second"}


def test_a_worker_lost_while_the_clock_was_ahead_blocks_nobody_once_it_is_right(place):
    """Else a company's ticks would stand still for as long as the clock was ahead."""
    place.machine.advance(minutes=60 * 24)  # a wrong time server
    assert place.begin("tick", "7/09:00", alone_among="7/") is not None  # and killed
    place.machine.set(NOW + timedelta(minutes=3))
    assert place.begin("tick", "7/09:05", alone_among="7/") is not None
    assert place.begin("tick", "7/09:10", alone_among="7/") is None  # that one is alive
    place.machine.advance(minutes=3)
    again = place.begin("tick", "7/09:00", alone_among="7/")
    assert again is not None and again.token == 2


def test_a_run_that_always_kills_its_worker_ends_as_a_dead_letter(place):
    for attempt in (1, 2, 3):
        assert place.begin(arguments={"company_id": 7}).attempt == attempt
        place.machine.advance(seconds=91)
    assert place.begin(arguments={"company_id": 7}) is None
    assert place.row().state == "dead"
    (letter,) = place.letters()
    assert (letter.attempts, letter.arguments) == (3, {"company_id": 7})
    assert letter.error == f"{task_runs.LOST} 3 times"
    place.machine.advance(seconds=91)
    assert place.begin() is None and len(place.letters()) == 1


def test_failures_are_tried_again_until_the_last_attempt(place):
    secret = DataError("no answer from redis://:hunter2secret@redis:6379/0")
    for attempt in (1, 2, 3):
        run = place.begin(arguments={"company_id": 7})
        assert run.attempt == attempt
        assert task_runs.fail(run, secret) == (attempt == 3)
    assert place.row().state == "dead" and place.begin() is None
    (letter,) = place.letters()
    assert letter.error == "no answer from redis://...@redis:6379/0"


def test_one_at_a_time_among_a_companys_runs_and_one_letter_for_all(place):
    first = place.begin("tick", "7/09:00", alone_among="7/")
    assert place.begin("tick", "7/09:05", alone_among="7/") is None
    assert place.begin("tick", "77/09:05", alone_among="77/") is not None
    task_runs.finish(first)
    for key in ("7/09:05", "7/09:10"):
        for _ in range(3):
            task_runs.fail(place.begin("tick", key, alone_among="7/"), "no driver")
    (letter,) = place.letters()
    assert (letter.period_key, letter.attempts) == ("7/09:10", 6)


def test_a_period_that_is_over_is_skipped_and_counted(place):
    def skip(key):
        return task_runs.skip(
            place.database, place.clock, "tick", key, "its epoch is over", lease=LEASE,
            scope="7/", machine=place.machine,
        )  # fmt: skip

    assert skip("7/09:00") and not skip("7/09:00")
    assert place.row("tick", "7/09:00").result == {"skipped": "its epoch is over"}
    assert not place.letters()
    place.begin("tick", "7/09:05")
    assert not skip("7/09:05")  # somebody is at it
    place.machine.advance(seconds=91)
    assert skip("7/09:05")
    (letter,) = place.letters()
    assert letter.error.startswith(task_runs.LOST)


def test_a_person_sends_a_dead_letter_again_or_closes_it(place):
    for _ in range(3):
        task_runs.fail(place.begin(), "no answer")
    (letter,) = place.letters()
    task_runs.close_letter(
        place.database, place.clock, letter.id, who="ana", why="database is back", again=True
    )
    assert place.begin().attempt == 1
    (letter,) = place.letters()
    assert (letter.closed_at, letter.closed_by) == (NOW, "ana")
    assert letter.arguments["closed"] == {"why": "database is back", "again": True}
    with pytest.raises(UsageError, match="was closed by ana"):
        task_runs.close_letter(place.database, place.clock, letter.id, who="ben", why="twice")
    with pytest.raises(UsageError, match="no dead letter 99"):
        task_runs.close_letter(place.database, place.clock, 99, who="ben", why="?")
    with place.database.reading() as session:
        assert task_runs.open_letters(session) == []


def test_signs_of_life_come_by_themselves(place):
    run = task_runs.begin(
        place.database, place.clock, "slow", "1", most_attempts=1,
        lease=timedelta(milliseconds=300), machine=SystemClock(),
    )  # fmt: skip
    told = place.row("slow", "1").heartbeat_at
    seen = threading.Event()
    with task_runs.heartbeating(run):
        for _ in range(200):
            if place.row("slow", "1").heartbeat_at > told + timedelta(milliseconds=300):
                seen.set()
                break
            threading.Event().wait(0.02)
    assert seen.is_set() and not run.lost.is_set()


def test_ended_runs_are_purged_and_dead_ones_stay(place):
    task_runs.finish(place.begin())
    for _ in range(3):
        task_runs.fail(place.begin(key="dead"), "no")
    assert task_runs.purge_runs(place.database, NOW) == 0
    assert task_runs.purge_runs(place.database, NOW + timedelta(days=1)) == 1
    assert place.row() is None and place.row(key="dead").state == "dead"
