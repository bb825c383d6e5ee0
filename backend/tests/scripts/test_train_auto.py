"""`train_dqn.py --policy auto`: what it leaves, says and refuses."""

import json
import re

import pytest

from scripts.rl.command import exit_code
from scripts.rl.evaluate import main as evaluate
from scripts.rl.train_dqn import main
from services.rl.training.auto_candidates import TuneMatching

AUTO = ["--policy", "auto", "--scenario", "geneva_small"]


def train(*arguments):
    return exit_code(main, [*AUTO, *arguments])


def sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    return error


def test_a_tiny_run_chooses_reports_and_says_how_to_check(atmr_home, capsys):
    out = atmr_home / "out.json"
    assert train("--minutes", "0.2", "--name", "tiny", "--json", str(out)) == 0
    said = capsys.readouterr().out
    folder = atmr_home / "results" / "tiny"
    document = json.loads(out.read_text())
    assert document == json.loads((folder / "choice.json").read_text())
    for name in document["candidates"]:
        assert re.search(rf"^{name}: ", said, re.MULTILINE)
    assert (folder / "report.md").is_file() and (folder / "gains.png").is_file()
    check = said.strip().splitlines()[-1].removeprefix("check it: evaluate.py ").split()
    check[check.index("--days") + 1] = "2"
    assert exit_code(evaluate, [*check, "--jobs", "1"]) == 0
    assert document["winner"] in capsys.readouterr().out


@pytest.mark.slow
def test_an_interruption_prints_the_whole_command(atmr_home, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TuneMatching, "plan", interrupted)
    assert train("--minutes", "1", "--name", "cut", "--quiet") == 130
    assert sentence(capsys).endswith(
        "train_dqn.py --policy auto --scenario geneva_small --minutes 1 --name cut --quiet --resume"
    )


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["--minutes", "0"], "is not a number above 0"),
        (["--minutes", "-3"], "is not a number above 0"),
        (["--scenario", "nowhere"], "nowhere"),
        (["--mode", "quick"], "--mode is an option of a single policy"),
        (["--teacher", "matching"], "--teacher is an option of a single policy"),
        (["--generations", "3"], "--generations is an option of a single policy"),
        (["--repeats", "3"], "--repeats is an option of a single policy"),
        (["--name", "../x"], "experiment_name"),
        (["--resume", "--name", "nobody"], "there is nothing to resume in"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(atmr_home, capsys, arguments, finding):
    try:
        code = train(*arguments)
    except SystemExit as left:  # the parser's own refusals
        code = left.code
    assert code == 2
    assert finding in sentence(capsys)
    assert not (atmr_home / "results").exists()


def test_minutes_belong_to_auto(atmr_home, capsys):
    assert exit_code(main, ["--minutes", "3"]) == 2
    assert "--policy auto" in sentence(capsys)
