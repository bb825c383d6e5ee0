"""`train_dqn.py --policy matching_values`: what it leaves, goes on from and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.rl import evaluate
from scripts.rl.command import exit_code
from scripts.rl.train_dqn import main
from services.rl.policies.edge_values import EdgeValues
from services.rl.simulation.scenarios import save_scenario
from services.rl.training.checkpoints import sole_writer
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder

BACKEND = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Scenario file and data folder of the miniature."""
    root = tmp_path_factory.mktemp("manhattan")
    save_scenario(miniature_scenario(3, deadhead_per_km=0.8, loaded_per_km=1.5), root / "mini.yaml")
    write_folder(root / "trips", seed=2, train=44)
    return root


@pytest.fixture
def sanity(atmr_home, place):
    return [
        "--policy", "matching_values", "--mode", "sanity",
        "--scenario", str(place / "mini.yaml"), "--data-dir", str(place / "trips"),
    ]  # fmt: skip


def interruptible():
    """Whoever starts the tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def train(*arguments):
    return exit_code(main, [str(a) for a in arguments])


def sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    return error


def test_values_are_fitted_judged_and_evaluated(sanity, atmr_home, place, capsys):
    assert train(*sanity, "--name", "first", "--json", atmr_home / "out.json") == 0
    said = capsys.readouterr().out
    assert "over matching_profit" in said and "--model" in said
    folder = atmr_home / "results" / "first"
    values = EdgeValues.load(folder / "checkpoints" / "best" / "edge_values.json")
    assert values.scenario == "manhattan_miniature" and values.provenance["seed"] == 0
    judged = json.loads((folder / "eval" / "validation.json").read_text())
    assert json.loads((atmr_home / "out.json").read_text())["score"] == judged["reward"]

    asked = [
        "--scenario", place / "mini.yaml", "--data-dir", place / "trips", "--quiet",
        "--policies", "matching_profit,matching_values,hindsight", "--reference", "matching_profit",
        "--model", folder / "checkpoints" / "best", "--json", atmr_home / "evaluation.json",
    ]  # fmt: skip
    assert exit_code(evaluate.main, [str(a) for a in asked]) == 0
    document = json.loads((atmr_home / "evaluation.json").read_text())
    found = {p["name"]: p for p in document["policies"]}
    assert found["matching_values"]["mean"]["reward"] == pytest.approx(judged["reward"])
    assert not any("was not used" in str(caveat) for caveat in document.get("caveats", []))


@pytest.mark.slow
def test_an_interrupted_fit_says_how_to_go_on_and_does(sanity, atmr_home, capsys):
    arguments = [*sanity, "--name", "long", "--generations", "100000"]
    program = [sys.executable, str(BACKEND / "scripts" / "rl" / "train_dqn.py"), *arguments]
    child = subprocess.Popen(
        program,
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    journal = atmr_home / "results" / "long" / "checkpoints" / "latest" / "evolution.jsonl"
    until = time.monotonic() + 300
    while (not journal.is_file() or journal.read_text().count("\n") < 3) and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert error.strip().endswith("--name long --generations 100000 --resume")
    before = journal.read_text().splitlines()
    assert train(*sanity, "--name", "long", "--resume") == 2  # of another number of generations
    assert "of a fit with other settings" in sentence(capsys)
    assert journal.read_text().splitlines()[: len(before)] == before


def test_a_new_run_forgets_the_old_values_and_a_resumed_one_repeats_them(sanity, atmr_home):
    assert train(*sanity, "--name", "again", "--quiet") == 0
    best = atmr_home / "results" / "again" / "checkpoints" / "best" / "edge_values.json"
    first = EdgeValues.load(best)
    assert train(*sanity, "--name", "again", "--resume", "--quiet") == 0
    assert EdgeValues.load(best).weights == first.weights
    assert train(*sanity, "--name", "again", "--seed", "1", "--quiet") == 0
    assert EdgeValues.load(best).provenance["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["--resume", "--name", "nowhere"], "there is nothing to resume in"),
        (["--name", "../x"], "experiment_name"),
        (["--mode", "gpu"], "matching_values trains on processors"),
        (["--timesteps", "5"], "--timesteps is an option of the networks"),
        (["--scenario", "geneva"], "not for 'geneva'"),
        (["--data-dir", "/nowhere"], "data folder /nowhere contains neither"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    sanity, atmr_home, capsys, arguments, finding
):
    assert train(*sanity, *arguments) == 2
    assert finding in sentence(capsys)
    assert not (atmr_home / "results").exists()


def test_without_a_data_folder_the_sentence_names_the_option(sanity, capsys, monkeypatch):
    monkeypatch.delenv("ATMR_DATA_DIR", raising=False)
    assert train(*sanity[:-2]) == 2
    assert "--data-dir" in sentence(capsys)


def test_two_processes_do_not_fit_under_one_name(sanity, atmr_home, capsys):
    folder = atmr_home / "results" / "held"
    folder.mkdir(parents=True)
    with sole_writer(folder):
        assert train(*sanity, "--name", "held") == 2
    assert "another process is training under this name" in sentence(capsys)
