"""The command that collects says what it did, and finds what differs."""

import json

import pytest

from scripts.rl.collect_experiences import main
from scripts.rl.command import exit_code
from tests.learning.conftest import loop_on
from tests.learning.simulated_log import COMPANY, hire, log_day
from tests.redis_server import RedisServer, find_redis


@pytest.fixture
def lived(tmp_path, atmr_home, monkeypatch):
    """A company's Monday in the database that the environment names."""
    from datetime import date

    from clock import SystemClock
    from services.dispatching.operating_day import day_of
    from services.rl.simulation.scenarios import load_scenario
    from tests.dispatching.mirrored_days import ZONE

    small = load_scenario("geneva_small")
    url = f"sqlite:///{tmp_path / 'atmr.sqlite'}"
    monkeypatch.setenv("ATMR_DATABASE_URL", url)
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    for name in ("ATMR_REDIS_URL", "ATMR_REPLAY_URL"):
        monkeypatch.delenv(name, raising=False)
    loop = loop_on(url, tmp_path, small, SystemClock())
    with loop.database.writing() as session:
        day = day_of(date(2026, 3, 2), small.rules, ZONE)
        hire(session, small, day)
        log_day(session, small, 11, day)
    yield loop
    loop.database.dispose()


def test_it_collects_verifies_and_tells_what_differs(lived, monkeypatch, tmp_path, capsys):
    program = find_redis()
    if program is None:
        pytest.skip("MISSING ROOT PACKAGE: no Redis on this machine")
    with RedisServer(program) as server:
        monkeypatch.setenv("ATMR_REPLAY_URL", server.url)
        path = tmp_path / "report.json"
        assert exit_code(main, ["--json", str(path)]) == 0
        (report,) = json.loads(path.read_text())["companies"]
        assert report["company_id"] == COMPANY and report["advanced"]
        assert report["decisions"] == report["assigned"] + report["folded"]
        assert exit_code(main, ["verify", "--company", str(COMPANY)]) == 0
        assert exit_code(main, ["status"]) == 0
        assert "collected for good before" in capsys.readouterr().out
        from services.rl.data.redis_replay import RedisReplayStore

        store = RedisReplayStore(server.url)
        gone = sorted(store.ids(COMPANY))[0]
        store.remove(COMPANY, [gone])
        assert exit_code(main, ["verify"]) == 1
        assert f"missing: {gone}" in capsys.readouterr().out
        assert exit_code(main, ["rebuild", "--quiet"]) == 0
        assert exit_code(main, ["verify"]) == 0


def test_a_company_that_is_not_there_is_named(lived, capsys):
    assert exit_code(main, ["--company", "99"]) == 2
    assert "there is no company 99" in capsys.readouterr().err
