"""Migrations of the tables that dispatch adds, with a version table of their own.

The host's backend may have its own Alembic: ours keeps its place in ``atmr_rl_alembic_version``
and looks at no other table. Booking, driver and assignment are created where they are missing
(``make serve`` on an empty file) and never altered or dropped: they hold the host's data.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from models.database_url import reason
from services.rl.errors import DataError, UsageError

if TYPE_CHECKING:  # Alembic itself is imported to migrate only: 11 MB that serving does without
    from alembic.config import Config as AlembicConfig

VERSION_TABLE = "atmr_rl_alembic_version"
HEAD = "0002"
"""The newest revision; a test compares it with the scripts."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database up to a revision; all of it or nothing.

    Raises:
        UsageError: If there is no such revision.
        DataError: If the database refuses.
    """
    _run(engine, revision, down=False)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to a revision; the host's tables stay.

    Raises:
        UsageError: If there is no such revision.
        DataError: If the database refuses.
    """
    _run(engine, revision, down=True)


def current_revision(connection: Connection) -> str | None:
    """The revision of the database; None if it has never been migrated."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return found


def require_head(engine: Engine) -> None:
    """Refuse a database that is not at the newest revision.

    Raises:
        DataError: If it is not, or does not answer.
    """
    try:
        with engine.connect() as connection:
            current = current_revision(connection)
    except SQLAlchemyError as error:
        raise DataError(f"the database does not answer: {reason(error)}") from error
    if current != HEAD:
        raise DataError(
            f"the database is at revision {current}, the code at {HEAD}: run migrate.py"
        )


def upgrade_new_sqlite(engine: Engine) -> None:
    """Make the tables in a SQLite file without any: nothing but a file is needed to begin.

    Raises:
        DataError: If the file cannot be written.
    """
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        new = not inspect(connection).get_table_names()
    if new:
        upgrade(engine)


def alembic_config(connection: Connection | None = None) -> "AlembicConfig":
    """Alembic's settings, without an ini file."""
    from alembic.config import Config as AlembicConfig

    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


def _run(engine: Engine, revision: str, *, down: bool) -> None:
    from alembic import command
    from alembic.util import CommandError

    # On SQLite, the write lock before the first look: of two processes that migrate, one waits.
    writing = engine.execution_options(atmr_sqlite_begin="BEGIN IMMEDIATE")
    try:
        with writing.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7240110519)")
            settings = alembic_config(connection)
            if down:
                command.downgrade(settings, revision)
            else:
                command.upgrade(settings, revision)
    except CommandError as error:
        raise UsageError(f"revision {revision!r}: {error}") from error
    except SQLAlchemyError as error:
        raise DataError(f"the database cannot be migrated: {reason(error)}") from error
