"""Days against the real API and database: the books add up, in one process and with kills."""

import json

import pytest

from scripts.rl.chaos import main as chaos
from scripts.rl.command import exit_code
from scripts.rl.simulate_production import main as simulate
from services.rl.simulation.scenarios import load_scenario, save_scenario

SHORT_H = 2


@pytest.fixture(scope="module")
def short_days(tmp_path_factory):
    """A small company that works two hours a day: as a file, for other processes."""
    scenario = load_scenario("geneva_small").resized(
        horizon_min=60.0 * SHORT_H, bookings_per_day=14
    )
    path = tmp_path_factory.mktemp("short") / "short.yaml"
    save_scenario(scenario, path)
    return path


def played(tmp_path, *arguments):
    told = tmp_path / "told.json"
    code = exit_code(simulate, [*map(str, arguments), "--json", str(told), "--quiet"])
    return code, json.loads(told.read_text())


def test_days_in_one_process_leave_books_that_add_up(tmp_path, atmr_home, short_days):
    code, told = played(
        tmp_path, "--scenario", short_days, "--days", 2, "--companies", 2,
        "--only", "tick,guardrails,collection,report", "--told-late", 0.2, "--never-told", 0.1,
    )  # fmt: skip
    assert code == 0, told["lines"]
    assert told["add_up"]
    for of in ("1", "2"):
        counts = told["told"][of]["counts"]
        assert counts["booked"] > 15
        assert counts["told_completed"] > 5
        assert told["collections"][of]["assigned"] > 5
    assert told["told"]["1"]["counts"]["told_late"] + told["told"]["2"]["counts"]["told_late"] > 0
    assert set(told["runs"]) == {"tick", "guardrails", "collection", "report"}
    assert all(set(states) == {"done"} for states in told["runs"].values())


def test_nothing_is_lost_or_doubled_by_ten_kills(tmp_path, atmr_home, short_days):
    told = tmp_path / "chaos.json"
    code = exit_code(
        chaos,
        ["--kills", "10", "--days", "1", "--scenario", str(short_days), "--json", str(told),
         "--quiet"],
    )  # fmt: skip
    found = json.loads(told.read_text())
    assert (code, sum(found["kills"].values()), found["trouble"]) == (0, 10, []), found
    assert found["same"] and found["experiences_in_redis"] == found["experiences_by_sql"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["embedded", "distributed"])
def test_the_whole_loop_ends_in_a_judged_candidate(tmp_path, atmr_home, short_days, mode):
    code, told = played(
        tmp_path, "--scenario", short_days, "--days", 3, "--mode", mode,
        "--train-minutes", 0.05, "--gate-days", 40,
    )  # fmt: skip
    assert code == 0, told["lines"]
    assert told["runs"]["retraining"] == {"done": 4}
    assert told["runs"]["rollout"]["done"] > 24


def test_wrong_arguments_are_told_in_a_sentence(capsys, atmr_home):
    assert exit_code(simulate, ["--first", "tomorrow"]) == 2
    assert "no date" in capsys.readouterr().err
    assert exit_code(simulate, ["--only", "tick,sleep"]) == 2
    assert "'sleep' is no task" in capsys.readouterr().err
    assert exit_code(simulate, ["--told-late", "2"]) == 2
    assert "--told-late is a share" in capsys.readouterr().err
    assert exit_code(simulate, ["--redis-url", "redis://127.0.0.1:1/0"]) == 2
    assert "--mode distributed" in capsys.readouterr().err
