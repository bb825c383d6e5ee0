"""The database's picture of a fleet is the simulator's."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from extensions import Database
from models import Base
from services.dispatching.fleet import read_fleet
from services.dispatching.operating_day import operating_day
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine, travel_tables
from services.rl.simulation.scenarios import load_scenario

from .mirrored_days import COMPANY, ZONE, mirror, start_of_day


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.dispose()


def fleet_of(session: Session, scenario, now, day):
    return read_fleet(session, COMPANY, now, day, scenario, travel_tables(scenario), ZONE)


def test_a_mirrored_day_gives_the_simulators_states(database, atmr_home):
    scenario = load_scenario("geneva")
    policy = make_policy("nearest", scenario)
    engine = Engine(scenario, 1)
    engine.start(np.array([7]))
    day = operating_day(start_of_day(), scenario.rules, ZONE)
    compared = jobs = 0
    while not engine.ended(0):
        expected = engine.state(0)
        if compared % 8 == 0:
            with database.writing() as session:
                mirror(session, engine, day)
                found = fleet_of(session, scenario, day.instant(engine.now_min(0)), day)
            rows = [int(name.removeprefix("booking-")) + 1 for name in expected.booking_ids]
            order = {int(name): i for i, name in enumerate(found.state.booking_ids)}
            assert sorted(rows) == sorted(order)
            take = [order[row] for row in rows]
            for name in expected.bookings.dtype.names:
                if name.endswith("zone") or name == "fare":
                    continue
                np.testing.assert_allclose(
                    found.state.bookings[name][take].astype(float),
                    expected.bookings[name].astype(float),
                    rtol=0,
                    atol=1e-4,
                    err_msg=name,
                )
            for name in ("lat", "lon", "committed", "wheelchair", "emergency", "shift_end_min"):
                np.testing.assert_allclose(
                    found.state.drivers[name].astype(float),
                    expected.drivers[name].astype(float),
                    rtol=0,
                    atol=1e-4,
                    err_msg=name,
                )
            now = engine.now_min(0)
            np.testing.assert_allclose(
                np.maximum(now, found.state.drivers["free_at_min"]),
                np.maximum(now, expected.drivers["free_at_min"]),
                rtol=0,
                atol=1e-3,
            )
            jobs += int(expected.drivers["committed"].sum())
        compared += 1
        for decision in policy.decide(expected).decisions:
            engine.commit(0, decision.driver, int(expected.booking_ids[decision.booking][8:]))
        engine.wait(0)
    assert compared > 80 and jobs > 30
