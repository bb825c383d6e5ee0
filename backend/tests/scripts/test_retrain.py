"""`retrain.py`: what it is told, what it says, what it refuses."""

import json

import pytest

from config import Config
from extensions import Database
from migrations import upgrade
from scripts.rl.command import exit_code
from scripts.rl.retrain import main
from services.learning import retraining
from tests.learning.histories import drawn, write_days
from tests.learning.retraining_nights import MONDAY, SMALL, gate_that_says


@pytest.fixture
def history(atmr_home, monkeypatch):
    monkeypatch.setenv("ATMR_SCENARIO", "geneva_small")
    database = Database(Config.from_environment().database_url.get_secret_value())
    upgrade(database.engine)
    write_days(database, SMALL, drawn(SMALL, 3, 1), MONDAY)
    database.dispose()
    return atmr_home


def test_a_night_by_hand(history, monkeypatch, capsys):
    monkeypatch.setattr(retraining, "_gate_of", lambda _days: gate_that_says(planner=1.0))
    out = history / "out.json"
    arguments = ["--company", "1", "--kinds", "planner", "--tiny", "--date", "2026-03-05"]
    code = exit_code(main, [*arguments, "--json", str(out)])
    document = json.loads(out.read_text())
    folder = history / "results" / "retraining" / "2026-03-05-1"
    assert document["folder"] == str(folder)
    assert document["changes"]["bookings_per_day"]["by_day"]
    assert (folder / "report.md").is_file()
    assert code == (0 if document["registered"] else 1)
    assert "# Retraining of 2026-03-05, company 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kinds", "matching"], "'matching' is none of planner, dqn_matching"),
        (["--date", "yesterday"], "'yesterday' is no date"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, sentence, capsys, atmr_home):
    assert exit_code(main, arguments) == 2
    assert sentence in capsys.readouterr().err
