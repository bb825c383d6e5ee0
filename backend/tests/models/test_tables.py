"""Instants survive both databases; names of patients are not mapped."""

from datetime import UTC, datetime, time, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from models import Assignment, Base, Booking, Driver, shown


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tables.sqlite'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def engine(database):
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def a_booking(**changes) -> Booking:
    values = {
        "company_id": 1,
        "pickup_lat": 46.2,
        "pickup_lon": 6.1,
        "dropoff_lat": 46.19,
        "dropoff_lon": 6.15,
        "scheduled_time": datetime(2025, 3, 3, 9, 0, tzinfo=UTC),
        "created_at": datetime(2025, 3, 2, 9, 0, tzinfo=UTC),
        **changes,
    }
    return Booking(**values)


def test_an_instant_comes_back_aware_in_utc_whatever_zone_it_was_written_in(engine):
    zurich = timezone(timedelta(hours=1))
    instant = datetime(2025, 3, 3, 10, 0, tzinfo=zurich)
    with Session(engine) as session:
        session.add(a_booking(scheduled_time=instant))
        session.commit()
    with Session(engine) as session:
        read = session.scalars(select(Booking)).one().scheduled_time
    assert read == instant
    assert read.tzinfo is UTC
    assert (read.hour, shown(read).hour) == (9, 10)


def test_a_naive_time_is_refused(engine):
    with (
        Session(engine) as session,
        pytest.raises(StatementError, match="no time zone"),
    ):
        session.add(a_booking(scheduled_time=datetime(2025, 3, 3, 9, 0)))  # noqa: DTZ001
        session.commit()


def test_instants_compare_in_the_database(engine):
    with Session(engine) as session:
        session.add(a_booking())
        session.commit()
        zurich = timezone(timedelta(hours=1))
        before = datetime(2025, 3, 3, 9, 59, tzinfo=zurich)
        after = datetime(2025, 3, 3, 10, 1, tzinfo=zurich)
        found = select(Booking).where(Booking.scheduled_time.between(before, after))
        assert len(session.scalars(found).all()) == 1
        assert session.scalars(select(Booking).where(Booking.scheduled_time < before)).all() == []


def test_an_assignment_joins_its_booking_and_driver(engine):
    with Session(engine) as session:
        driver = Driver(company_id=1, shift_start=time(8), shift_end=time(16))
        booking = a_booking()
        session.add_all([driver, booking])
        session.flush()
        session.add(
            Assignment(
                booking_id=booking.id, driver_id=driver.id, assigned_at=booking.scheduled_time
            )
        )
        session.commit()
        read = session.scalars(select(Assignment)).one()
        assert (read.status, read.actual_pickup_at) == ("ASSIGNED", None)
        assert session.get(Driver, read.driver_id).shift_end == time(16)


def test_an_impossible_priority_is_refused_by_the_table(engine):
    with Session(engine) as session, pytest.raises(IntegrityError):
        session.add(a_booking(priority=6))
        session.commit()


def test_no_column_for_names_or_free_text_is_mapped():
    mapped = {c.name for c in Booking.__table__.columns}
    assert not {"customer_name", "notes"} & mapped


@pytest.mark.postgres
def test_postgres_stores_timestamps_with_zone(postgres_database):
    engine = create_engine(postgres_database)
    Base.metadata.create_all(engine)
    kind = text(
        "SELECT data_type FROM information_schema.columns "
        "WHERE table_name = 'booking' AND column_name = 'scheduled_time'"
    )
    with engine.connect() as connection:
        assert connection.scalar(kind) == "timestamp with time zone"
    engine.dispose()
