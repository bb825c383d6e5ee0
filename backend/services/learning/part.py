"""The loop as a part of an app: in workers what tasks work with, everywhere what is told of it."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from extensions import Database, Services
from models.learning import DeadLetter, TaskRun
from services.dispatching.part import PART as DISPATCHER
from services.dispatching.part import DispatcherPart
from services.model_registry import SqlRegistry
from services.rl import paths
from services.rl.data.redis_replay import RedisReplayStore
from services.rl.errors import AtmrError

from .loop import Loop, store_of
from .periods import Entry
from .running import Body
from .status import COLLECTION, LATE
from .workplace import Workplace

PART: Final = "learning"
_REMEMBERED_S: Final = 5.0
_WAITS_S: Final = 0.5  # for a Redis that does not answer; a health check waits no longer than 4 s
_STATES: Final = ("running", "done", "skipped", "failed", "dead")


class LearningPart:
    """What one process does tasks with, made at first use and again after a fork.

    Args:
        at_work: The app's services.
        schedule: What is done when; empty in a server that only tells of it.
        bodies: What each entry does.
    """

    def __init__(
        self, at_work: Services, schedule: Sequence[Entry], bodies: Mapping[str, Body]
    ) -> None:
        self.schedule = tuple(schedule)
        self.bodies = bodies
        self._at_work = at_work
        self._lock = threading.Lock()
        self._made: tuple[int, Workplace] | None = None
        self._told: dict[str, tuple[float, str | None]] = {}

    def workplace(self) -> Workplace:
        """This process's."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), self._workplace())
            return self._made[1]

    def entry(self, name: str) -> Entry:
        """The entry of a name."""
        return next(entry for entry in self.schedule if entry.name == name)

    def _workplace(self) -> Workplace:
        at_work = self._at_work
        registry = at_work.registry
        if not isinstance(registry, SqlRegistry):
            registry = SqlRegistry(at_work.database, at_work.clock)
        loop = Loop(
            config=at_work.config,
            database=at_work.database,
            clock=at_work.clock,
            registry=registry,
            scenario=at_work.scenario,
            store=store_of(at_work.config),
            home=paths.home(),
        )
        dispatcher = at_work.parts.get(DISPATCHER)
        give = dispatcher.get if isinstance(dispatcher, DispatcherPart) else None
        return Workplace(loop, dispatcher=give)

    # --- for /readyz: anybody may ask, as often as they like, so answers are kept for a moment ---

    def letters_open(self) -> str | None:
        """Whether tasks were given up that nobody has seen to."""
        return self._kept("letters", self._letters_open)

    def collection_late(self) -> str | None:
        """Whether collection, which once ran, has not for two periods."""
        return self._kept("collection", self._collection_late)

    def store_away(self) -> str | None:
        """Whether the replay store that the settings name does not answer."""
        return self._kept("store", self._store_away)

    def _kept(self, name: str, ask: Callable[[], str | None]) -> str | None:
        at, told = self._told.get(name, (-1e9, None))
        if time.monotonic() - at < _REMEMBERED_S:
            return told
        try:
            told = ask()
        except SQLAlchemyError:
            told = None  # the check of the database says so
        self._told[name] = (time.monotonic(), told)
        return told

    def _letters_open(self) -> str | None:
        count = open_letters(self._at_work.database)
        return f"{count} tasks were given up and wait for a person: task_runs.py" if count else None

    def _collection_late(self) -> str | None:
        with self._at_work.database.reading() as session:
            last = session.scalar(
                select(func.max(TaskRun.finished_at)).where(
                    TaskRun.task == COLLECTION, TaskRun.state == "done"
                )
            )
        if last is None or self._at_work.clock.now() - last <= LATE:
            return None
        return f"nothing was collected since {last:%Y-%m-%d %H:%M} UTC"

    def _store_away(self) -> str | None:
        config = self._at_work.config
        url = config.replay_url or config.redis_url
        if url is None:
            return None
        try:
            RedisReplayStore(url.get_secret_value(), timeout_s=_WAITS_S).counts(0)
        except AtmrError:
            return "the replay store does not answer; the database can fill it again"
        return None


def open_letters(database: Database) -> int:
    """Dead letters that nobody has seen to."""
    with database.reading() as session:
        query = select(func.count()).select_from(DeadLetter).where(DeadLetter.closed_at.is_(None))
        return session.scalar(query) or 0


class TaskMetrics(Collector):
    """Runs of tasks, as the database has them: the same whichever process is asked."""

    def __init__(self, at_work: Services) -> None:
        self._at_work = at_work

    def describe(self) -> Iterator[Metric]:
        """Nothing: the database is not asked when it is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Gauges; none while the database does not answer (``/readyz`` says so)."""
        runs = GaugeMetricFamily(
            "atmr_task_runs", "Runs of tasks begun in the last 24 hours", labels=("task", "state")
        )
        age = GaugeMetricFamily(
            "atmr_task_last_done_age_seconds", "Since a run of the task was done", labels=("task",)
        )
        letters = GaugeMetricFamily(
            "atmr_dead_letters_open", "Tasks that were given up and wait for a person"
        )
        database, now = self._at_work.database, self._at_work.clock.now()
        told = TaskRun.error.is_not(None)
        try:
            with database.reading() as session:
                counted = session.execute(
                    select(TaskRun.task, TaskRun.state, told, func.count())
                    .where(TaskRun.started_at > now - timedelta(hours=24))
                    .group_by(TaskRun.task, TaskRun.state, told)
                ).all()
                last = session.execute(
                    select(TaskRun.task, func.max(TaskRun.finished_at))
                    .where(TaskRun.state == "done")
                    .group_by(TaskRun.task)
                ).all()
            letters.add_metric((), open_letters(database))
        except SQLAlchemyError:
            return
        found: dict[tuple[str, str], int] = {}
        for task, state, has_error, count in counted:
            name = "skipped" if state == "done" and has_error else state
            found[task, name] = found.get((task, name), 0) + count
        for task in sorted({task for task, _ in found}):
            for state in _STATES:
                runs.add_metric((task, state), found.get((task, state), 0))
        for task, at in last:
            if at is not None:
                age.add_metric((task,), (now - at).total_seconds())
        yield from (runs, age, letters)


def hang_in(
    at_work: Services, *, schedule: Sequence[Entry] = (), bodies: Mapping[str, Body] | None = None
) -> None:
    """Add the loop to an app; one of `create_app`'s ``set_up``."""
    part = LearningPart(at_work, schedule, bodies or {})
    at_work.parts[PART] = part
    at_work.degraded["dead_letters"] = part.letters_open
    at_work.degraded["collection"] = part.collection_late
    at_work.degraded["replay_store"] = part.store_away
    at_work.metrics.add(TaskMetrics(at_work))
