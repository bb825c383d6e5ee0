"""The script that checks the guardrails' word."""

import json

import pytest

from scripts.rl.check_guardrails import main
from scripts.rl.command import exit_code


def test_too_few_weeks_prove_nothing_and_the_figures_are_written(tmp_path, capsys):
    path = tmp_path / "guardrails.json"
    argv = ["--weeks", "2", "--harmful", "1", "--cells", "3-drivers-booking", "--json", str(path)]
    assert exit_code(main, argv) == 1
    assert "MISSED by 3-drivers-booking" in capsys.readouterr().out
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["false_alarms"] == 0 and cell["upper_bound"] == pytest.approx(0.7764, abs=1e-4)
    assert set(cell["power"]) == {"late x2", "unserved x3"}


def test_an_unknown_cell_is_named(capsys):
    assert exit_code(main, ["--cells", "mars"]) == 2
    assert "'mars'" in capsys.readouterr().err
