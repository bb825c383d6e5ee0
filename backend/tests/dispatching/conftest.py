"""A company whose day is lived in a database."""

import pytest

from services.rl.simulation.scenarios import load_scenario

from .companies import Company


@pytest.fixture
def company(tmp_path, atmr_home):
    made = Company(f"sqlite:///{tmp_path / 'day.sqlite'}", load_scenario("geneva_small"), 11)
    yield made
    made.database.dispose()
