"""Collection on PostgreSQL and Redis: restarts, and processes beside each other."""

import multiprocessing

import pytest

from clock import FixedClock
from config import Config
from services.learning.collector import collect, expected, rebuild
from services.learning.loop import open_loop
from services.learning.verification import verify
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.errors import AtmrError, DataError
from services.rl.simulation.scenarios import load_scenario
from tests.postgres_server import PostgresServer, find_binaries
from tests.redis_server import RedisServer, find_redis

from .conftest import loop_on
from .simulated_log import COMPANY, hire, log_day

pytestmark = pytest.mark.postgres
SMALL = load_scenario("geneva_small")


@pytest.fixture
def server():
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("MISSING ROOT PACKAGE: no PostgreSQL on this machine")
    with PostgresServer(binaries) as running:
        yield running


@pytest.fixture
def redis():
    program = find_redis()
    if program is None:
        pytest.skip("MISSING ROOT PACKAGE: no Redis on this machine")
    with RedisServer(program) as running:
        yield running


@pytest.fixture
def lived_on(server, tmp_path, atmr_home, clock, monday):
    loop = loop_on(server.url, tmp_path, SMALL, clock)
    with loop.database.writing() as session:
        hire(session, SMALL, monday)
        log_day(session, SMALL, 11, monday)
    yield loop
    loop.database.dispose()


def test_postgres_and_sqlite_give_the_same_experiences(lived_on, lived):
    ours = [(e.at, e.action, e.prior, e.terms, e.ending) for e in expected(lived_on, COMPANY)]
    theirs = [(e.at, e.action, e.prior, e.terms, e.ending) for e in expected(lived, COMPANY)]
    assert ours == theirs and ours


class _Restarting(MemoryReplayStore):
    """The database is restarted while a batch is written."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.calls = 0

    def put(self, company_id, experiences):
        self.calls += 1
        if self.calls == 1:
            self.server.stop()
            self.server.start()
        return super().put(company_id, experiences)


def test_a_database_restarted_during_collection_is_told_and_caught_up_with(
    lived_on, server, monkeypatch
):
    monkeypatch.setattr("services.learning.collector._BATCH", 20)
    loop = type(lived_on)(**{**vars(lived_on), "store": _Restarting(server)})
    with pytest.raises(DataError, match="the next collection catches up"):
        collect(loop, COMPANY)
    report = collect(loop, COMPANY)
    assert report.decisions and verify(loop, COMPANY).same


def _work(url, redis_url, moment, home, times, out):
    import os

    os.environ["ATMR_HOME"] = home
    config = Config(database_url=url, replay_url=redis_url, scenario="geneva_small")
    with open_loop(config, clock=FixedClock(moment)) as loop:
        for n in range(times):
            report = (rebuild if n == 1 else collect)(loop, COMPANY)
            out.put((report.decisions, report.experiences))


def test_two_processes_collect_at_once_and_redis_holds_what_sql_says(
    lived_on, server, redis, clock, tmp_path
):
    lived_on.database.dispose()
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    arguments = (server.url, redis.url, clock.now(), str(tmp_path), 3, out)
    workers = [context.Process(target=_work, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    done = [out.get(timeout=120) for _ in range(6)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(set(done)) == 1  # each of them saw, and wrote, everything
    config = Config(database_url=server.url, replay_url=redis.url, scenario="geneva_small")
    with open_loop(config, clock=clock) as loop:
        assert verify(loop, COMPANY).same


def test_a_redis_that_is_killed_is_told_and_filled_again(lived_on, server, redis, clock):
    config = Config(database_url=server.url, replay_url=redis.url, scenario="geneva_small")
    with open_loop(config, clock=clock) as loop:
        collect(loop, COMPANY)
        redis.kill()
        with pytest.raises(AtmrError, match="replay store"):
            collect(loop, COMPANY)
        redis.start()
        assert collect(loop, COMPANY).rebuilt and verify(loop, COMPANY).same
