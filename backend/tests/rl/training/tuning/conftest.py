"""Quiet, and a storage of each test's own."""

import pytest

from services.rl.training.tuning.storage import close, open_storage


@pytest.fixture
def storage(atmr_home):
    """The default SQLite file, in this test's home."""
    opened = open_storage(heartbeat_s=1, grace_s=3)
    yield opened
    close(opened)
