"""The end of `make demo`: a company to look at, apart from what a company works with."""

import json
import re
import stat
import threading
from dataclasses import replace
from datetime import date, datetime, timedelta
from http.client import HTTPConnection

import pytest
from sqlalchemy import func, select
from werkzeug.serving import BaseWSGIServer

from clock import ScaledClock, SystemClock
from extensions import Database
from models import ApiKey, Booking, Decision
from scripts.rl import demo, demo_serve
from scripts.rl.command import exit_code
from services.model_registry import SqlRegistry
from services.rl.errors import UsageError
from services.rl.policies.planner_values import planner_values
from services.rl.simulation.scenarios import load_scenario, save_scenario

SMALL = load_scenario("geneva_small")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A demonstration as `make demo` leaves it, on a machine that also has a production."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(home))
        patch.setenv("DATABASE_URL", f"sqlite:///{home / 'production.sqlite'}")
        patch.delenv("ATMR_DATABASE_URL", raising=False)
        patch.setattr(demo_serve, "DAYS_BEFORE", 1)
        patch.setattr(demo_serve, "CHECKED_DAYS", 1)
        world = home / "scenario.yaml"
        save_scenario(SMALL, world)
        values = planner_values(load_scenario("geneva"))[0]
        model = home / "results" / "demo_planner" / "checkpoints" / "best"
        replace(values, scenario=SMALL.name, scenario_hash=SMALL.sha256).save(
            model / "planner.json"
        )
        yield home, lambda: demo_serve.prepare(world, model, quiet=True)


@pytest.fixture(scope="module")
def shown(prepared):
    return prepared[1]()


def database():
    folder = demo_serve.demo_folder()
    return Database(demo_serve.settings(folder).database_url.get_secret_value())


def test_the_planner_is_champion_and_production_is_not_touched(prepared, shown):
    home, _ = prepared
    folder = demo_serve.demo_folder()
    assert folder == home / "data" / "demo"
    at = database()
    registry = SqlRegistry(at, SystemClock(), folder)
    assert registry.alias(None, "champion") == shown["champion"]
    assert registry.get(shown["champion"]).kind == "planner"
    at.dispose()
    assert not (home / "production.sqlite").exists() and not (home / "models").exists()


def test_the_session_key_is_a_secret(shown):
    path = demo_serve.demo_folder() / "secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())
    assert path.read_text().strip() not in demo.invitation(shown)


def test_the_invitation_names_command_addresses_and_keys(shown):
    said = demo.invitation(shown)
    for part in ("make demo-serve", "/dashboard", "/docs", shown["manager_key"], "--new-key"):
        assert part in said
    files = [p for p in demo_serve.demo_folder().rglob("*") if p.is_file()]
    assert not [p for p in files if shown["manager_key"].encode() in p.read_bytes()]


def test_days_were_decided_by_both_arms_and_today_is_in_progress(shown):
    at = database()
    with at.reading() as session:
        arms = set(session.scalars(select(Decision.arm).where(Decision.source == "policy")))
        states = dict(
            session.execute(select(Booking.status, func.count()).group_by(Booking.status)).all()
        )
    at.dispose()
    assert arms >= {"heuristic", "rl"}
    assert states["COMPLETED"] > 10 and states["PENDING"] >= 1
    assert sum(states.values()) == shown["bookings"]


def test_it_is_served_and_the_day_goes_on(prepared, shown, monkeypatch, capsys):
    monkeypatch.setattr(demo_serve, "_LIVE_EVERY_S", 0.1)
    served = {}

    def until_seen(self):
        thread = threading.Thread(target=BaseWSGIServer.serve_forever, args=(self,))
        thread.start()
        headers = {"Authorization": f"Bearer {shown['manager_key']}"}
        for path in ("/dashboard/login", "/docs", "/readyz", "/api/v1/bookings?limit=1"):
            asked = HTTPConnection("127.0.0.1", self.server_port, timeout=60)
            asked.request("GET", path, headers=headers)
            served[path] = asked.getresponse().status
            asked.close()
        standing = demo_serve.demo_folder() / "standing.json"
        before = demo_serve.Standing.load(standing)
        for _ in range(600):
            after = demo_serve.Standing.load(standing)
            if datetime.fromisoformat(after.moment) - datetime.fromisoformat(
                before.moment
            ) > timedelta(minutes=10):
                break
            threading.Event().wait(0.1)
        served["lived"] = after.moment > before.moment
        self.shutdown()
        thread.join()

    monkeypatch.setattr("werkzeug.serving.ThreadedWSGIServer.serve_forever", until_seen)
    count = _bookings_and_decisions()
    assert exit_code(demo_serve.main, ["--port", str(_free_port()), "--speed", "200"]) == 0
    assert served == {
        "/dashboard/login": 200, "/docs": 200, "/readyz": 200, "/api/v1/bookings?limit=1": 200,
        "lived": True,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "/dashboard" in said and "goes on from here" in said
    assert _bookings_and_decisions() > count


def test_after_the_last_hour_the_next_day_begins(prepared, shown):
    folder = demo_serve.demo_folder()
    standing = demo_serve.Standing.load(folder / "standing.json")
    at = database()
    registry = SqlRegistry(at, SystemClock(), folder)
    config = demo_serve.settings(folder)
    company = demo_serve._company(at, SMALL, config, registry)
    today = date.fromisoformat(standing.date)
    moment = datetime.fromisoformat(standing.moment)
    company.resume(today, standing.first_booking, moment)
    life = demo_serve.Life(company, ScaledClock(moment + timedelta(days=1), 1.0), today,
                           folder / "standing.json")  # fmt: skip
    life.step()
    assert company.over
    life.step()
    at.dispose()
    later = demo_serve.Standing.load(folder / "standing.json")
    assert date.fromisoformat(later.date) == today + timedelta(days=1)
    assert later.first_booking > standing.first_booking
    assert not company.over


def test_a_second_demonstration_takes_the_place_of_the_first(prepared, shown):
    folder = demo_serve.demo_folder()
    secret = (folder / "secret_key").read_text()
    again = prepared[1]()
    assert again["bookings"] == shown["bookings"]
    assert again["manager_key"] != shown["manager_key"]
    assert (folder / "secret_key").read_text() == secret
    assert not folder.with_name("demo.partial").exists()
    at = database()
    with at.reading() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 2
    at.dispose()


def test_a_lost_key_is_replaced(prepared, shown, capsys):
    assert exit_code(demo_serve.main, ["--new-key"]) == 0
    assert re.match(r"manager key: atmr_", capsys.readouterr().out)


def test_without_a_demonstration_one_sentence_says_what_to_run(atmr_home, capsys):
    assert exit_code(demo_serve.main, []) == 2
    error = capsys.readouterr().err
    assert "run `make demo` first" in error and "Traceback" not in error


def test_a_taken_port_is_named(prepared, shown):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="PORT=8001"):
            demo_serve.serve(demo_serve.demo_folder(), taken.getsockname()[1], 1.0)


def test_a_damaged_standing_says_to_make_it_again(prepared, shown, capsys):
    path = demo_serve.demo_folder() / "standing.json"
    kept = path.read_text()
    path.write_text(json.dumps({"date": "2026-13-01"}))
    try:
        assert exit_code(demo_serve.main, ["--port", str(_free_port())]) == 2
        assert "run `make demo` again" in capsys.readouterr().err
    finally:
        path.write_text(kept)


def _free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _bookings_and_decisions():
    at = database()
    with at.reading() as session:
        found = [session.scalar(select(func.count()).select_from(t)) for t in (Booking, Decision)]
    at.dispose()
    return sum(found)
