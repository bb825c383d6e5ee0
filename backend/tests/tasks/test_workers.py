"""Two workers, one for training, two beats and two API processes at once, on real servers."""

import contextlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select

from clock import SystemClock
from extensions import Database
from models import Decision
from models.learning import DeadLetter, TaskRun
from scripts.rl.busy_companies import fill, zone_of_day
from scripts.rl.served_app import ServedApp, has_torch
from services.rl.simulation.scenarios import load_scenario

from ..postgres_server import PostgresServer, find_binaries
from ..redis_server import RedisServer, find_redis
from .workers import Child, beat, wait_until, worker

GENEVA = load_scenario("geneva")
COMPANIES = (1, 2)


@dataclass
class Site:
    database: Database
    redis: RedisServer
    home: Path
    workers: list[Child]
    trainer: Child
    beats: list[Child]
    apis: list[ServedApp]

    def runs(self, task, state=None):
        with self.database.reading() as session:
            query = select(TaskRun).where(TaskRun.task == task).order_by(TaskRun.started_at)
            return [r for r in session.scalars(query) if state is None or r.state == state]

    def trace(self):
        """(task, key) of every time that a body was begun."""
        path = self.home / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(line.split()[:2]) for line in lines]

    def said(self):
        children = [*self.workers, self.trainer, *self.beats]
        return "\n".join(f"--- {c.folder.name}\n{c.said()[-3000:]}" for c in children)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    binaries, program = find_binaries(), find_redis()
    if binaries is None or program is None:
        pytest.skip("MISSING ROOT PACKAGE: no PostgreSQL or no Redis on this machine")
    folder = tmp_path_factory.mktemp("site")
    now = SystemClock().now()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(binaries))
        redis = stack.enter_context(RedisServer(program))
        database = Database(postgres.url)
        stack.callback(database.dispose)
        fill(database, GENEVA, now, companies=len(COMPANIES), bookings=20, unit="company")
        settings = {
            "ATMR_HOME": str(folder),
            "ATMR_DATABASE_URL": postgres.url,
            "ATMR_REDIS_URL": redis.url,
            "ATMR_TIMEZONE": zone_of_day(now, GENEVA),
        }
        started = [worker(folder / f"worker{n}", settings, processes=3 - n) for n in (1, 2)]
        trainer = worker(folder / "trainer", settings, queue="train", processes=1)
        beats = [beat(folder / f"beat{n}", settings) for n in (1, 2)]
        for child in (*started, trainer, *beats):
            stack.enter_context(child)
        apis = []
        for n in (1, 2):
            (folder / f"api{n}").mkdir()
            apis.append(ServedApp(folder / f"api{n}", settings, workers=1))
        with ThreadPoolExecutor(2) as pool:  # both at once
            list(pool.map(stack.enter_context, apis))
        yield Site(database, redis, folder, started, trainer, beats, apis)


def test_each_period_is_done_once_by_somebody_and_bookings_are_dispatched(site):
    def enough():
        often = Counter(row.period_key.split("/")[0] for row in site.runs("often", "done"))
        return (
            {r.period_key.split("/")[0] for r in site.runs("tick", "done")} == {"1", "2"}
            and len(site.runs("collection", "done")) >= len(COMPANIES)
            and all(often[str(company)] >= 3 for company in COMPANIES)
        )

    wait_until(enough, what=site.said)
    begun = Counter(site.trace())
    done = [run for task in ("often", "collection") for run in site.runs(task, "done")]
    assert {begun[run.task, run.period_key] for run in done} == {1}
    assert {run.attempts for run in done} == {1}
    hours = Counter(key for task, key in begun.elements() if task == "collection")
    assert set(hours.values()) == {1}
    with site.database.reading() as session:
        dispatched = session.execute(
            select(Decision.company_id, func.count()).group_by(Decision.company_id)
        ).all()
    assert {company: count >= 20 for company, count in dispatched} == {1: True, 2: True}
    pids = {run.result["by"] for run in done}
    assert len(pids) > 1  # several processes shared the work


def test_both_servers_tell_the_same_of_the_runs(site):
    wait_until(lambda: site.runs("collection", "done"), what=site.said)
    for api in site.apis:
        text = api.get("/metrics")[1].decode()
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        assert float(lines['atmr_task_runs{state="done",task="collection"}']) >= len(COMPANIES)
        assert float(lines['atmr_task_last_done_age_seconds{task="collection"}']) >= 0


def test_torch_is_in_the_training_workers_process_only(site):
    wait_until(lambda: len(site.runs("retraining", "done")) == len(COMPANIES), what=site.said)
    assert {run.result["threads"] for run in site.runs("retraining")} == {1}
    for child in (*site.workers, *site.beats):
        assert not [pid for pid in child.pids() if has_torch(pid)]
    assert not has_torch(site.trainer.pid)  # only its pool's process, which it can replace
    assert any(has_torch(pid) for pid in site.trainer.pids())


def test_a_task_that_always_kills_its_worker_ends_as_a_dead_letter(site):
    (run,) = wait_until(lambda: site.runs("deadly", "dead"), what=site.said)
    assert run.attempts == 2
    with site.database.reading() as session:
        (letter,) = session.scalars(select(DeadLetter).where(DeadLetter.task == "deadly"))
    assert letter.attempts == 2 and "its worker was lost" in letter.error
    assert [task for task, _ in site.trace()].count("deadly") == 2
    told = wait_until(lambda: _degraded(site).get("dead_letters"), 15)
    assert "wait for a person" in told


def test_a_worker_killed_in_mid_task_another_does_it(site):
    hanging = site.home / "hanging"
    wait_until(lambda: hanging.exists() and hanging.read_text().count(" "), what=site.said)
    body, master = (int(word) for word in hanging.read_text().split())
    (victim,) = [child for child in site.workers if child.pid == master]
    victim.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(body, 9)
    (run,) = wait_until(lambda: site.runs("hanging", "done"), what=site.said)
    assert run.attempts == 2 and run.result["by"] != body


def test_the_broker_away_for_a_while_and_forgetting_everything_nothing_is_lost(site):
    wait_until(lambda: site.runs("collection", "done"), what=site.said)
    site.redis.stop()
    before = Counter(site.trace())
    with site.database.writing() as session:  # as if this hour had begun while it is away
        session.execute(delete(TaskRun).where(TaskRun.task == "collection"))
    told = wait_until(lambda: _degraded(site).get("replay_store"), 20)
    assert "does not answer" in told
    assert all(child.process.poll() is None for child in site.beats)
    site.redis.start()  # empty: what was queued is gone
    wait_until(lambda: len(site.runs("collection", "done")) >= len(COMPANIES), what=site.said)
    again = Counter(site.trace()) - before
    assert {count for (task, _), count in again.items() if task == "collection"} == {1}


def test_each_process_gives_signs_of_life(site):
    for child in [*site.workers[1:], site.trainer]:
        assert list(child.folder.glob("atmr-worker.alive")), child.folder.name
    assert all(list(child.folder.glob("atmr-beat.alive")) for child in site.beats)


def _degraded(site):
    return json.loads(site.apis[0].get("/readyz")[1])["degraded"]
