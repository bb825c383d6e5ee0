"""Units of work: kept whole or not at all; writers wait for each other on SQLite too."""

import os
import threading

import pytest
from sqlalchemy import text

from extensions import Database
from services.rl.errors import DataError


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    database = Database(
        f"sqlite:///{tmp_path / 'new folder' / 'x.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    with database.writing() as session:
        session.execute(text("CREATE TABLE counter (n INTEGER)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    yield database
    database.dispose()


def count(database: Database) -> int:
    with database.reading() as session:
        return int(session.scalar(text("SELECT n FROM counter")))


def test_an_error_takes_the_whole_unit_of_work_back(database):
    with pytest.raises(RuntimeError), database.writing() as session:
        session.execute(text("UPDATE counter SET n = 7"))
        raise RuntimeError
    assert count(database) == 0


def test_what_a_reading_session_changes_is_not_kept(database):
    with database.reading() as session:
        session.execute(text("UPDATE counter SET n = 7"))
    assert count(database) == 0


def test_read_then_write_of_several_threads_loses_no_update(database):
    def work() -> None:
        for _ in range(25):
            with database.writing() as session:
                locked = "" if database.on_sqlite else " FOR UPDATE"
                n = session.scalar(text(f"SELECT n FROM counter{locked}"))  # noqa: S608
                session.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 100


def test_a_reader_is_not_held_up_by_a_writer(database):
    with database.writing() as session:
        session.execute(text("UPDATE counter SET n = 7"))
        assert count(database) == 0


def test_a_reader_sees_one_state_from_its_first_look_on(database):
    with database.reading() as session:
        before = session.scalar(text("SELECT n FROM counter"))
        with database.writing() as other:
            other.execute(text("UPDATE counter SET n = 7"))
        assert session.scalar(text("SELECT n FROM counter")) == before
    assert count(database) == 7


def test_a_forked_child_opens_connections_of_its_own(database):
    parents = database.engine
    child = os.fork()
    if child == 0:
        os._exit(0 if database.engine is not parents and count(database) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert database.engine is parents


def test_a_database_that_does_not_answer_is_one_sentence(tmp_path):
    (tmp_path / "x.sqlite").write_text("this is no database, it only looks like a file " * 9)
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with pytest.raises(DataError, match="file is not a database"):
        database.check()
