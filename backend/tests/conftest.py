"""Parts that all tests share: a home of their own, and a real PostgreSQL."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from .postgres_server import find_binaries, running_server

_database_number = itertools.count(1)


@pytest.fixture
def atmr_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``ATMR_HOME``, and no database named by the environment."""
    monkeypatch.setenv("ATMR_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server that this session (this worker, under xdist) started itself."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(
            "MISSING ROOT PACKAGE: no PostgreSQL on this machine; install the package "
            "'postgresql' or the wheel 'pgserver' (requirements-dev.txt)"
        )
    with running_server(binaries) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of an empty database of its own for one test."""
    name = f"test_{next(_database_number)}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
