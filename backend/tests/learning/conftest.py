"""A loop over a real SQLite database, with a clock that tests move."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from clock import FixedClock
from config import Config
from extensions import Database
from models import Base
from services.dispatching.operating_day import day_of
from services.learning.loop import Loop
from services.model_registry import SqlRegistry
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.simulation.scenarios import Scenario, load_scenario

from .simulated_log import ZONE_OF_TESTS, hire, log_day

MONDAY = date(2026, 3, 2)


def loop_on(url: str, home: Path, scenario: Scenario, clock: FixedClock, store=None) -> Loop:
    """A loop over a database of its own."""
    database = Database(url)
    Base.metadata.create_all(database.engine)
    config = Config(database_url=url, scenario="geneva_small")
    return Loop(
        config=config, database=database, clock=clock,
        registry=SqlRegistry(database, clock, home), scenario=scenario,
        store=MemoryReplayStore(config.replay_capacity) if store is None else store, home=home,
    )  # fmt: skip


@pytest.fixture
def small() -> Scenario:
    return load_scenario("geneva_small")


@pytest.fixture
def monday(small):
    return day_of(MONDAY, small.rules, ZONE_OF_TESTS)


@pytest.fixture
def clock(monday):
    return FixedClock(monday.start + timedelta(days=2))


@pytest.fixture
def empty(tmp_path, atmr_home, small, clock):
    """No rows yet."""
    made = loop_on(f"sqlite:///{tmp_path / 'loop.sqlite'}", tmp_path, small, clock)
    yield made
    made.database.dispose()


@pytest.fixture
def lived(empty, small, monday):
    """Monday of a small company, two days later."""
    with empty.database.writing() as session:
        hire(session, small, monday)
        log_day(session, small, 11, monday)
    return empty
