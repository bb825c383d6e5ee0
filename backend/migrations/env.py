"""Alembic's entry: runs the migrations on the connection that `migrations` (or the CLI) gives."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from config import Config
from extensions import Database
from migrations import VERSION_TABLE
from models import HOST_TABLES, Base

OURS = frozenset(Base.metadata.tables) - frozenset(HOST_TABLES)


def _of_ours(name: str | None, type_: str, _parents: Any) -> bool:
    """Autogenerate looks at our tables only, in a database that is mostly the host's."""
    return type_ != "table" or name in OURS


def _mapped_by_us(_object: Any, name: str | None, type_: str, _reflected: bool, _to: Any) -> bool:
    return _of_ours(name, type_, None)


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=_of_ours,
        include_object=_mapped_by_us,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,  # on SQLite too: `extensions` begins the transaction itself
        user_module_prefix="",
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("SQL scripts are not offered: the migrations look at what is there")
_given = context.config.attributes.get("connection")
if _given is not None:
    _run(_given)
else:
    with Database(Config.from_environment().database_url.get_secret_value()).writing() as session:
        _run(session.connection())
