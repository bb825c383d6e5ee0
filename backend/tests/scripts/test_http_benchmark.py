"""The load over HTTP: leaves by the clock, works at any hour, measures the real server."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from scripts.rl import benchmark
from scripts.rl.busy_companies import zone_of_day
from scripts.rl.open_loop import at_rate
from services.dispatching.operating_day import operating_day
from services.rl.simulation.scenarios import load_scenario


def test_time_counts_from_the_moment_a_request_was_meant_to_leave():
    async def ask(i):
        if i == 0:
            time.sleep(0.3)  # the generator itself is held up: nothing can leave meanwhile
        return 200

    timed = asyncio.run(at_rate(100, 0.5, ask))
    assert timed.statuses == [200] * 50
    # Ten requests later the delay is what is left of it, not nothing.
    assert timed.took_ms[0] >= 300
    assert 150 < timed.took_ms[10] < 300


def test_what_is_never_answered_counts_as_an_error():
    async def ask(i):
        await asyncio.sleep(60 if i == 3 else 0)
        return 200

    timed = asyncio.run(at_rate(200, 0.05, ask, drain_s=0.2))
    assert timed.statuses.count(0) == 1
    assert timed.statuses[3] == 0


def test_it_is_the_third_hour_of_the_day_at_any_hour():
    scenario = load_scenario("geneva")
    for half_hour in range(48):
        now = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(minutes=30 * half_hour)
        day = operating_day(now, scenario.rules, ZoneInfo(zone_of_day(now, scenario)))
        assert 120 <= day.minute(now) < 180


@pytest.mark.slow
def test_the_benchmark_measures_the_real_server_and_ends(tmp_path):
    path = tmp_path / "http.json"
    code = benchmark.main(
        ["http", "--kind", "planner", "--rate", "10", "--seconds", "3", "--warm-up", "1",
         "--companies", "3", "--json", str(path), "--quiet"]
    )  # fmt: skip
    found = json.loads(path.read_text())
    assert code == 0
    assert found["statuses"] == {"200": 30}
    assert found["assigned"] + found["deferred"] == 30
    assert found["torch_in"] == []
    assert sum(found["decisions"].values()) >= 30
