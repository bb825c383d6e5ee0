"""Where studies are kept: an SQLite file by default, a PostgreSQL server for many machines.

Both are relational, as heartbeats need: a trial says every `HEARTBEAT_S` that it lives. One that
has been silent for `GRACE_S` is failed by whoever looks next, and its values are queued again, at
most `RETRIES` times.
"""

import fcntl
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from services.rl import paths
from services.rl.errors import UsageError

HEARTBEAT_S: Final = 20
GRACE_S: Final = 90
RETRIES: Final = 2
STORAGE_VARIABLE: Final = "ATMR_TUNING_URL"
"""Environment variable with the URL: a password has no place on a command line."""
_LOCKED_S = 120  # SQLite: how long a writer waits for another


def default_storage() -> str:
    """URL of the machine's own file, ``data/rl/tuning/studies.db``."""
    return f"sqlite:///{paths.data_dir() / 'tuning' / 'studies.db'}"


def open_storage(
    url: str | None = None,
    *,
    heartbeat_s: int = HEARTBEAT_S,
    grace_s: int = GRACE_S,
    must_exist: bool = False,
) -> RDBStorage:
    """Connect, and make the tables where there are none.

    Args:
        url: Of a database; None: that of the environment (`STORAGE_VARIABLE`), or the default file.
            ``postgresql://`` means its psycopg driver.
        heartbeat_s: Seconds between signs of life.
        grace_s: Seconds of silence after which a trial is given up.
        must_exist: An SQLite file that is not there is not made: studies are only looked at.

    Raises:
        UsageError: If it cannot be reached or is none; the password is not shown.
    """
    parsed = _parsed(url or os.environ.get(STORAGE_VARIABLE) or default_storage())
    options: dict[str, object] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError("--storage sqlite: studies need a file, sqlite:///PATH")
        if must_exist and not Path(parsed.database).is_file():
            raise UsageError(
                f"--storage {parsed.database}: there is no such file: no study was begun there"
            )
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--storage {parsed.database}: its folder cannot be made: {error.strerror}"
            ) from error
        options["connect_args"] = {"timeout": _LOCKED_S}
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial keeps its own reason
    shown = parsed.set(query={}).render_as_string(hide_password=True)  # it may hold a password
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=heartbeat_s,
                grace_period=grace_s,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
            )
            if parsed.get_backend_name() == "sqlite":
                with storage.engine.connect() as connection:
                    # Readers and a writer side by side; kept by the file.
                    connection.execute(text("PRAGMA journal_mode=WAL"))
            return storage
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError) as error:
        raise UsageError(f"--storage {shown} cannot be used: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The database's own first line, whatever it is wrapped in."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    lines = str(getattr(deepest, "orig", None) or deepest).strip().splitlines()
    return lines[0] if lines else type(deepest).__name__


@contextmanager
def in_use(storage: RDBStorage) -> Iterator[RDBStorage]:
    """A storage for a command: let go of in the end; a database that fails is one sentence.

    Raises:
        UsageError: In place of the database's error (full, read-only, gone).
    """
    try:
        yield storage
    except (StorageInternalError, SQLAlchemyError) as error:
        raise UsageError(f"--storage: the database failed: {_reason(error)}") from error
    finally:
        close(storage)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "--storage is no database URL; it looks like sqlite:///file.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageError(
            f"--storage {parsed.drivername}: only sqlite and postgresql keep studies here"
        )
    return parsed


def close(storage: RDBStorage) -> None:
    """Let go of all connections."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def turnstile(storage: RDBStorage, study: str) -> Iterator[Callable[[], None]]:
    """Workers on one storage take trials one after the other, so that none is taken too many.

    Gives what lets the next one in; leaving does too, and so does dying. Among machines it is a
    lock of the PostgreSQL server, beside an SQLite file a lock on a file of its own.

    Args:
        storage: Where the study is.
        study: Its name.

    Raises:
        UsageError: If the folder of an SQLite file cannot be written.
    """
    if storage.engine.url.get_backend_name() == "postgresql":
        with _server_lock(storage, study) as let_next:
            yield let_next
        return
    database = Path(str(storage.engine.url.database))
    path = database.with_name(f".{database.name}.{study}.turnstile")
    try:
        opened = path.open("ab")
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}") from error
    with opened as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _server_lock(storage: RDBStorage, study: str) -> Iterator[Callable[[], None]]:
    digest = hashlib.sha256(f"atmr-rl tuning {study}".encode()).digest()
    key = {"key": int.from_bytes(digest[:8], "big", signed=True)}
    # Without a transaction: a session's lock outlives one, and an open one would hold others up.
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
        held = [True]

        def let_next() -> None:
            if held:
                held.clear()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
                connection.close()  # others may use it while the trial is played

        try:
            yield let_next
        except BaseException:
            if held and not connection.closed:
                connection.invalidate()  # with the session goes its lock, whatever state it is in
            raise
        let_next()
