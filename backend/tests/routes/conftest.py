"""An app on a real, migrated database with two companies; a clock that stands still."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from access import create_key
from app import create_app
from clock import FixedClock
from config import Config
from extensions import EXTENSION, Database, Services
from migrations import upgrade
from models import Assignment, Booking, Commitment, Driver
from services.dispatching.part import hang_in
from services.rl.errors import DataError
from services.rl.simulation.scenarios import load_scenario

GENEVA = load_scenario("geneva")
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@dataclass
class RegistryInMemory:
    """A model registry without files; the real one has tests of its own."""

    aliases: dict[tuple[int | None, str], str] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    known: tuple[str, ...] = ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc")

    def versions(self):
        return list(self.known)

    def get(self, version):
        if version == "cccccccccccc":
            raise DataError("/srv/models/cccccccccccc is damaged")
        manifest = SimpleNamespace(
            kind="planner", scenario="geneva", scenario_hash=GENEVA.sha256, parent=None,
            metrics={"reward_per_day": 512.5},
        )  # fmt: skip
        return SimpleNamespace(version=version, manifest=manifest)

    def alias(self, company, name):
        return self.aliases.get((company, name)) or self.aliases.get((None, name))

    def promote(self, version, who, why, company=None, gate_report=None):
        self.get(version)
        self._move(company, version, who, why)

    def rollback(self, who, why, company=None, *, champion=None):
        self._move(company, self.alias(company, "previous"), who, why)

    def history(self, company=None):
        return [event for event in self.events if event.company_id in (None, company)]

    def _move(self, company, version, who, why):
        before = self.alias(company, "champion")
        self.aliases[company, "champion"] = version
        self.aliases[company, "previous"] = before
        self.events.append(
            SimpleNamespace(
                at=NOW.isoformat(), who=who, why=why, company_id=company, alias="champion",
                from_version=before, to_version=version,
            )
        )  # fmt: skip


@dataclass
class Api:
    """The app, called with a company's key."""

    app: Flask
    client: FlaskClient
    keys: dict[str, str]
    clock: FixedClock

    @property
    def services(self) -> Services:
        return self.app.extensions[EXTENSION]

    def __call__(self, method: str, path: str, body: Any = None, *, key: str = "one", **headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            given["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        return self.client.open(
            path if path.startswith("/") else f"/api/v1/{path}",
            method=method,
            json=body,
            headers=given,
        )


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite file at the newest revision, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "atmr.sqlite"
    database = Database(f"sqlite:///{path}")
    upgrade(database.engine)
    database.dispose()
    return path


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, migrated_sqlite: Path, tmp_path) -> str:
    """SQLite; tests that matter on both mark themselves with `on_both`."""
    if request.param == "sqlite":
        copy = shutil.copy(migrated_sqlite, tmp_path / "atmr.sqlite")
        return f"sqlite:///{copy}"
    return str(request.getfixturevalue("postgres_database"))


on_both = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)],
    indirect=True,
)


def fill(database: Database, clock: FixedClock) -> dict[str, str]:
    """Two companies with two drivers each, and keys of every scope for company 1."""
    keys = {}
    with database.writing() as work:
        for company in (1, 2):
            for n in (1, 2):
                work.add(
                    Driver(
                        id=10 * company + n,
                        company_id=company,
                        shift_start=time(8),
                        shift_end=time(16),
                        home_lat=46.2,
                        home_lon=6.14,
                    )
                )
        for name, company, scopes in (
            ("one", 1, ("dispatch", "read", "admin")),
            ("two", 2, ("dispatch", "read", "admin")),
            ("reader", 1, ("read",)),
            ("dispatcher", 1, ("dispatch",)),
        ):
            _, keys[name] = create_key(work, clock, company_id=company, name=name, scopes=scopes)
    return keys


@pytest.fixture
def make_api(database_url: str, atmr_home) -> Callable[..., Api]:
    made = []

    def make(**settings: Any) -> Api:
        clock = FixedClock(NOW)
        config = Config.from_environment(database_url=database_url, **settings)
        app = create_app(
            config, scenario=GENEVA, clock=clock, registry=RegistryInMemory(), set_up=(hang_in,)
        )
        database = app.extensions[EXTENSION].database
        made.append(database)
        if not database.on_sqlite:
            upgrade(database.engine)
        return Api(app, app.test_client(), fill(database, clock), clock)

    yield make
    for database in made:
        database.dispose()


@pytest.fixture
def api(make_api) -> Api:
    return make_api()


def a_booking(**changes: Any) -> dict[str, Any]:
    return {
        "pickup": {"lat": 46.2044, "lon": 6.1432},
        "dropoff": {"lat": 46.1925, "lon": 6.1500},
        "scheduled_time": "2026-03-02T11:30:00+01:00",
        **changes,
    }


def commit(api: Api, booking_id: int, driver_id: int = 11, slot: int = 0) -> int:
    """Give a booking to a driver as the dispatcher does; returns the assignment's id."""
    with api.services.database.writing() as work:
        booking = work.get(Booking, booking_id)
        assignment = Assignment(
            booking_id=booking_id, driver_id=driver_id, assigned_at=NOW, status="ASSIGNED"
        )
        work.add(assignment)
        work.flush()
        booking.status = "ASSIGNED"
        work.add(
            Commitment(
                booking_id=booking_id,
                company_id=booking.company_id,
                driver_id=driver_id,
                assignment_id=assignment.id,
                slot=slot,
                order_no=slot,
                planned_depart_at=NOW,
                planned_pickup_at=NOW,
                planned_dropoff_at=NOW,
                created_at=NOW,
            )
        )
        return assignment.id


def is_problem(response: TestResponse, status: int, field: str | None = None) -> bool:
    """Whether this is a problem document of that status that names the field."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    document = response.get_json()
    assert document["status"] == status
    fields = [error["field"] for error in document["errors"]]
    assert field is None or field in fields, document
    return True
