"""Days lived by both arms, where nobody is written off."""

import json

import pytest

from scripts.rl import live_days
from scripts.rl.command import exit_code


def test_the_heuristic_against_itself_differs_in_nothing(tmp_path, atmr_home, capsys):
    out = tmp_path / "lived.json"
    argv = ["--scenario", "geneva_small", "--days", "2", "--kind", "matching"]
    assert exit_code(live_days.main, [*argv, "--json", str(out)]) == 0
    arms = json.loads(out.read_text())["arms"]
    assert arms["heuristic"] == arms["matching"] and len(arms["matching"]) == 2
    for day in arms["heuristic"]:
        assert day["bookings"] > 10 and 0 < day["within_15_pct"] <= 100
        assert day["over_60_pct"] <= day["over_30_pct"] <= 100 - day["within_15_pct"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| difference | +0.0 ± 0.0 |")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--first", "May"], "--first 'May' is no date"),
        (["--days", "1"], "--days must be at least 2"),
        (["--scenario", "geneva_small"], "there are no planner values"),
    ],
)
def test_bad_options_are_one_sentence(argv, sentence, atmr_home, capsys):
    assert exit_code(live_days.main, argv) == 2
    assert sentence in capsys.readouterr().err
