"""A loop on a database of its own, with clocks that stand still."""

from datetime import UTC, datetime, time

import pytest

from clock import FixedClock
from config import Config
from extensions import Database
from migrations import upgrade
from models import Driver
from services.learning.loop import open_loop
from services.learning.workplace import Workplace

NOW = datetime(2026, 3, 2, 9, 1, tzinfo=UTC)
COMPANIES = (3, 7)


@pytest.fixture
def config(atmr_home):
    return Config(database_url=f"sqlite:///{atmr_home / 'loop.sqlite'}", scenario="geneva_small")


@pytest.fixture
def place(config):
    """Two companies' workplace."""
    database = Database(config.database_url.get_secret_value())
    upgrade(database.engine)
    with database.writing() as session:
        for company_id in COMPANIES:
            session.add(
                Driver(company_id=company_id, is_active=True, shift_start=time(8),
                       shift_end=time(16), home_lat=46.2, home_lon=6.15)
            )  # fmt: skip
    database.dispose()
    with open_loop(config, clock=FixedClock(NOW)) as loop:
        yield Workplace(loop, machine=FixedClock(NOW))
