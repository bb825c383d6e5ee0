"""The command that plays a day under two policies, as a person types it."""

import json

import pytest
import yaml

from scripts.rl import replay_day
from scripts.rl.command import exit_code
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_clock import TERM
from services.rl.simulation.scenarios import load_scenario
from tests.rl.simulation.worlds import manhattan


def replay(*arguments):
    return exit_code(replay_day.main, [str(a) for a in arguments])


def test_a_day_is_replayed_and_written(atmr_home, capsys):
    document = atmr_home / "replay.json"
    small = ("--scenario", "geneva_small", "--day", 1_000_003, "--moments", 1)
    assert replay(*small, "--policies", "nearest,matching", "--json", document) == 0
    folder = atmr_home / "results" / "replay"
    assert {f.name for f in folder.iterdir()} == {
        "replay.md", "decisions.csv", "reward.png", "moment_1.png",
    }  # fmt: skip
    found = json.loads(document.read_text())
    rewards = [policy["kpis"]["reward"] for policy in found["policies"]]
    assert found["difference"] == pytest.approx(rewards[1] - rewards[0])
    booked = sum(fate["difference"] for fate in found["by_fate"].values())
    assert booked + found["difference_of_no_booking"] == pytest.approx(found["difference"])
    assert {"command", "commit", "machine"} <= found.keys()
    out = capsys.readouterr().out
    assert f"{rewards[0]:.1f}" in out and "replay.md" in out
    assert "geneva_small, seed 1000003" in (folder / "replay.md").read_text()


def test_a_real_day_is_named_by_its_label(atmr_home, tmp_path, capsys):
    scenario, _, days = manhattan(tmp_path / "data")
    file = tmp_path / "miniature.yaml"
    file.write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    real = ("--scenario", file, "--data-dir", tmp_path / "data", "--policies", "nearest,matching")
    out = tmp_path / "out"
    assert replay(*real, "--day", days[1].label, "--out", out, "--moments", 1, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert days[1].label in (out / "replay.md").read_text()
    assert replay(*real, "--day", "1999-01-01", "--out", out) == 2
    assert "has no day '1999-01-01': they run from 2015-03-02 to" in capsys.readouterr().err


def test_planner_values_of_another_scenario_need_transfer(atmr_home, capsys):
    geneva = load_scenario("geneva")
    values = PlannerValues(
        TERM, (0.0,) * len(TERM), 150.0, 4.0, geneva.name, geneva.sha256, provenance={}
    )
    values.save(atmr_home / "model" / "planner.json")
    asked = ("--scenario", "geneva_small", "--policies", "nearest,planner@50", "--moments", 1)
    model = ("--model", atmr_home / "model", "--out", atmr_home / "out")
    assert replay(*asked, *model) == 2
    assert "--transfer" in capsys.readouterr().err
    assert replay(*asked, *model, "--transfer") == 0
    text = (atmr_home / "out" / "replay.md").read_text()
    assert "planner@50: values fitted on geneva (another scenario" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "nearest,nowhere"], "unknown policy 'nowhere'"),
        (["--policies", "nearest,nearest"], "the same policy"),
        (["--policies", "rolling_search,rolling_search@6000"], "the same policy"),
        (["--policies", "nearest"], "takes two names"),
        (["--policies", "nearest,matching,random"], "takes two names"),
        (["--policies", "nearest,hindsight"], "decides nothing"),
        (["--policies", "nearest,dqn"], "needs a trained network"),
        (["--policies", "nearest,planner"], "planner values"),
        (["--day", "-1"], "seed must be"),
        (["--day", str(2**63)], "seed must be"),
        (["--day", "2026-03-02"], "seed must be"),
        (["--day", "tomorrow"], "seed must be"),
        (["--scenario", "atlantis"], "atlantis"),
        (["--out", "in_the_way/folder"], "cannot be made"),
        (["--json", "in_the_way/replay.json"], "cannot be made"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments, words, atmr_home, monkeypatch, capsys
):
    monkeypatch.chdir(atmr_home)
    (atmr_home / "in_the_way").write_text("a file")
    asked = ["--scenario", "geneva_small", "--policies", "nearest,matching", *arguments]
    assert replay(*asked) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not list(atmr_home.rglob("replay.md"))


def test_a_folder_that_turns_out_not_to_be_writable_is_one_sentence(atmr_home, capsys):
    out = atmr_home / "out"
    (out / "replay.md").mkdir(parents=True)  # a folder where the report should go
    small = ("--scenario", "geneva_small", "--policies", "nearest,matching", "--moments", 1)
    assert replay(*small, "--out", out) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and len(error.splitlines()) == 1
