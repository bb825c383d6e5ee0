"""Histories to test on: a few rows by hand, and an invented company collected once."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.history_reader import read_history
from models.history_writer import write_sqlite
from services.rl.data.building import DayRules
from services.rl.data.collection import Collected, collect
from services.rl.data.history import RawHistory, from_rows
from services.rl.data.synthetic_history import SyntheticHistory, synthesise_history
from services.rl.simulation.scenarios import load_scenario

Row = dict[str, Any]


@pytest.fixture
def booking_row() -> Callable[..., Row]:
    """A function giving a valid row; each call another id, place and time."""
    made = 0

    def row(**changes: Any) -> Row:
        nonlocal made
        made += 1
        scheduled = datetime(2025, 3, 3, 8, 0, tzinfo=UTC) + timedelta(minutes=3 * made)
        return {
            "id": made,
            "company_id": 1,
            "pickup_lat": 46.20 + 0.001 * (made % 17),
            "pickup_lon": 6.10 + 0.002 * (made % 13),
            "dropoff_lat": 46.18 - 0.001 * (made % 11),
            "dropoff_lon": 6.15 + 0.001 * (made % 7),
            "scheduled_time": scheduled,
            "created_at": scheduled - timedelta(hours=5),
            "priority": 3,
            **changes,
        }

    return row


@pytest.fixture
def rows(booking_row: Callable[..., Row]) -> list[Row]:
    """Thirty valid rows of one Monday."""
    return [booking_row() for _ in range(30)]


@pytest.fixture(scope="session")
def invented() -> SyntheticHistory:
    """Eight weeks of an invented company, across the change to summer time."""
    return synthesise_history(load_scenario("geneva"), start=date(2025, 2, 10), days=56, seed=3)


@pytest.fixture(scope="session")
def invented_raw(
    invented: SyntheticHistory, tmp_path_factory: pytest.TempPathFactory
) -> RawHistory:
    """The invented company as the SQL reader gives it."""
    path = tmp_path_factory.mktemp("history") / "company.sqlite"
    write_sqlite(invented, path)
    return read_history(f"sqlite:///{path}", days=90, until=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def collected(invented_raw: RawHistory, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    """The invented company collected, fitted and reported, once."""
    folder: Path = tmp_path_factory.mktemp("collected") / "company"
    return collect(invented_raw, folder, DayRules(), name="company")


@pytest.fixture
def raw(rows: list[Row]) -> RawHistory:
    """The thirty rows as a raw history."""
    return from_rows(rows)
