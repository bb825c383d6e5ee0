"""A demonstration company lives its day as production would; the pages' figures agree with it."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sqlalchemy import func, select

from extensions import Database
from models import Assignment, Base, Booking, Decision
from services.dispatching.demo_company import DemoCompany
from services.dispatching.operating_day import day_of
from services.dispatching.outcomes import outcome_of, read_outcomes
from services.dispatching.pulse import BLOCK, Pulse
from services.dispatching.situation import URGENCIES, latest_departures, read_situation
from services.rl.simulation.scenarios import load_scenario

ZONE = ZoneInfo("Europe/Zurich")
SMALL = load_scenario("geneva_small")
LOCAL = date(2026, 3, 3)
DAY = day_of(LOCAL, SMALL.rules, ZONE)
NOON = DAY.instant(270)


@pytest.fixture(scope="module")
def company(tmp_path_factory):
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.sqlite'}")
    Base.metadata.create_all(database.engine)
    made = DemoCompany(database, SMALL, ZONE, company_id=3, first_id=100)
    made.open_experiment(DAY.start)
    made.live(LOCAL, NOON)
    yield made
    database.dispose()


def situation(company):
    with company.database.reading() as session:
        return read_situation(
            session, 3, NOON, SMALL, company.dispatcher.desk.tables, ZONE
        )  # fmt: skip


def test_half_a_day_is_in_progress(company):
    with company.database.reading() as session:
        status = dict(
            session.execute(select(Booking.status, func.count()).group_by(Booking.status)).all()
        )
        first = session.scalar(select(func.min(Booking.id)))
    assert status["COMPLETED"] >= 3 and status["PENDING"] >= 1 and first >= 100
    now = situation(company)
    assert now.committed >= 1 and len(now.drivers) == 3
    assert all(d.seen_min is not None for d in now.drivers if d.state in ("driving", "onboard"))


def test_the_last_departure_is_the_dispatchers_own(company):
    dispatcher = company.dispatcher
    fleet, limits = dispatcher.look(3)
    latest, fits = latest_departures(fleet, SMALL, dispatcher.desk.tables)
    assert len(limits) == len(latest) > 0
    rows = zip(fleet.bookings, limits, latest, fits, strict=True)
    for booking, (at, serviceable), minute, fit in rows:
        assert serviceable == bool(fit)
        past = booking.id in fleet.stretched  # shown with a window that is not its own
        assert (at is None) == (past or not np.isfinite(minute))
        if at is not None:
            assert abs(at - fleet.day.instant(float(minute))) < timedelta(seconds=1)


def test_bookings_stand_by_urgency(company):
    found = [URGENCIES.index(b.urgency) for b in situation(company).bookings]
    assert found == sorted(found)


def test_outcomes_of_all_and_of_one_agree_and_may_be_remembered(company):
    end = DAY.instant(600)
    known = {}
    with company.database.reading() as session:
        read = read_outcomes(session, 3, DAY.start, end, NOON, SMALL.rules, known=known)
        again = read_outcomes(session, 3, DAY.start, end, NOON, SMALL.rules, known=known)
        for row in read.rows:
            booking = session.get(Booking, row.booking_id)
            assignments = list(
                session.scalars(select(Assignment).where(Assignment.booking_id == row.booking_id))
            )
            decisions = list(
                session.scalars(
                    select(Decision)
                    .where(Decision.booking_id == row.booking_id)
                    .order_by(Decision.decided_at)
                )
            )
            alone = outcome_of(booking, assignments, decisions, NOON, SMALL.rules)
            if row.fate not in ("open", "not_due"):
                assert alone == row
            assert alone.fate == row.fate
    assert again.rows == read.rows and known
    counts = read.of()
    assert counts.known == sum(read.of(arm).known for arm in [*read.arms(), ""])
    assert counts.on_time + counts.late >= 3


def test_answers_are_counted_once_per_epoch_and_arm(company):
    pulse = Pulse()
    with company.database.reading() as session:
        blocks = pulse.last_day(session, 3, NOON)
        again = pulse.last_day(session, 3, NOON)
        pairs = session.execute(
            select(Decision.snapshot_id, Decision.arm).where(Decision.source == "policy").distinct()
        ).all()
    assert len(blocks) == 48 and blocks == again
    assert sum(b.answers for b in blocks) == len(pairs)
    assert all(b.begin + BLOCK > NOON - timedelta(hours=24) for b in blocks)
    learned = sum(b.learned for b in blocks)
    assert 0 < learned < len(pairs)
    # Without a registry nothing stands behind the learned arm: the heuristic answers, and it shows.
    assert sum(b.fallbacks for b in blocks) == learned
    assert {reason for b in blocks for reason, _ in b.reasons} == {"no_model"}
