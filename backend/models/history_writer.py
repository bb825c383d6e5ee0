"""Write the rows of a history into a new SQLite file or an existing database, in bulk."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, delete, func, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from services.rl.data.synthetic_history import SyntheticHistory
from services.rl.errors import DataError, UsageError

from .assignment import Assignment
from .base import Base
from .booking import Booking
from .database_url import parse_url, reason
from .driver import Driver

_CHUNK = 5_000
_TABLES = (Driver, Booking, Assignment)  # parents first


def write_sqlite(history: SyntheticHistory, path: Path) -> None:
    """Create (or replace) a SQLite file: written under a temporary name, then renamed.

    Raises:
        UsageError: If the file cannot be written.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        write_database(history, URL.create("sqlite", database=str(temporary)))
        temporary.replace(path)
    except (OSError, DataError) as error:
        raise UsageError(f"the history cannot be written to {path}: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_database(history: SyntheticHistory, url: str | URL, *, replace: bool = False) -> None:
    """Write a history into a database, creating the tables that are missing; all or nothing.

    Raises:
        UsageError: If a table already has rows and ``replace`` is false.
        DataError: If the database cannot be reached or refuses the rows.
    """
    target = parse_url(url)
    shown = target.render_as_string(hide_password=True)
    engine = create_engine(target)
    try:
        with engine.begin() as connection:
            Base.metadata.create_all(connection, tables=[model.__table__ for model in _TABLES])  # type: ignore[misc]
            _make_room(connection, shown, replace)
            rows = (history.drivers, history.bookings, history.assignments)
            for model, of_table in zip(_TABLES, rows, strict=True):
                for chunk in _chunks(of_table):
                    connection.execute(insert(model), chunk)
    except SQLAlchemyError as error:
        raise DataError(f"the history cannot be written to {shown}: {reason(error)}") from error
    finally:
        engine.dispose()


def _make_room(connection: Connection, shown: str, replace: bool) -> None:
    for model in reversed(_TABLES):
        if replace:
            connection.execute(delete(model))
            continue
        count = connection.scalar(select(func.count()).select_from(model))
        if count:
            raise UsageError(
                f"table {model.__tablename__!r} of {shown} already has {count} rows; "
                "give --replace to delete them, or choose an empty database"
            )


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), _CHUNK):
        yield list(rows[start : start + _CHUNK])
