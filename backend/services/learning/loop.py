"""What the loop's parts work with: opened once per process, by tasks, commands and the twin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clock import Clock, FileClock, SystemClock
from config import Config
from extensions import Database
from services.model_registry import SqlRegistry
from services.rl import paths
from services.rl.data.replay_store import ReplayStore
from services.rl.simulation.scenarios import Scenario, load_scenario


@dataclass(frozen=True)
class Loop:
    """One process's way to everything.

    Attributes:
        config: Settings.
        database: The truth.
        clock: The present moment.
        registry: Model versions.
        scenario: The world that is dispatched in.
        store: Experiences.
        home: ``ATMR_HOME``: reports under ``results/``, models under ``models/``.
    """

    config: Config
    database: Database
    clock: Clock
    registry: SqlRegistry
    scenario: Scenario
    store: ReplayStore
    home: Path


def clock_of(config: Config) -> Clock:
    """The machine's clock, or the twin's."""
    return SystemClock() if config.clock_file is None else FileClock(config.clock_file)


@contextmanager
def open_loop(
    config: Config | None = None,
    *,
    clock: Clock | None = None,
    store: ReplayStore | None = None,
) -> Iterator[Loop]:
    """Open everything, and close the database in the end.

    Args:
        config: Default: of the environment.
        clock: Default: what ``config`` says.
        store: Default: Redis where ``config`` names one, else this process's memory.

    Raises:
        AtmrError: If a setting or the scenario is wrong.
    """
    config = config or Config.from_environment()
    clock = clock or clock_of(config)
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        yield Loop(
            config=config,
            database=database,
            clock=clock,
            registry=SqlRegistry(database, clock, paths.home()),
            scenario=load_scenario(config.scenario),
            store=store or store_of(config),
            home=paths.home(),
        )
    finally:
        database.dispose()


def store_of(config: Config) -> ReplayStore:
    """The replay store that the settings name."""
    from services.rl.data.memory_replay import MemoryReplayStore
    from services.rl.data.redis_replay import RedisReplayStore

    url = config.replay_url or config.redis_url
    if url is None:
        return MemoryReplayStore(config.replay_capacity)
    return RedisReplayStore(
        url.get_secret_value(), prefix=config.replay_prefix, capacity=config.replay_capacity
    )
