"""`train_dqn.py --policy planner`: what it leaves, goes on from and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.rl.command import exit_code
from scripts.rl.train_dqn import build_parser, chosen_policy, main
from services.rl.policies.planner_values import PlannerValues
from services.rl.training.checkpoints import sole_writer

BACKEND = Path(__file__).resolve().parents[2]

SANITY = ["--policy", "planner", "--mode", "sanity", "--scenario", "geneva_small"]


def interruptible():
    """Whoever starts the tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def train(*arguments):
    return exit_code(main, [*SANITY, *arguments])


def sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    return error


def test_values_are_fitted_judged_and_named(atmr_home, capsys):
    assert train("--name", "first", "--json", str(atmr_home / "out.json")) == 0
    said = capsys.readouterr().out
    assert "over the same search without values" in said and "--model" in said
    folder = atmr_home / "results" / "first"
    values = PlannerValues.load(folder / "checkpoints" / "best" / "planner.json")
    assert values.scenario == "geneva_small" and values.provenance["seed"] == 0
    judged = json.loads((folder / "eval" / "validation.json").read_text())
    assert json.loads((atmr_home / "out.json").read_text())["score"] == judged["reward"]


def test_an_interrupted_fit_says_how_to_go_on_and_does(atmr_home, capsys):
    arguments = [*SANITY, "--name", "long", "--generations", "100000"]
    program = [sys.executable, str(BACKEND / "scripts" / "rl" / "train_dqn.py"), *arguments]
    child = subprocess.Popen(
        program,
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    journal = atmr_home / "results" / "long" / "checkpoints" / "latest" / "evolution_busy.jsonl"
    until = time.monotonic() + 300
    while (not journal.is_file() or journal.read_text().count("\n") < 3) and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert error.strip().endswith("--name long --generations 100000 --resume")
    before = journal.read_text().splitlines()
    settings = (atmr_home / "results" / "long" / "training_config.json").read_text()
    assert train("--name", "long", "--resume") == 2  # of another number of generations
    assert "of a fit with other settings" in sentence(capsys)
    assert journal.read_text().splitlines()[: len(before)] == before
    assert (atmr_home / "results" / "long" / "training_config.json").read_text() == settings


@pytest.mark.slow
def test_a_new_run_forgets_the_old_values_and_a_resumed_one_repeats_them(atmr_home):
    assert train("--name", "again", "--quiet") == 0
    best = atmr_home / "results" / "again" / "checkpoints" / "best" / "planner.json"
    first = PlannerValues.load(best)
    assert train("--name", "again", "--resume", "--quiet") == 0
    assert PlannerValues.load(best).weights == first.weights
    assert train("--name", "again", "--seed", "1", "--generations", "1", "--quiet") == 0
    assert PlannerValues.load(best).provenance["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["--resume", "--name", "nowhere"], "there is nothing to resume in"),
        (["--name", "../x"], "experiment_name"),
        (["--mode", "gpu"], "the planner trains on processors"),
        (["--timesteps", "5"], "--timesteps is an option of the networks"),
        (["--teacher", "matching"], "--teacher is an option of the networks"),
        (["--generations", "0"], "a whole number of at least 1"),
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


def test_repeats_belong_to_the_planner(atmr_home, capsys):
    assert exit_code(main, ["--repeats", "3"]) == 2
    assert "--repeats belongs to --policy planner" in sentence(capsys)


def test_generations_belong_to_the_planner(atmr_home, capsys):
    assert exit_code(main, ["--generations", "3"]) == 2
    assert "--policy planner" in sentence(capsys)


def test_two_processes_do_not_fit_under_one_name(atmr_home, capsys):
    folder = atmr_home / "results" / "held"
    folder.mkdir(parents=True)
    with sole_writer(folder):
        assert train("--name", "held") == 2
    assert "another process is training under this name" in sentence(capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode", "production"], "planner"),
        (["--mode", "production", "--seed", "3", "--resume"], "planner"),
        (["--mode", "production", "--policy", "dqn_matching"], "dqn_matching"),
        (["--mode", "production", "--network", "flat"], "dqn_matching"),
        (["--mode", "production", "--timesteps", "1000"], "dqn_matching"),
        (["--mode", "production", "--env", "CartPole-v1"], "dqn_matching"),
        (["--mode", "production", "--scenario", "manhattan_11"], "matching_values"),
        (["--mode", "quick"], "dqn_matching"),
        (["--mode", "quick", "--policy", "planner"], "planner"),
        (["--mode", "gpu"], "dqn_matching"),
    ],
)
def test_production_trains_the_best_policy_unless_the_network_is_meant(arguments, expected):
    parsed = build_parser().parse_args([*arguments, "--quiet"])
    assert chosen_policy(parsed) == expected
