"""The database as the app uses it: one engine per process, one session per unit of work.

SQLite is set up so that the guarantees of PostgreSQL hold there too: foreign keys are on, readers
do not block writers (WAL), and a unit of work that writes takes the write lock when it *begins*.
A transaction that starts as a reader and then writes would fail at once, whatever the timeout, if
another wrote in between (SQLITE_BUSY_SNAPSHOT).
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import current_app
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from clock import Clock
from metrics import Metrics
from models.database_url import parse_url, reason
from rate_limits import RateLimits
from services.rl.errors import DataError
from services.rl.simulation.scenarios import Scenario

if TYPE_CHECKING:
    from config import Config
    from services.rl.serving.registry import Registry

EXTENSION = "atmr_rl"
"""Our name in ``app.extensions``."""

_BEGIN = "atmr_sqlite_begin"


class Database:
    """Gives sessions; opens its engine at first use, and again in a forked child."""

    def __init__(self, url: str | URL, *, timeout_s: float = 5.0) -> None:
        self.url = parse_url(url)
        self._timeout_s = timeout_s
        self._engine: Engine | None = None
        self._pid = 0
        self._variants: dict[tuple[str, ...], tuple[Engine, Engine]] = {}
        self._lock = threading.Lock()

    @property
    def on_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def engine(self) -> Engine:
        """This process's engine: connections must not cross a fork."""
        if self._engine is None or self._pid != os.getpid():
            with self._lock:
                if self._engine is not None and self._pid != os.getpid():
                    self._engine.dispose(close=False)
                    self._engine = None
                if self._engine is None:
                    self._engine = make_engine(self.url, timeout_s=self._timeout_s)
                    self._pid = os.getpid()
        return self._engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session on one consistent state, however many tables it reads; nothing is kept."""
        bind = self.engine
        if not self.on_sqlite:  # where a transaction reads one state in any case
            bind = self._variant(bind, isolation_level="REPEATABLE READ")
        with Session(bind, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is committed at the end, or rolled back whole if anything is raised."""
        bind = self._variant(self.engine, **{_BEGIN: "BEGIN IMMEDIATE"})
        with Session(bind, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now, not at the first statement
            yield session

    def _variant(self, engine: Engine, **options: str) -> Engine:
        """The engine with execution options; made once for each engine."""
        known, made = self._variants.get(tuple(options), (None, engine))
        if known is not engine:
            made = engine.execution_options(**options)
            self._variants[tuple(options)] = (engine, made)
        return made

    def check(self) -> None:
        """Ask the database for one row.

        Raises:
            DataError: If it does not answer.
        """
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise DataError(f"the database does not answer: {reason(error)}") from error

    def dispose(self) -> None:
        """Close this process's connections."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None
            self._variants.clear()


def make_engine(url: URL, *, timeout_s: float = 5.0) -> Engine:
    """An engine with our settings for SQLite or PostgreSQL.

    Args:
        url: The database.
        timeout_s: How long to wait for a connection, and for a lock.
    """
    if url.get_backend_name() == "sqlite":
        if url.database and not url.database.startswith("file:"):
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": timeout_s}, pool_timeout=timeout_s)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        connect_args={
            "connect_timeout": max(2, round(timeout_s)),  # whole seconds; libpq takes no less
            "options": f"-c lock_timeout={round(1000 * timeout_s)} -c timezone=UTC",
        },
        pool_pre_ping=True,  # a restarted database costs one check, not one failed request
        pool_timeout=timeout_s,
        pool_size=8,
        max_overflow=8,
    )


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction control begins late and not before DDL; we say BEGIN ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # WAL: a power cut loses no consistency
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


@dataclass
class Services:
    """What the routes work with; one per app.

    Attributes:
        config: Settings.
        database: Sessions.
        clock: The present moment.
        metrics: Counters.
        limits: Rate limits.
        scenario: The world that is dispatched in: travel, rules, weights.
        readiness: Checks of ``/readyz`` by name; each returns nothing or raises an AtmrError.
        degraded: What ``/readyz`` tells beside, by name, of what is replaced by something lesser
            (each returns a sentence, or nothing): requests are still answered.
        registry: Model versions; None: this app serves no models.
        parts: Whatever other rooms keep for themselves, by name (the dispatcher, a dashboard).
    """

    config: "Config"
    database: Database
    clock: Clock
    metrics: Metrics
    limits: RateLimits
    scenario: Scenario
    readiness: dict[str, Callable[[], None]] = field(default_factory=dict)
    degraded: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    registry: "Registry | None" = None
    parts: dict[str, Any] = field(default_factory=dict)


def services() -> Services:
    """The services of the app at work."""
    found: Services = current_app.extensions[EXTENSION]
    return found
