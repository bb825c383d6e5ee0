"""The script that checks the experiment statistics' word, in small."""

import json

import pytest

from scripts.rl.check_experiments import main
from scripts.rl.command import exit_code


def test_too_few_experiments_prove_nothing_and_the_figures_are_written(tmp_path, capsys):
    path = tmp_path / "aa.json"
    argv = ["--aa", "3", "--cells", "first-week-switchback", "--json", str(path)]
    assert exit_code(main, argv) == 1
    assert "MISSED: A/A first-week-switchback" in capsys.readouterr().out
    (cell,) = json.loads(path.read_text())["aa"]
    assert cell["called"] == 0 and cell["upper_bound"] == pytest.approx(0.6316, abs=1e-4)


def test_power_is_compared_with_the_days_predicted(tmp_path):
    path = tmp_path / "power.json"
    argv = ["--power", "6", "--cells", "overloaded-switchback", "--json", str(path), "--quiet"]
    exit_code(main, argv)
    (cell,) = json.loads(path.read_text())["power"]
    assert 20 < cell["days_predicted_p50"] < 400 and cell["never_enough"] == 0
    assert 0 <= cell["found_within_half"] <= cell["found_within"] <= 1
    assert cell["found_wrong_way"] == 0


def test_days_of_a_shared_fleet_are_played_once_and_compared_with_the_truth(tmp_path, capsys):
    path, days = tmp_path / "bias.json", tmp_path / "days"
    argv = ["--bias", "2", "--pairs", "nearest:matching", "--scenario", "geneva_small",
            "--days-in", str(days), "--json", str(path)]  # fmt: skip
    assert exit_code(main, argv) in (0, 1)
    first = json.loads(path.read_text())["bias"]
    assert len(list(days.iterdir())) == 2
    kept = {file: file.stat().st_mtime_ns for file in days.iterdir()}
    exit_code(main, argv)
    assert {file: file.stat().st_mtime_ns for file in days.iterdir()} == kept
    again = json.loads(path.read_text())["bias"]
    assert again[0]["estimators"] == first[0]["estimators"]
    names = {(e["design"], e["counting"]) for e in first[0]["estimators"]}
    assert {("booking", "as decided"), ("switchback-60", "as reported")} <= names
    assert "truth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--cells", "mars"], "mars"),
        (["--bias", "1"], "two days"),
        (["--bias", "2", "--pairs", "nearest"], "heuristic:learned"),
    ],
)
def test_wrong_use_is_one_sentence(argv, word, capsys):
    assert exit_code(main, argv) == 2
    assert word in capsys.readouterr().err
