"""The server that tests start: from packages or from the wheel, and gone afterwards."""

import importlib.util
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from . import postgres_server
from .postgres_server import running_server


def test_the_wheel_serves_where_packages_do_not_and_leaves_nothing(monkeypatch):
    wheel = importlib.util.find_spec("pgserver")
    if wheel is None or wheel.origin is None:
        pytest.skip("the wheel 'pgserver' is not installed (requirements-dev.txt)")
    # As on a machine whose virtual environment lies in a folder closed to other users.
    monkeypatch.setattr(postgres_server, "_visible", lambda _path: False)
    with running_server(Path(wheel.origin).parent / "pginstall" / "bin") as url:
        folder = Path(url.partition("host=")[2])
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1 + 1")) == 2
        engine.dispose()
        assert folder.is_dir()
    assert not folder.exists()
