"""The log as Parquet: every decision once, typed, with its outcome; nothing half-written."""

import json
import subprocess
import sys
from datetime import UTC, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from models import Assignment, Booking, Decision, FleetSnapshot
from scripts.rl import export_decisions
from scripts.rl.command import exit_code
from services.dispatching import decision_export
from services.dispatching.outcomes import outcome_of
from services.rl.simulation.scenarios import load_scenario
from tests.dispatching.companies import COMPANY, Company
from tests.rows import a_decision

SMALL = load_scenario("geneva_small")


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def lived(request, tmp_path_factory):
    """A company's day until the afternoon, and its database's address."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('lived') / 'day.sqlite'}"
    else:
        url = request.getfixturevalue("module_postgres")
    company = Company(url, SMALL, 11)
    company.live(240.0)
    yield company, url
    company.database.dispose()


@pytest.fixture(scope="module")
def module_postgres(postgres_url):
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE lived_day"))
    yield make_url(postgres_url).set(database="lived_day").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE lived_day WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def company(lived, atmr_home, monkeypatch):
    made, url = lived
    monkeypatch.setenv("ATMR_DATABASE_URL", url)
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    return made


def days(company):
    day = company.day.date
    return ["--since", str(day), "--until", str(day + timedelta(days=1))]


def export(company, *words):
    return exit_code(export_decisions.main, [*days(company), *words])


def test_every_decision_comes_back_with_its_state_features_and_outcome(
    company, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(decision_export, "_BATCH", 50)  # several batches
    out = tmp_path / "log.parquet"
    assert export(company, "--company-id", str(COMPANY), "--out", str(out)) == 0
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}
    with company.database.reading() as session:
        decisions = session.scalars(select(Decision)).all()
        bookings = {b.id: b for b in session.scalars(select(Booking))}
        snapshots = {s.id: s for s in session.scalars(select(FleetSnapshot))}
        assignments = session.scalars(select(Assignment).order_by(Assignment.id)).all()
    assert len(decisions) == len(rows) > 200
    assert f"{len(rows)} decisions" in capsys.readouterr().out
    finished = 0
    for decision in decisions:
        row = rows[decision.id]
        for column in Decision.__table__.columns.keys():  # noqa: SIM118 - of SQLAlchemy
            if column != "features":
                assert row[column] == getattr(decision, column), column
        told = {k.removeprefix("feature_"): v for k, v in row.items() if k.startswith("feature_")}
        assert {k: v for k, v in told.items() if v is not None} == (decision.features or {})
        snapshot = snapshots[decision.snapshot_id]
        assert (row["snapshot_epoch_at"], row["snapshot_scenario_hash"]) == (
            snapshot.epoch_at, snapshot.scenario_hash
        )  # fmt: skip
        booking = bookings[decision.booking_id]
        own = [a for a in assignments if a.booking_id == booking.id]
        assert row["outcome_final"] == (booking.status == "COMPLETED")
        if not row["outcome_final"]:
            assert row["outcome_fate"] is row["outcome_pickup_at"] is None
            continue
        finished += 1
        told = outcome_of(booking, own, [], company.clock.now(), SMALL.rules)
        assert (row["outcome_fate"], row["outcome_wait_min"], row["outcome_pickup_at"]) == (
            told.fate, told.wait_min, told.pickup_at
        )  # fmt: skip
        assert row["outcome_dropoff_at"] == own[-1].actual_dropoff_at > row["outcome_pickup_at"]
    assert finished > 20
    assert pq.ParquetFile(out).num_row_groups > 3
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_the_file_says_what_it_is(company, tmp_path):
    out = tmp_path / "log.parquet"
    assert export(company, "--quiet", "--out", str(out)) == 0
    schema = pq.read_schema(out)
    assert schema.field("decided_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("booking_id").type == pa.int64() and not schema.field("id").nullable
    assert schema.field("feature_drive_min").type == pa.float64()
    told = json.loads(schema.metadata[decision_export.METADATA_KEY])
    assert told["schema"] == 1 and told["scenario_hash"] == SMALL.sha256
    assert told["commit"] and told["period"]["company_id"] is None
    assert "payload" not in "".join(schema.names)


def test_all_companies_are_in_one_file_and_one_alone_in_its_own(company, tmp_path):
    at = company.clock.now()
    with company.database.writing() as session:
        session.add(a_decision("other", at, None, company_id=8, booking_id=999, seq=0,
                               features={"drive_min": 3, "note": "not a number"}))  # fmt: skip
    try:
        told = tmp_path / "told.json"
        assert export(company, "--quiet", "--json", str(told)) == 0
        found = json.loads(told.read_text())
        assert found["left_out"] == ["note"] and found["path"].endswith(".parquet")
        table = pq.read_table(found["path"])
        assert set(table["company_id"].to_pylist()) == {COMPANY, 8}
        (other,) = [row for row in table.to_pylist() if row["company_id"] == 8]
        assert (other["feature_drive_min"], other["feature_note"]) == (3.0, None)
        assert (other["snapshot_epoch_at"], other["outcome_final"]) == (None, False)
        assert other["decided_at"] == at.astimezone(UTC)
        alone = tmp_path / "alone.parquet"
        assert export(company, "--quiet", "--company-id", "8", "--out", str(alone)) == 0
        assert pq.read_metadata(alone).num_rows == 1
    finally:
        with company.database.writing() as session:
            session.delete(session.get(Decision, "other"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "2020-01-01", "--until", "2020-02-01"], "there is no decision from 2020-01"),
        (["--since", "2020-02-01", "--until", "2020-02-01"], "is not after --since"),
        (["--since", "2020-02-30", "--until", "2020-03-01"], "'2020-02-30' is not a date"),
        (["--since", "2020-02-01", "--until", "2030-02-01", "--company-id", "99"],
         "there is no company 99"),
        (["--since", "2020-02-01", "--until", "2030-02-01", "--company-id", "0"], "'0' is not a"),
        (["--since", "2020-02-01", "--until", "2030-02-01", "--out", "{file}/x.parquet"],
         "cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_sentence_and_exit_code_two(
    company, tmp_path, capsys, words, said
):
    (tmp_path / "file").write_text("in the way")
    words = [word.format(file=tmp_path / "file") for word in words]
    try:
        code = exit_code(export_decisions.main, words)
    except SystemExit as left:  # argparse
        code = left.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.rglob("*.parquet*")) == []


def test_a_database_without_tables_is_one_sentence(atmr_home, capsys):
    words = ["--since", "2020-01-01", "--until", "2020-02-01"]
    assert exit_code(export_decisions.main, words) == 2
    assert "the database refuses" in capsys.readouterr().err


def test_neither_the_app_nor_the_script_s_import_loads_pyarrow():
    code = (
        "import sys, app, wsgi, services.dispatching.decision_export, scripts.rl.export_decisions;"
        "sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
