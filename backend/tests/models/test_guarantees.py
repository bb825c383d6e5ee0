"""What the tables themselves refuse, whoever writes: the guarantees of dispatch and of the log."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from extensions import Database
from models import Assignment, Base, Commitment, Decision
from tests.rows import a_commitment, a_decision, a_snapshot, host_rows

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    url = (
        f"sqlite:///{tmp_path / 'x.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    database = Database(url)
    Base.metadata.create_all(database.engine)
    with database.writing() as work:
        host_rows(work, NOW)
        work.add(Assignment(id=2, booking_id=1, driver_id=1, assigned_at=NOW))
        work.flush()
        work.add(a_commitment(1, NOW))
    yield database
    database.dispose()


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": 1, "order_no": 1},  # the same booking, another place
        {"booking_id": 2},  # another booking, the same place (and a booking that is not there)
        {"slot": -1, "booking_id": 2},
        {"state": "lost", "slot": 1},
    ],
)
def test_no_two_commitments_of_a_booking_or_of_a_drivers_place(database, changes):
    with pytest.raises(IntegrityError), database.writing() as work:
        work.add(a_commitment(2, NOW, **changes))
    with database.reading() as work:
        assert work.get(Commitment, 1).slot == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"action": "defer"},  # with a driver
        {"action": "assign", "driver_id": None},
        {"propensity": 1.1},
        {"reason_code": "Mrs Smith was rude"},
        {"source": "oracle"},
    ],
)
def test_the_log_takes_no_decision_that_cannot_be(database, changes):
    with pytest.raises(IntegrityError), database.writing() as work:
        work.add(snapshot := a_snapshot(NOW))
        work.flush()
        work.add(a_decision("d1", NOW, snapshot.id, **changes))
    with database.reading() as work:
        assert work.get(Decision, "d1") is None
