"""Writing a history: all or nothing, and never over somebody's rows by accident."""

from datetime import date

import pytest
from sqlalchemy import create_engine, func, select, text

from models import Booking, Driver
from models.history_writer import write_database, write_sqlite
from services.rl.data.synthetic_history import synthesise_history
from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import load_scenario


@pytest.fixture(scope="module")
def small():
    return synthesise_history(load_scenario("geneva_small"), start=date(2025, 3, 3), days=3, seed=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'company.sqlite'}"
    return str(request.getfixturevalue("postgres_database"))


def count(url: str, model: type) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(select(func.count()).select_from(model))
    engine.dispose()
    return int(found or 0)


def test_a_database_with_rows_is_refused_unless_replacing(url, small):
    write_database(small, url)
    with pytest.raises(UsageError, match=r"already has \d+ rows; give --replace"):
        write_database(small, url)
    write_database(small, url, replace=True)
    assert count(url, Booking) == len(small.bookings)


def test_a_refused_row_leaves_nothing_behind(url, small):
    broken = type(small)(small.drivers, [*small.bookings, small.bookings[0]], small.assignments)
    with pytest.raises(DataError, match="cannot be written"):
        write_database(broken, url)
    write_database(small, url)  # nothing is in the way
    assert count(url, Driver) == len(small.drivers)


def test_a_sqlite_file_is_recreated_byte_for_byte(tmp_path, small):
    path = tmp_path / "deep" / "history.sqlite"
    write_sqlite(small, path)
    before = path.read_bytes()
    write_sqlite(small, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["history.sqlite"]


def test_a_failure_keeps_the_old_file(tmp_path, small):
    path = tmp_path / "history.sqlite"
    write_sqlite(small, path)
    before = path.read_bytes()
    broken = type(small)(small.drivers, [*small.bookings, small.bookings[0]], small.assignments)
    with pytest.raises(UsageError, match="cannot be written"):
        write_sqlite(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["history.sqlite"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, small):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_sqlite(small, tmp_path / "file" / "history.sqlite")


def test_a_host_that_demands_names_is_one_sentence(tmp_path, small):
    url = f"sqlite:///{tmp_path / 'host.sqlite'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE booking (id INTEGER PRIMARY KEY, customer_name TEXT NOT NULL)")
        )
    engine.dispose()
    with pytest.raises(DataError, match="cannot be written to sqlite") as caught:
        write_database(small, url)
    assert "\n" not in str(caught.value)
