"""`auto_tune.py`: what it leaves and says, and what it refuses in one sentence."""

import json
import os
import shlex
import signal
import time

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from scripts.rl.auto_tune import main
from scripts.rl.command import ended_as_by_ctrl_c, exit_code
from scripts.rl.train_dqn import main as train_dqn
from services.rl.simulation.engine import Engine
from services.rl.training.tuning import worker
from services.rl.training.tuning.storage import close, open_storage

TINY = ["--scenario", "geneva_small", "--mode", "sanity", "--days", "2"]
FIRST_TEST_DAY = 2_000_000


def tune(*arguments):
    return exit_code(main, list(arguments))


def sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert error and error.count("\n") == 0, error
    return error


@pytest.fixture
def days_played(monkeypatch):
    """Every day that an engine of this process starts."""
    played = set()
    start = Engine.start

    def noted(self, labels, *rest, **more):
        played.update(np.asarray(labels).ravel().tolist())
        return start(self, labels, *rest, **more)

    monkeypatch.setattr(Engine, "start", noted)
    return played


@pytest.mark.slow
def test_a_network_is_tuned_confirmed_on_test_days_and_trained_as_the_winner(
    atmr_home, capsys, days_played, monkeypatch
):
    study = ["--policy", "qnetwork", *TINY, "--study", "tiny"]
    assert tune("--trials", "3", *study, "--steps", "160", "--no-pruning") == 0
    assert max(days_played) < FIRST_TEST_DAY
    assert "3 complete, 0 pruned, 0 failed" in capsys.readouterr().out
    folder = atmr_home / "results" / "tiny"
    found = json.loads((folder / "study.json").read_text())
    assert found["trials"][0]["default"]
    assert found["best"]["score"] >= found["default"]["score"]
    assert {"on_time_pct", "unserved", "reward"} <= set(found["trials"][1]["kpis"])
    assert "aucun gain n'est revendiqué" in (folder / "report.md").read_text()
    assert list((atmr_home / "data/rl/tensorboard/tiny").glob("trial_*/events*"))
    plan = ["--mode", "sanity", "--steps", "160", "--top", "1", "--choice-days", "2"]
    assert tune("confirm", "--study", "tiny", *plan, "--test-days", "3") == 0
    assert max(days_played) >= FIRST_TEST_DAY
    confirmed = json.loads((folder / "confirmed.json").read_text())
    assert len(confirmed["candidates"]) == 2 and len(confirmed["candidates"][0]["by_seed"]) == 3
    ci = confirmed["test"]["kpis"]["reward"]["difference"]["ci95"]
    assert confirmed["test"]["claimed"] == (ci[0] > 0)
    assert "Jours de test" in (folder / "report.md").read_text()
    monkeypatch.chdir(atmr_home)
    command = [*shlex.split(confirmed["train"])[1:], "--name", "w", "--quiet"]
    assert exit_code(train_dqn, [*command, "--no-sanity-checks"]) == 0
    config = json.loads((atmr_home / "results/w/training_config.json").read_text())["config"]
    won = next(c for c in confirmed["candidates"] if c["name"] == confirmed["winner"])
    for name, value in won["values"].items():
        assert config["hyperparameters"][name.removeprefix("hyperparameters.")] == value


@pytest.mark.slow
def test_the_planner_is_tuned_and_its_configuration_fits_it(atmr_home, capsys):
    study = ["--policy", "planner", *TINY, "--study", "plan"]
    assert tune("--trials", "2", *study, "--no-pruning", "--quiet") == 0
    config = atmr_home / "results" / "plan" / "screened.json"
    fit = ["--policy", "planner", "--mode", "sanity", "--scenario", "geneva_small", "--name", "w"]
    assert exit_code(train_dqn, [*fit, "--config", str(config), "--quiet"]) == 0
    planner = atmr_home / "results/w/checkpoints/best/planner.json"
    assert json.loads(planner.read_text())["hot"] == json.loads(config.read_text())["hot"]
    config.write_text('{"busy": {"mooves": 3}}')
    assert exit_code(train_dqn, [*fit, "--config", str(config)]) == 2
    assert "busy.mooves is no field" in sentence(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials", "0"], "at least 1"),
        (["--policy", "oracle"], "invalid choice: 'oracle'"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/x"], "cannot be used"),
        (["--resume", "--study", "none"], "none of this name"),
        (["--scenario", "nowhere"], "nowhere"),
        (["--study", "../up"], "--study '../up': a name has"),
        (["--study", ""], "--study '': a name has"),
        (["--hours", "30"], "0..24 hours"),
        (["confirm", "--study", "none"], "no such file: no study was begun there"),
        (["report", "--study", "none"], "no such file: no study was begun there"),
        (["compare", "a", "b"], "no such file: no study was begun there"),
        (["compare", "a", "a"], "name two studies"),
    ],
)
def test_what_cannot_be_is_one_sentence(atmr_home, capsys, arguments, words):
    try:
        assert tune(*arguments) == 2
    except SystemExit as left:
        assert left.code == 2
    said = sentence(capsys)
    assert words in said and "secret" not in said


def test_an_unknown_parameter_is_one_sentence(atmr_home, capsys):
    space = atmr_home / "space.yaml"
    space.write_text("hyperparameters.lerning_rate: {low: 1e-5, high: 1e-3}\n")
    assert tune("--space", str(space)) == 2
    said = sentence(capsys)
    assert f"--space {space}: search space: unknown parameter" in said
    assert "'hyperparameters.lerning_rate'" in said
    assert "such as 'hyperparameters.learning_rate'" in said


def test_looking_at_studies_makes_no_database(atmr_home, capsys):
    missing = atmr_home / "mistyped" / "studies.db"
    assert tune("report", "--study", "x", "--storage", f"sqlite:///{missing}") == 2
    assert not missing.parent.exists()


def test_a_study_that_is_not_there_is_said_with_those_that_are(atmr_home, capsys):
    storage = open_storage()
    optuna.create_study(storage=storage, study_name="here")
    close(storage)
    for command in (["confirm", "--study", "x"], ["report", "--study", "x"], ["compare", "x", "y"]):
        assert tune(*command) == 2
        assert "none of this name here; there are here" in sentence(capsys)


def test_a_database_that_refuses_to_be_written_is_one_sentence(atmr_home, capsys, monkeypatch):
    cause = sqlalchemy.exc.OperationalError("INSERT", {}, Exception("readonly database"))

    def refuse(*_, **__):
        raise StorageInternalError("An exception is raised during the commit.") from cause

    monkeypatch.setattr(RDBStorage, "create_new_study", refuse)
    assert tune("--trials", "1", "--study", "x") == 2
    assert sentence(capsys).endswith("--storage: the database failed: readonly database")


def test_another_world_or_budget_is_told_by_its_fields(atmr_home, capsys, monkeypatch):
    monkeypatch.setattr(worker, "work", lambda *_, **__: None)
    first = ["--study", "x", "--policy", "qnetwork", "--scenario", "geneva_small"]
    assert tune(*first) == 0
    capsys.readouterr()
    assert tune(*first[:-1], "geneva", "--resume") == 2
    said = sentence(capsys)
    assert "scenario geneva_small there, geneva now" in said and "drivers 3 there, 10 now" in said
    assert tune(*first, "--resume", "--seed", "5") == 2
    assert "another budget of a trial" in (said := sentence(capsys))
    assert "(seed 0 there, 5 now)" in said


def test_sigterm_is_taken_for_ctrl_c_and_only_inside():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_as_by_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before
