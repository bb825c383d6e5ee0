"""deploy_agent.py from the command line: export, check, promote, roll back; what it refuses."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from config import Config
from scripts.rl import deploy_agent
from scripts.rl.command import exit_code
from services.model_registry import open_registry
from services.rl.policies.planner_values import planner_values
from services.rl.simulation.scenarios import load_scenario
from tests.rl.serving.models import SMALL, scattered_network


@pytest.fixture
def home(atmr_home):
    """A home with planner values as training leaves them."""
    best = atmr_home / "results" / "fit" / "checkpoints" / "best"
    values = planner_values(load_scenario("geneva"))[0]
    values = replace(values, scenario=SMALL.name, scenario_hash=SMALL.sha256)
    values.save(best / "planner.json")
    (atmr_home / "results" / "fit" / "eval").mkdir()
    judged = atmr_home / "results" / "fit" / "eval" / "validation.json"
    judged.write_text(json.dumps({"reward": 742.5}))
    return atmr_home


def deploy(*words):
    return exit_code(deploy_agent.main, list(words))


@pytest.fixture
def registry(atmr_home):
    """The registry of the home, as another process sees it."""
    with open_registry(Config.from_environment()) as opened:
        yield opened


@pytest.fixture
def exported(home):
    assert deploy("--days", "2", "--quiet", "--why", "first") == 0
    return home


def test_without_arguments_the_best_checkpoint_becomes_candidate(home, registry, capsys):
    assert deploy("--days", "2", "--json", str(home / "out.json")) == 0
    shown = capsys.readouterr().out
    result = json.loads((home / "out.json").read_text())
    version = result["version"]
    assert "results/fit/checkpoints/best (planner, 742.5 reward a day)" in shown
    assert f"candidate  {version}" in shown
    assert result["status"]["aliases"] == {
        "champion": None, "candidate": version, "previous": None
    }  # fmt: skip
    bundle = registry.get(version)
    assert bundle.manifest.metrics["score"] == 742.5
    assert bundle.manifest.code_commit == result["commit"]
    assert (home / "results" / "export" / f"{version}.md").is_file()


def test_promote_and_roll_back(exported, registry, capsys):
    (first,) = registry.versions()
    assert deploy("promote", "--who", "ana", "--why", "gate", "--gate-report", "g1") == 0
    assert f"champion   {first}" in capsys.readouterr().out
    assert deploy("rollback") == 2
    assert "no previous model" in capsys.readouterr().err
    assert deploy("--days", "2", "--quiet", "--budget-ms", "40") == 0
    assert deploy("promote", "--company", "7", "--quiet") == 0
    assert registry.alias(7, "champion") != first == registry.alias(None, "champion")
    assert deploy("rollback", "--company", "7", "--quiet") == 0
    assert registry.alias(7, "champion") == first
    assert [e.who for e in registry.history() if e.alias == "champion"] == ["ana"]


def test_a_registry_of_its_own_leaves_the_others_alone(home, registry, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{home / 'production.sqlite'}")
    apart = home / "apart"
    assert deploy("--days", "2", "--quiet", "--registry", str(apart)) == 0
    assert deploy("promote", "--quiet", "--registry", str(apart)) == 0
    assert registry.versions() == [] and not (home / "production.sqlite").exists()
    own = Config.from_environment(ATMR_DATABASE_URL=f"sqlite:///{apart / 'atmr.sqlite'}")
    with open_registry(own, home=apart) as found:
        assert found.get(found.alias(None, "champion")).path.is_relative_to(apart)


def test_a_registered_version_is_measured_again(exported, capsys):
    assert deploy("benchmark", "--days", "2") == 0
    assert "ms a decision" in capsys.readouterr().out


def test_status_names_what_is_damaged(exported, registry, capsys):
    (version,) = registry.versions()
    (registry.folders.folder / version / "planner.json").write_text("{}")
    assert deploy("status") == 0
    assert f"{version}  unusable:" in capsys.readouterr().out
    assert deploy("promote") == 2
    assert "SHA-256 differs" in capsys.readouterr().err


def test_a_model_that_fails_its_check_is_not_registered(atmr_home, registry, capsys):
    from services.rl.serving.bundle import write_bundle

    model = scattered_network(atmr_home / "m", wait_score=1e3)
    made = write_bundle(atmr_home / "b", "dqn_matching", SMALL, model=model)
    version = registry.register(made.path, "ana", "by hand")
    assert deploy("benchmark", version, "--days", "4", "--quiet") == 1
    assert "less than tuned matching" in capsys.readouterr().err


def test_the_best_of_the_newest_models_scenario_is_taken(home):
    results = home / "results"
    for name, score, age in (("a", 900.0, 50), ("b", 700.0, 20), ("c", 800.0, 30)):
        best = shutil.copytree(results / "fit", results / name) / "checkpoints" / "best"
        (results / name / "eval" / "validation.json").write_text(json.dumps({"reward": score}))
        if name == "a":  # another world, with higher rewards
            raw = json.loads((best / "planner.json").read_text())
            (best / "planner.json").write_text(json.dumps({**raw, "scenario": "elsewhere"}))
        os.utime(best, (1e9 - age, 1e9 - age))
    os.utime(results / "fit" / "checkpoints" / "best", (1e9 - 90, 1e9 - 90))
    found = deploy_agent.best_model(results, None, None)
    assert found.folder.parents[1].name == "c"
    assert deploy_agent.best_model(results, "elsewhere", None).score == 900.0


@pytest.mark.parametrize(
    ("words", "finding"),
    [
        ([], "there is no trained model under"),
        (["promote"], "there is no candidate"),
        (["status", "0" * 12], "status takes no version"),
        (["promote", "0" * 12], "there is no model"),
        (["--model", "nowhere"], "holds no model that can be served"),
        (["--kind", "dqn_matching"], "there is no trained model"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_two(atmr_home, capsys, words, finding):
    assert deploy(*words) == 2
    captured = capsys.readouterr().err
    assert finding in captured and captured.count("\n") == 1


def test_a_damaged_checkpoint_is_left_out_aloud(home, capsys):
    damaged = home / "results" / "broken" / "checkpoints" / "best"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    assert deploy("--days", "2", "--quiet") == 0
    assert "left out:" in capsys.readouterr().err
