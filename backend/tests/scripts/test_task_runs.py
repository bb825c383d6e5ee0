"""The command for people: what ran, what was given up, and seeing to it."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from clock import SystemClock
from config import Config
from extensions import Database
from scripts.rl import migrate
from scripts.rl.command import exit_code
from scripts.rl.task_runs import main
from services.learning import task_runs

SCRIPT = Path(__file__).parents[2] / "scripts" / "rl" / "task_runs.py"


@pytest.fixture
def database(atmr_home):
    assert exit_code(migrate.main, ["--quiet"]) == 0
    database = Database(Config.from_environment().database_url.get_secret_value())

    def begin(task, key):
        return task_runs.begin(
            database, SystemClock(), task, key, most_attempts=1, lease=timedelta(minutes=1),
            arguments={"company_id": 7},
        )  # fmt: skip

    task_runs.finish(begin("collection", "7/09:00"), {"put": 5})
    task_runs.fail(begin("collection", "7/10:00"), "no answer")
    task_runs.fail(begin("tick", "7/10:05"), "no driver")
    yield database
    database.dispose()


def test_runs_and_letters_are_listed(database, capsys, tmp_path):
    assert exit_code(main, ["runs", "--task", "collection"]) == 0
    told = capsys.readouterr().out
    assert "collection  7/09:00  done  1" in told and "no answer" in told and "tick" not in told
    assert exit_code(main, ["--json", str(tmp_path / "l.json"), "--quiet", "letters"]) == 0
    letters = json.loads((tmp_path / "l.json").read_text())["letters"]
    assert {(one["task"], one["error"]) for one in letters} == {
        ("collection", "no answer"), ("tick", "no driver"),
    }  # fmt: skip


def test_a_letter_is_sent_again_once_by_somebody_with_a_reason(database, capsys):
    words = ["again", "1", "--who", "ana", "--why", "it is back"]
    assert exit_code(main, words) == 0
    assert exit_code(main, words) == 2
    assert "closed by ana" in capsys.readouterr().err
    assert exit_code(main, ["runs", "--state", "failed"]) == 0
    assert "7/10:00" in capsys.readouterr().out
    assert exit_code(main, ["letters", "--closed"]) == 0
    assert "it is back" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["again", "2", "--who", "ana", "--why", "x"], "a tick is not done later"),
        (["close", "9", "--who", "ana", "--why", "x"], "no dead letter 9"),
        (["close", "1", "--who", " ", "--why", "x"], "--who and --why"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(database, capsys, words, told):
    assert exit_code(main, words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["task_runs.py", "tick.py", "loop.py"])
def test_scripts_start_from_any_folder(name, tmp_path):
    """Their own folder comes first on the path then: no module in it may hide one of ours."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT.with_name(name)), "--help"], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
    )  # fmt: skip
    assert done.returncode == 0 and "examples:" in done.stdout, done.stderr
