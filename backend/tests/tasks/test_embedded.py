"""The schedule in one process: every period once, dispatching beside training, clean stops."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from models.learning import DeadLetter, TaskRun
from services.learning.bodies import BODIES, plain
from services.learning.embedded import Embedded
from services.learning.periods import TRAIN
from services.learning.running import carry_out, due
from services.learning.training_process import BACKEND, TrainingProcess, environment_of
from services.rl.errors import DataError
from tasks.schedule import SCHEDULE, entry_named

from . import bodies_apart
from .conftest import COMPANIES


class Bodies(dict):
    """Bodies that write down what they are asked for."""

    def __init__(self):
        self.done = []
        super().__init__({entry.name: self._noting for entry in SCHEDULE})

    def _noting(self, place, job):
        self.done.append((job.entry.name, job.key))
        return {"thread": threading.current_thread().name}

    def count(self, name):
        return sum(each == name for each, _ in self.done)


def rows(place, task=None):
    with place.loop.database.reading() as session:
        found = session.scalars(select(TaskRun).order_by(TaskRun.task, TaskRun.period_key))
        return [row for row in found if task in (None, row.task)]


def test_a_day_by_the_clock_does_every_period_once(place):
    bodies = Bodies()
    embedded = Embedded(place, SCHEDULE, bodies, in_background=False, apart=False)
    for _ in range(48):
        embedded.step(whatever=True)
        embedded.step(whatever=True)
        place.loop.clock.advance(minutes=30)
    assert len(bodies.done) == len(set(bodies.done))
    counts = {name: bodies.count(name) for name in BODIES}
    assert counts == {
        "tick": 2 * 48, "guardrails": 48, "collection": 2 * 24, "rollout": 2 * 24,
        "retraining": 2, "purge": 2,
        "report": 2,
    }  # fmt: skip
    assert {row.state for row in rows(place)} == {"done"}


def test_a_late_tick_is_skipped_and_counted_and_a_late_collection_is_not(place):
    tick, collection = entry_named("tick"), entry_named("collection")
    bodies = Bodies()
    waiting = [*due(place, tick), *due(place, collection)]
    place.loop.clock.advance(minutes=61)
    outcomes = [carry_out(place, job, bodies[job.entry.name]) for job in waiting]
    assert [o.state for o in outcomes] == ["skipped"] * 2 + ["done"] * 2
    assert bodies.count("tick") == 0
    assert {row.result["skipped"] for row in rows(place, "tick")} == {outcomes[0].error}


def test_one_companys_failure_stops_nobody_and_is_tried_again_until_it_is_a_letter(place):
    entry = replace(entry_named("collection"), most_attempts=3)
    bodies = Bodies()
    noted = bodies["collection"]

    def failing(place, job):
        if job.company_id == COMPANIES[0]:
            raise DataError("the log is damaged")
        return noted(place, job)

    bodies["collection"] = failing
    embedded = Embedded(place, [entry], bodies, in_background=False)
    states = [{o.job.company_id: o.state for o in embedded.step(whatever=True)} for _ in range(4)]
    assert states == [{3: "failed", 7: "done"}, {3: "failed"}, {3: "dead"}, {}]
    with place.loop.database.reading() as session:
        (letter,) = session.scalars(select(DeadLetter))
    assert (letter.error, letter.attempts) == ("the log is damaged", 3)


def test_a_failed_run_of_an_earlier_period_is_tried_again(place):
    entry = replace(entry_named("collection"), alone=False)
    (first, _) = due(place, entry)
    carry_out(place, first, lambda *_: 1 / 0)
    (row,) = rows(place)
    assert row.error.startswith("ZeroDivisionError: division by zero (")
    place.loop.clock.advance(minutes=60)
    assert next(job.key for job in due(place, entry)) == first.key
    assert len(due(place, entry)) == 3


def test_ticks_go_on_while_something_long_is_at_work(place):
    bodies, going, go_on = Bodies(), threading.Event(), threading.Event()

    def long(place, job):
        going.set()
        assert go_on.wait(30)
        return {}

    bodies["collection"] = long
    embedded = Embedded(place, [entry_named("collection"), entry_named("tick")], bodies)
    embedded.step()
    assert going.wait(30)
    for _ in range(3):
        place.loop.clock.advance(minutes=5)
        embedded.step()
    assert bodies.count("tick") == 2 * 4
    go_on.set()
    assert embedded.wait(30)
    embedded.close()
    assert {row.state for row in rows(place, "collection")} == {"done"}


def test_standing_by_leaves_an_epoch_to_others_for_a_while(place):
    bodies = Bodies()
    embedded = Embedded(place, [entry_named("tick")], bodies, stand_by_s=90.0)
    assert not embedded.step(whatever=True)  # a minute into the epoch
    place.loop.clock.advance(seconds=31)
    assert len(embedded.step(whatever=True)) == 2


def test_a_database_that_is_away_costs_a_round_not_the_loop(place, monkeypatch):
    bodies, told, rounds = Bodies(), [], []
    embedded = Embedded(place, [entry_named("tick")], bodies)
    monkeypatch.setattr("services.learning.embedded.POLL_S", 0.01)
    real = place.companies

    def companies():
        rounds.append(1)
        if len(rounds) == 1:
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))
        return real()

    monkeypatch.setattr(place, "companies", companies)
    stop = threading.Event()
    embedded.run(stop=stop, alive=stop.set, on_trouble=told.append)
    assert told == ["server closed the connection"] and bodies.count("tick") == 2


RETRAINING = replace(entry_named("retraining"), per_company=False)
"""Without a company there is no log to fill the child's memory from."""


def night(place):
    place.loop.clock.advance(minutes=-4 * 60)
    assert RETRAINING.queue == TRAIN


def test_training_is_a_process_of_its_own_and_its_result_comes_back(place):
    night(place)
    embedded = Embedded(place, [RETRAINING], {"retraining": bodies_apart.told})
    embedded.step()
    assert embedded.wait(60)
    embedded.close()
    (row,) = rows(place)
    assert row.state == "done", row.error
    assert row.result == {
        "company": None, "key": row.period_key, "now": place.loop.clock.now().isoformat(),
        "zone": "Europe/Zurich", "torch": False, "modules": False,
    }  # fmt: skip


def test_a_training_that_fails_says_why(place):
    night(place)
    embedded = Embedded(
        place, [RETRAINING], {"retraining": bodies_apart.refused}, in_background=False
    )
    (outcome,) = embedded.step()
    assert outcome.state == "failed"
    assert outcome.error.endswith("there is no champion to begin from")


def test_a_stop_ends_a_training_at_once_and_does_not_count_it(place):
    night(place)
    begun = place.loop.home / "training.begun"
    embedded = Embedded(place, [RETRAINING], {"retraining": bodies_apart.endless})
    embedded.step()
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    embedded.close()
    (row,) = rows(place)
    assert (row.state, row.attempts, row.error) == ("failed", 0, "stopped by a person")
    assert len(due(place, RETRAINING)) == 1


def test_a_training_past_its_limit_is_ended(place):
    night(place)
    short = replace(RETRAINING, limit_min=1 / 60, trainings=0)
    embedded = Embedded(place, [short], {"retraining": bodies_apart.endless}, in_background=False)
    (outcome,) = embedded.step()
    assert outcome.error == "it took longer than 0 minutes"


def test_results_are_plain_values_that_every_database_takes(place):
    assert plain({"a": float("nan"), "at": timedelta(1), 3: [float("inf"), 1.5]}) == {
        "a": None, "at": "1 day, 0:00:00", "3": [None, 1.5],
    }  # fmt: skip


def test_nothing_here_brings_celery_or_torch():
    code = (
        "import sys, services.learning.embedded, services.learning.bodies, tasks.schedule; "
        "print({'celery', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("name", [entry.name for entry in SCHEDULE])
def test_every_entry_has_a_body(name):
    assert callable(BODIES[name])


def test_a_training_ends_with_a_parent_that_was_killed(place, tmp_path):
    """Two trainings at once, one of them for nobody, would share the night's folder."""
    night(place)
    place.loop.database.dispose()
    job = tmp_path / "job.json"
    TrainingProcess(bodies_apart.endless)._describe(job, place.loop, due(place, RETRAINING)[0])
    parent = (
        "import json, os, pathlib, subprocess, sys\n"
        "job = pathlib.Path(sys.argv[1])\n"
        "job.write_text(json.dumps({**json.loads(job.read_text()), 'parent': os.getpid()}))\n"
        "child = [sys.executable, '-m', 'services.learning.training_process', str(job)]\n"
        "print(subprocess.Popen(child).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, **environment_of(place.loop.config), "PYTHONPATH": str(BACKEND)}
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(job)],
        env={**environment, "ATMR_HOME": str(place.loop.home)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(process.stdout.readline())
    begun = place.loop.home / "training.begun"
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert begun.exists()
    process.kill()
    process.communicate()
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
