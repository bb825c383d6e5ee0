"""Migrations and models say the same, on both databases; the host's tables are never touched."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, inspect, text
from sqlalchemy.exc import IntegrityError

from extensions import Database
from migrations import HEAD, VERSION_TABLE, alembic_config, current_revision, downgrade, upgrade
from models import HOST_TABLES, Base
from scripts.rl.command import exit_code
from scripts.rl.migrate import main
from services.rl.errors import DataError, UsageError


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path):
    url = (
        f"sqlite:///{tmp_path / 'atmr.sqlite'}"
        if request.param == "sqlite"
        else str(request.getfixturevalue("postgres_database"))
    )
    database = Database(url)
    yield database
    database.dispose()


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_models_and_migrations_agree(database):
    upgrade(database.engine)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [
            difference
            for difference in compare_metadata(context, Base.metadata)
            if not (difference[0] == "remove_table" and difference[1].name == VERSION_TABLE)
        ]
    assert differences == []


def test_check_constraints_of_models_and_migrations_agree(database):
    """Autogenerate does not compare them."""
    upgrade(database.engine)
    inspector = inspect(database.engine)
    for table in Base.metadata.sorted_tables:
        wanted = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
        found = {c["name"] for c in inspector.get_check_constraints(table.name)}
        assert found == wanted, table.name


def test_the_code_names_the_newest_revision():
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_up_down_up_again(database):
    upgrade(database.engine)
    with database.engine.connect() as connection:
        assert current_revision(connection) == HEAD
    downgrade(database.engine)
    assert tables(database) == {*HOST_TABLES, VERSION_TABLE}
    with database.engine.connect() as connection:
        assert current_revision(connection) is None
    upgrade(database.engine)
    assert tables(database) == {*Base.metadata.tables, VERSION_TABLE}


def test_a_host_with_its_own_tables_and_alembic_keeps_them(database):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('host-7')"))
        connection.execute(text("CREATE TABLE driver (id INTEGER PRIMARY KEY, nickname TEXT)"))
        connection.execute(
            text("CREATE TABLE booking (id INTEGER PRIMARY KEY, customer_name TEXT)")
        )
        connection.execute(text("CREATE TABLE assignment (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO driver VALUES (1, 'Zoe')"))
    upgrade(database.engine)
    downgrade(database.engine)
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "host-7"
        assert connection.scalar(text("SELECT nickname FROM driver")) == "Zoe"
    columns = {c["name"] for c in inspect(database.engine).get_columns("booking")}
    assert columns == {"id", "customer_name"}


def test_a_migration_that_fails_leaves_nothing_behind(database):
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE decision (id INTEGER PRIMARY KEY)"))
    with pytest.raises(DataError, match="cannot be migrated"):
        upgrade(database.engine)
    assert tables(database) == {"decision"}


def test_the_host_may_delete_a_driver_that_has_commitments(database):
    upgrade(database.engine)
    rows = (
        "INSERT INTO driver (id, company_id, driver_type, is_active, wheelchair_vehicle, "
        "shift_start, shift_end) VALUES (1, 1, 'REGULAR', true, false, '08:00:00', '16:00:00')",
        "INSERT INTO driver_status (driver_id, company_id, on_shift, down, updated_at) "
        "VALUES (1, 1, true, false, '2026-01-01 08:00:00')",
    )
    with database.engine.begin() as connection:
        for row in rows:
            connection.execute(text(row))
        connection.execute(text("DELETE FROM driver"))
        assert connection.scalar(text("SELECT count(*) FROM driver_status")) == 0


def test_two_default_experiments_of_one_name_are_refused(database):
    upgrade(database.engine)
    row = text(
        "INSERT INTO experiment (company_id, name, mode, unit, salt, rl_share, block_min, epsilon,"
        " guardrails, version, created_at, updated_at) VALUES (NULL, 'a', 'off', 'booking', 's',"
        " 0.5, 30, 0, '{}', 1, '2026-01-01', '2026-01-01')"
    )
    with database.engine.begin() as connection:
        connection.execute(row)
    with pytest.raises(IntegrityError), database.engine.begin() as connection:
        connection.execute(row)


def test_an_unknown_revision_is_one_sentence(database):
    with pytest.raises(UsageError, match="nowhere"):
        upgrade(database.engine, "nowhere")


def test_the_command_migrates_and_tells(atmr_home, capsys):
    assert exit_code(main, ["status"]) == 0
    assert "revision None, newest 0002" in capsys.readouterr().out
    assert exit_code(main, []) == 0
    assert capsys.readouterr().out == "SQLite atmr.sqlite: revision 0002, newest 0002\n"
    assert exit_code(main, ["downgrade"]) == 2
    assert "--revision and --yes" in capsys.readouterr().err
    assert exit_code(main, ["downgrade", "--revision", "base", "--yes"]) == 0
