"""Where the twin plays: this process with SQLite, or PostgreSQL, Redis, gunicorn and Celery."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask
from sqlalchemy import Engine, func, inspect, select

from access import create_key
from app import create_app
from clock import FileClock, FixedClock
from config import Config
from extensions import EXTENSION, Services
from migrations import upgrade
from models import Booking
from scripts.rl.celery_worker import CeleryWorker
from scripts.rl.served_app import ServedApp
from services.dispatching.part import PART as DISPATCHER
from services.dispatching.part import hang_in as hang_in_dispatcher
from services.learning.bodies import BODIES
from services.learning.loop import Loop, open_loop
from services.learning.periods import Entry
from services.learning.running import Outcome
from services.learning.workplace import Workplace
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.errors import DataError, UsageError
from services.rl.simulation.engine import travel_tables
from services.twin.calls import Calls, InProcess, OverHttp
from services.twin.company import Habits, TwinCompany
from services.twin.conductors import ByWorkers, InThisProcess
from services.twin.play import Conductor, SettableClock

if TYPE_CHECKING:
    from tests.redis_server import RedisServer


@dataclass(frozen=True)
class SitePlan:
    """What a site is made of.

    Attributes:
        folder: Its ``ATMR_HOME``: database, models and reports.
        scenario: Name or file.
        first: Local date of the first day.
        entries: Of the schedule.
        train_minutes: Per kind of model and night.
        gate_days: Fresh days of the gate.
        database_url: Of the distributed mode; None: a PostgreSQL is started.
        redis_url: Likewise.
        api_workers: Processes of the server.
        application: Of the Celery workers.
        send_again_s: What no worker has begun by then is sent again.
        patience_s: Longest wait for ordinary tasks.
    """

    folder: Path
    scenario: str
    first: date
    entries: Sequence[Entry]
    train_minutes: float = 1.0
    gate_days: int = 200
    database_url: str | None = None
    redis_url: str | None = None
    api_workers: int = 2
    application: str = "celery_app:app"
    send_again_s: float = 5.0
    patience_s: float = 30.0

    def settings(self, url: str) -> dict[str, Any]:
        """Of `Config`, in both modes."""
        return {
            "database_url": url,
            "scenario": self.scenario,
            "rate_limit": "1000000 per minute",
            "rollout": "auto",
            "train_minutes": self.train_minutes,
            "gate_days": self.gate_days,
            "secret_key": None,
        }


@dataclass
class Site:
    """A place to play.

    Attributes:
        loop: This process's way to everything.
        clock: That all processes read.
        calls: To the API, by API key.
        conductor: Runs the loop's tasks.
        environment: Settings of further processes; empty in one process.
        served: The API's server, in the distributed mode.
        workers: Celery's workers, likewise.
        redis: If it was started here.
    """

    loop: Loop
    clock: SettableClock
    calls: Callable[[str], Calls]
    conductor: Conductor
    environment: dict[str, str] = field(default_factory=dict)
    served: ServedApp | None = None
    workers: list[CeleryWorker] = field(default_factory=list)
    redis: "RedisServer | None" = None

    def company(self, company_id: int, habits: Habits, seed: int) -> TwinCompany:
        """A company with a key of its own."""
        with self.loop.database.writing() as session:
            _, key = create_key(
                session, self.clock, company_id=company_id, name="twin", scopes=("admin",)
            )
        return TwinCompany(
            company_id, self.calls(key), self.loop.database, self.clock,
            travel_tables(self.loop.scenario), habits, seed,
        )  # fmt: skip


@contextmanager
def embedded(plan: SitePlan, on_outcome: Callable[[Outcome], None]) -> Iterator[Site]:
    """Everything in this process; SQLite, no broker.

    Raises:
        DataError: If the database holds bookings already.
    """
    with _home(plan.folder):
        config = Config.from_environment(
            **plan.settings(f"sqlite:///{plan.folder / 'twin.sqlite'}"),
            redis_url=None, replay_url=None,
        )  # fmt: skip
        clock = FixedClock(_evening_before(plan.first, config))
        app = create_app(config, clock=clock, set_up=(hang_in_dispatcher,))
        _calm(app)
        at_work: Services = app.extensions[EXTENSION]
        _fresh(at_work.database.engine)
        store = MemoryReplayStore(config.replay_capacity)
        with open_loop(config, clock=clock, store=store) as loop:
            place = Workplace(loop, dispatcher=at_work.parts[DISPATCHER].get)
            conductor = InThisProcess(place, plan.entries, BODIES, on_outcome)
            try:
                yield Site(loop, clock, lambda key: InProcess(app, key), conductor)
            finally:
                conductor.close()
                at_work.database.dispose()


@contextmanager
def distributed(plan: SitePlan, _on_outcome: Callable[[Outcome], None]) -> Iterator[Site]:
    """The API under gunicorn, a Celery worker per queue, PostgreSQL and Redis.

    Raises:
        UsageError: If a server is neither named nor on this machine.
        DataError: If the database holds bookings already, or a process does not start.
    """
    with ExitStack() as stack:
        stack.enter_context(_home(plan.folder))
        url = plan.database_url or _started_postgres(stack)
        redis = None if plan.redis_url else stack.enter_context(_own_redis())
        redis_url = plan.redis_url or (redis.url if redis is not None else "")
        clock_file = plan.folder / "clock"
        clock = FileClock(clock_file)
        config = Config.from_environment(
            **plan.settings(url), redis_url=redis_url, clock_file=clock_file
        )
        clock.set(_evening_before(plan.first, config))
        loop = stack.enter_context(open_loop(config, clock=clock))
        _fresh(loop.database.engine)
        environment = {
            "ATMR_HOME": str(plan.folder),
            "ATMR_DATABASE_URL": url,
            "ATMR_REDIS_URL": redis_url,
            "ATMR_SCENARIO": plan.scenario,
            "ATMR_RATE_LIMIT": "1000000 per minute",
            "ATMR_ROLLOUT": "auto",
            "ATMR_TRAIN_MINUTES": str(plan.train_minutes),
            "ATMR_GATE_DAYS": str(plan.gate_days),
            "ATMR_CLOCK_FILE": str(clock_file),
            "ATMR_LOG_LEVEL": "ERROR",
        }
        served = stack.enter_context(ServedApp(plan.folder, environment, workers=plan.api_workers))
        queues = sorted({entry.queue for entry in plan.entries})
        workers = [_worker(plan, environment, queue) for queue in queues]
        for worker in workers:
            stack.enter_context(worker)
        for worker in workers:
            worker.await_ready()
        conductor = ByWorkers(
            Workplace(loop), plan.entries, _sender(config),
            send_again_s=plan.send_again_s, patience_s=plan.patience_s,
        )  # fmt: skip
        address = (served.host, served.port)

        def calls(key: str) -> Calls:
            made = OverHttp(address, key)
            stack.callback(made.close)
            return made

        yield Site(loop, clock, calls, conductor, environment, served, workers, redis)


def _worker(plan: SitePlan, environment: dict[str, str], queue: str) -> CeleryWorker:
    return CeleryWorker(
        plan.folder,
        environment,
        queues=queue,
        name=f"worker-{queue}",
        application=plan.application,
    )


def _sender(config: Config) -> Any:
    """Sends messages and does nothing else."""
    from celery import Celery

    from celery_app import settings

    sender = Celery("twin")
    sender.conf.update(settings(config))
    return sender


def _started_postgres(stack: ExitStack) -> str:
    from tests.postgres_server import find_binaries, running_server

    binaries = find_binaries()
    if binaries is None:
        raise UsageError("there is no PostgreSQL on this machine: give --database-url")
    url: str = stack.enter_context(running_server(binaries))
    return url


def _own_redis() -> "RedisServer":
    from tests.redis_server import RedisServer, find_redis

    program = find_redis()
    if program is None:
        raise UsageError("there is no redis-server on this machine: give --redis-url")
    return RedisServer(program)


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """``ATMR_HOME`` is the twin's folder: nothing of it gets among real models and reports."""
    before = os.environ.get("ATMR_HOME")
    os.environ["ATMR_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ATMR_HOME"]
        else:
            os.environ["ATMR_HOME"] = before


def _fresh(engine: Engine) -> None:
    """Make the tables; refuse a database in which somebody has lived already."""
    if inspect(engine).has_table(Booking.__tablename__):
        with engine.connect() as connection:
            if connection.scalar(select(func.count()).select_from(Booking)):
                shown = engine.url.render_as_string(hide_password=True)
                raise DataError(f"{shown} holds bookings already: the twin needs an empty database")
    upgrade(engine)


def _evening_before(first: date, config: Config) -> datetime:
    midnight = datetime(first.year, first.month, first.day, tzinfo=config.zone)
    return midnight - timedelta(hours=2)


def _calm(app: Flask) -> None:
    """Thousands of requests and overdue patients are not worth a line each here."""
    for name in ("atmr", "services"):
        logging.getLogger(name).setLevel(logging.ERROR)
    app.logger.setLevel(logging.ERROR)
