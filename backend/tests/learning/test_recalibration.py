"""Recent history from SQL becomes a simulator."""

from datetime import UTC, date, datetime

import pytest

from clock import FixedClock
from config import Config
from extensions import Database
from migrations import upgrade
from services.learning.loop import Loop
from services.learning.recalibration import last_finished_day, recalibrate
from services.model_registry import SqlRegistry
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.simulation.scenarios import load_scenario
from tests.learning.histories import ZONE, busier, drawn, write_days

SMALL = load_scenario("geneva_small")
MONDAY = date(2026, 3, 2)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def loop(request, atmr_home):
    url = (
        f"sqlite:///{atmr_home / 'atmr.sqlite'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )
    config = Config.from_environment(database_url=url, scenario="geneva_small")
    database = Database(url)
    upgrade(database.engine)
    clock = FixedClock(datetime(2026, 3, 8, 2, tzinfo=UTC))
    yield Loop(
        config,
        database,
        clock,
        SqlRegistry(database, clock),
        SMALL,
        MemoryReplayStore(100),
        atmr_home,
    )
    database.dispose()


def test_a_weeks_bookings_set_the_level_and_are_there_to_replay(loop, tmp_path):
    days = drawn(busier(SMALL, 1.5, {}), 6, 1)
    write_days(loop.database, SMALL, days, MONDAY)
    write_days(loop.database, SMALL, drawn(SMALL, 3, 2), MONDAY, company=2)
    simulator = recalibrate(loop, 1, tmp_path)
    changes = simulator.changes
    counts = [len(day.bookings) for day in days]
    assert changes["bookings_per_day"]["by_day"] == counts
    assert changes["last_day"] == "2026-03-07"
    assert min(counts) < changes["bookings_per_day"]["now"] < max(counts)
    assert [len(day.bookings) for day in simulator.days] == counts
    assert all(len(day.drivers) <= SMALL.fleet.num_drivers for day in simulator.days)
    assert changes["history"]["kept"] == sum(counts)
    assert changes["pickup_service_min"]["now"] == pytest.approx(
        changes["pickup_service_min"]["then"], rel=0.2
    )


def test_speed_is_told_and_not_changed(loop, tmp_path):
    write_days(loop.database, SMALL, drawn(SMALL, 6, 1), MONDAY, speed_kmh=10.0)
    simulator = recalibrate(loop, 1, tmp_path)
    ratio = simulator.changes["speed_ratio"]
    assert ratio["drives"] > 30
    assert ratio["real_over_served"] == pytest.approx(0.5, abs=0.1)
    assert simulator.training_scenario.travel == SMALL.travel


def test_the_day_under_way_is_left_out(loop, tmp_path):
    write_days(loop.database, SMALL, drawn(SMALL, 6, 1), MONDAY)
    loop.clock.set(datetime(2026, 3, 7, 12, tzinfo=UTC))
    simulator = recalibrate(loop, 1, tmp_path)
    assert simulator.changes["last_day"] == "2026-03-06"
    assert len(simulator.days) == 5


def test_a_company_without_history_trains_on_the_served_demand(loop, tmp_path):
    simulator = recalibrate(loop, 1, tmp_path)
    assert simulator.training_scenario is SMALL
    assert simulator.changes == {"fitted": False, "why": "there is no history yet"}


def test_the_last_finished_day_waits_for_the_last_trips():
    rules = SMALL.rules

    def of(hour, minute=0):
        return last_finished_day(datetime(2026, 3, 4, hour, minute, tzinfo=ZONE), rules, ZONE)

    assert of(3) == date(2026, 3, 3)
    assert of(12) == date(2026, 3, 3)
    assert of(16, 30) == date(2026, 3, 3), "grace and overtime are not over"
    assert of(18) == date(2026, 3, 4)
