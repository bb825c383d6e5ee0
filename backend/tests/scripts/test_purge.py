"""Purge: the log's old part goes, what is at work stays."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from clock import SystemClock
from config import Config
from extensions import Database
from models import Booking, Commitment, Decision, FleetSnapshot, IdempotencyRecord
from scripts.rl import migrate
from scripts.rl.command import exit_code
from scripts.rl.purge import main
from tests.rows import a_commitment, a_decision, a_snapshot, host_rows

NOW = SystemClock().now()
OLD, NEW = NOW - timedelta(days=91), NOW - timedelta(days=89)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, atmr_home, monkeypatch):
    if request.param == "postgresql":
        monkeypatch.setenv("ATMR_DATABASE_URL", request.getfixturevalue("postgres_database"))
    assert exit_code(migrate.main, ["--quiet"]) == 0
    database = Database(Config.from_environment().database_url.get_secret_value())
    with database.writing() as work:
        assignment_id = host_rows(work, NOW)
        for at in (OLD, OLD, NEW):
            work.add(snapshot := a_snapshot(at))
            work.flush()
            work.add_all(a_decision(f"{snapshot.id}-{n}", at, snapshot.id) for n in range(3))
        work.flush()
        work.get(Decision, "1-0").overridden_by = "1-1"
        work.add(a_commitment(assignment_id, NOW, decision_id="1-0"))
        work.add_all(
            IdempotencyRecord(company_id=1, key=key, request_hash="", created_at=at)
            for key, at in (("old", OLD), ("new", NOW))
        )
    yield database
    database.dispose()


def left(database):
    with database.reading() as work:
        tables = (Decision, FleetSnapshot, IdempotencyRecord, Commitment, Booking)
        return [work.scalar(select(func.count()).select_from(table)) for table in tables]


def test_what_is_old_goes_and_what_is_at_work_stays(database, capsys, monkeypatch):
    monkeypatch.setattr("services.learning.purging._BATCH", 2)
    assert exit_code(main, ["--older-than-days", "90"]) == 0
    assert "5 decision, 1 fleet_snapshot, 1 idempotency_record" in capsys.readouterr().out
    assert left(database) == [4, 2, 1, 1, 1]
    with database.reading() as work:
        assert work.get(Decision, "1-0").overridden_by is None


def test_a_dry_run_deletes_nothing(database, capsys):
    assert exit_code(main, ["--older-than-days", "90", "--dry-run"]) == 0
    assert "would go: 5 decision, 1 fleet_snapshot" in capsys.readouterr().out
    assert left(database) == [9, 3, 2, 1, 1]
