"""Migrations of the tables that dispatch adds, with a version table of their own.

The host's backend may have its own Alembic: ours keeps its place in ``atmr_rl_alembic_version``
and looks at no other table. Booking, driver and assignment are created where they are missing
(``make serve`` on an empty file) and never altered or dropped: they hold the host's data.
"""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from models.history_writer import reason
from services.rl.errors import DataError, UsageError

VERSION_TABLE = "atmr_rl_alembic_version"


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


@cache
def head_revision() -> str | None:
    """The newest revision of the code."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """The revision of the database; None if it has never been migrated."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def alembic_config(connection: Connection | None = None) -> AlembicConfig:
    """Alembic's settings, without an ini file."""
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


def _run(engine: Engine, revision: str, *, down: bool) -> None:
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
