"""The SQL reader, on real SQLite and PostgreSQL: what it selects, converts and refuses."""

import sqlite3
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine

from models import HOST_TABLES, Base
from models.database_url import described, parse_url
from models.history_reader import read_history
from models.history_writer import write_database, write_sqlite
from services.rl.data.columns import ColumnMapping
from services.rl.data.synthetic_history import SyntheticHistory, synthesise_history
from services.rl.data.validation import validate
from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import load_scenario

LONG_AFTER = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'company.sqlite'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture(scope="module")
def invented() -> SyntheticHistory:
    return synthesise_history(
        load_scenario("geneva_small"), start=date(2025, 3, 3), days=14, seed=1
    )


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def statements():
    """Every SQL statement that is executed."""
    seen: list[str] = []

    def remember(_conn, _cursor, statement, *_rest):
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", remember)
    yield seen
    event.remove(Engine, "before_cursor_execute", remember)


def test_what_was_written_is_read_with_its_outcomes(url, invented):
    write_database(invented, url)
    raw = read_history(url, days=90, until=LONG_AFTER)
    history = validate(raw)
    assert len(history.bookings) == len(invented.bookings)
    assert not history.rejections.entries
    outcome = {row["booking_id"]: row for row in invented.assignments}
    for booking, row in zip(history.bookings, invented.bookings, strict=True):
        assert booking["scheduled_s"] == row["scheduled_time"].timestamp()
        assert booking["created_s"] == row["created_at"].timestamp()
        pickup = outcome.get(row["id"], {}).get("actual_pickup_at")
        assert (booking["pickup_s"] == booking["pickup_s"]) == (pickup is not None)
        if pickup is not None:
            assert booking["pickup_s"] == pickup.timestamp()
            driver = history.driver_keys[booking["driver"]]
            assert driver == str(outcome[row["id"]]["driver_id"])
    assert len(raw.drivers) == len(invented.drivers)


def test_only_explicit_columns_are_selected_and_names_never(url, invented, statements):
    write_database(invented, url)
    execute(
        url,
        "ALTER TABLE booking ADD COLUMN customer_name VARCHAR(80)",
        "ALTER TABLE booking ADD COLUMN notes TEXT",
        "UPDATE booking SET customer_name = 'Mme Dupont', notes = 'code 4711'",
    )
    statements.clear()
    raw = read_history(url, days=90, until=LONG_AFTER)
    assert "Dupont" not in repr(raw)
    selects = [s for s in statements if "booking" in s and s.lstrip().upper().startswith("SELECT")]
    assert any("booking.pickup_lat" in s for s in selects)
    for statement in selects:
        assert "customer_name" not in statement
        assert "notes" not in statement
        assert "*" not in statement.replace("count(*)", "") or "pg_catalog" in statement


def test_sqlite_itself_would_forbid_reading_the_name(tmp_path, invented):
    """The database refuses any read of the name column, whatever the SQL looks like."""
    path = tmp_path / "company.sqlite"
    write_sqlite(invented, path)
    execute(f"sqlite:///{path}", "ALTER TABLE booking ADD COLUMN customer_name VARCHAR(80)")
    touched: set[str] = set()

    def guard(action, table, column, _database, _trigger):
        if action == sqlite3.SQLITE_READ and table == "booking":
            touched.add(column)
            if column == "customer_name":
                return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def install(connection, _record):
        connection.set_authorizer(guard)

    event.listen(Engine, "connect", install)
    try:
        raw = read_history(f"sqlite:///{path}", days=90, until=LONG_AFTER)
    finally:
        event.remove(Engine, "connect", install)
    assert len(raw) == len(invented.bookings)
    assert {"pickup_lat", "scheduled_time"} <= touched
    assert "customer_name" not in touched


def test_the_period_ends_with_the_last_past_booking(url, invented):
    write_database(invented, url)
    until = datetime(2025, 3, 10, 0, 0, tzinfo=UTC)
    raw = read_history(url, days=2, until=until)
    instants = validate(raw).bookings["scheduled_s"]
    days = {datetime.fromtimestamp(s, UTC).date() for s in instants}
    assert date(2025, 3, 8) in days  # Saturday, the last day of work before
    if url.startswith("postgresql"):
        assert max(days) <= date(2025, 3, 9)
    assert min(days) >= date(2025, 3, 5)


def test_one_company_at_a_time(url, invented):
    write_database(invented, url)
    execute(url, "UPDATE booking SET company_id = 2 WHERE id <= 10")
    with pytest.raises(DataError, match="2 companies"):
        validate(read_history(url, days=90, until=LONG_AFTER))
    raw = read_history(url, days=90, until=LONG_AFTER, company_id="2")
    assert len(validate(raw, "2").bookings) == 10
    assert raw.drivers == []


def test_of_several_assignments_the_one_with_a_pickup_counts(url, invented):
    write_database(invented, url)
    served = next(row for row in invented.assignments if row["actual_pickup_at"] is not None)
    last = max(row["id"] for row in invented.assignments)
    other = 1 + served["driver_id"] % 3
    execute(
        url,
        "INSERT INTO assignment (id, booking_id, driver_id, assigned_at, status) "  # noqa: S608
        f"VALUES ({last + 1}, {served['booking_id']}, {other}, '2025-12-31 00:00:00', 'CANCELED')",
    )
    raw = read_history(url, days=90, until=LONG_AFTER)
    row = raw.columns["id"].index(served["booking_id"])
    assert raw.columns["driver_id"][row] == served["driver_id"]


def test_a_booking_without_a_time_is_read_and_rejected(url, invented):
    write_database(invented, url)
    rename = "ALTER TABLE booking RENAME COLUMN scheduled_time TO promised_old"
    add = "ALTER TABLE booking ADD COLUMN scheduled_time TIMESTAMP"
    fill = "UPDATE booking SET scheduled_time = promised_old WHERE id <> 5"
    execute(url, rename, add, fill)
    history = validate(read_history(url, days=90, until=LONG_AFTER))
    assert history.rejections.counts() == {"missing_field": 1}


def test_text_that_is_no_time_costs_one_row_on_sqlite(tmp_path, invented):
    path = tmp_path / "company.sqlite"
    write_sqlite(invented, path)
    url = f"sqlite:///{path}"
    execute(
        url,
        "UPDATE booking SET scheduled_time = 'soon' WHERE id = 3",
        "UPDATE booking SET created_at = '2025-13-45' WHERE id = 4",
        "UPDATE booking SET scheduled_time = '2025-03-05T09:00:00+01:00' WHERE id > 4",
    )
    history = validate(read_history(url, days=90, until=LONG_AFTER))
    counts = history.rejections.counts()
    assert counts["time_without_zone"] > 0
    assert sum(counts.values()) + len(history.bookings) == len(invented.bookings)


def test_another_schema_is_read_through_a_mapping(url, invented):
    write_database(invented, url)
    execute(
        url,
        "ALTER TABLE booking RENAME TO reservations",
        "ALTER TABLE reservations RENAME COLUMN id TO reservation_no",
        "ALTER TABLE assignment RENAME COLUMN booking_id TO reservation",
    )
    mapping = ColumnMapping(
        source="columns.yaml",
        tables={"booking": "reservations"},
        columns={
            "booking": {"id": "reservation_no", "is_urgent": None},
            "assignment": {"booking_id": "reservation"},
        },
    )
    history = validate(read_history(url, days=90, until=LONG_AFTER, mapping=mapping))
    assert len(history.bookings) == len(invented.bookings)
    assert (history.bookings["driver"] >= 0).any()
    assert history.defaulted == {"is_urgent": len(invented.bookings)}
    wrong = ColumnMapping(
        source="columns.yaml",
        tables={"booking": "reservations"},
        columns={"booking": {"id": "nowhere"}},
    )
    with pytest.raises(DataError, match=r"booking.id is mapped to 'nowhere', but table"):
        read_history(url, days=90, until=LONG_AFTER, mapping=wrong)


def test_missing_tables_and_columns_are_named(url, invented):
    hosts = [Base.metadata.tables[name] for name in HOST_TABLES]
    Base.metadata.create_all(engine := create_engine(url), tables=hosts)
    engine.dispose()
    with pytest.raises(DataError, match="empty"):
        validate(read_history(url, days=90, until=LONG_AFTER))
    execute(url, "ALTER TABLE booking DROP COLUMN pickup_lat")
    with pytest.raises(DataError, match="'booking' has no column for the required field 'pickup_"):
        read_history(url, days=90, until=LONG_AFTER)
    execute(url, "DROP TABLE assignment", "DROP TABLE booking")
    with pytest.raises(DataError, match="no table 'booking'"):
        read_history(url, days=90, until=LONG_AFTER)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "cannot be understood"),
        ("oracel://x", "cannot be understood"),
        ("sqlite:////nowhere/at/all.sqlite", "does not exist"),
    ],
)
def test_a_wrong_url_is_one_sentence(url, words):
    with pytest.raises(UsageError, match=words):
        read_history(url, days=90, until=LONG_AFTER)


def test_an_unreachable_server_is_one_sentence_without_the_password():
    url = "postgresql://atmr:s3cret@127.0.0.1:1/atmr?connect_timeout=2"
    with pytest.raises(DataError) as caught:
        read_history(url, days=90, until=LONG_AFTER)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reports_name_a_database_without_user_password_or_folder():
    assert described(parse_url("postgresql://u:p@db.example/atmr")) == (
        "postgresql database atmr on db.example"
    )
    assert described(parse_url("sqlite:////home/someone/h.sqlite")) == "SQLite h.sqlite"


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    path = tmp_path / "text.sqlite"
    path.write_text("this is no database" * 100)
    with pytest.raises(DataError, match="cannot be read"):
        read_history(f"sqlite:///{path}", days=90, until=LONG_AFTER)


@pytest.mark.postgres
def test_naive_postgres_timestamps_are_read_on_the_mapped_clock(postgres_database):
    execute(
        postgres_database,
        "CREATE TABLE booking (id int, pickup_lat float8, pickup_lon float8, dropoff_lat float8, "
        "dropoff_lon float8, scheduled_time timestamp, created_at timestamp)",
        "CREATE TABLE driver (id int)",
        "CREATE TABLE assignment (booking_id int, driver_id int)",
        "INSERT INTO booking VALUES "
        "(1, 46.2, 6.1, 46.1, 6.2, '2025-07-01 10:00', '2025-07-01 08:00')",
    )
    expected = datetime(2025, 7, 1, 10, tzinfo=UTC)
    for zone, hours in ((None, 0), ("Europe/Zurich", 2)):
        mapping = ColumnMapping(naive_times=zone)
        raw = read_history(postgres_database, days=9, until=LONG_AFTER, mapping=mapping)
        seconds = validate(raw).bookings["scheduled_s"][0]
        assert seconds == (expected - timedelta(hours=hours)).timestamp()


def test_shifts_are_clock_times_on_both_databases(url, invented):
    write_database(invented, url)
    first = read_history(url, days=90, until=LONG_AFTER).drivers[0]["shift_start"]
    assert first in (time(8), "08:00:00", "08:00:00.000000")
