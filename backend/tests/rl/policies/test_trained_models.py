"""Trained networks as policies: decided by the batch or one by one, refused, without Torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.rl.errors import PolicyError
from services.rl.policies.model_files import ModelManifest, trained_as
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.task import GymnasiumTask
from services.rl.training.trainer import Trainer
from tests.rl.training.tiny_runs import foreign, interrupted_at, tiny

BACKEND = Path(__file__).resolve().parents[3]
SMALL = load_scenario("geneva_small")
SEEDS = np.arange(1_000_000, 1_000_006)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of results with a model of each kind; their weights are scattered, not trained."""
    home = tmp_path_factory.mktemp("models")
    flat = {"network": "flat", "hidden": (16, 8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(home))
        for name, fields in {
            "pair": {},
            "dueling": {"hyperparameters": {"dueling": True}},
            "blind": {"hyperparameters": {"edge_features": False}},
            "flat": {"hyperparameters": flat, "evaluation": {"policy": "dqn"}},
            "flat_dueling": {"hyperparameters": {**flat, "dueling": True}},
            "full": {"hyperparameters": flat, "environment": {"observation": "full"}},
        }.items():
            run = Trainer(SMALL, tiny(name, **fields))
            rng = np.random.default_rng(1)
            for parameter in run.agent.online.parameters():
                import torch

                noise = rng.normal(0.0, 0.2, tuple(parameter.shape)).astype(np.float32)
                parameter.data += torch.from_numpy(noise)
            interrupted_at(run, 1).train()
        interrupted_at(Trainer(GymnasiumTask("CartPole-v1"), foreign("foreign")), 1).train()
    return home / "results"


def best(models, name):
    return models / name / "checkpoints" / "best"


def one_by_one(policy, engine):
    """Ask for every epoch and carry it out; rewards ``(D,)``."""
    for e in range(engine.num_envs):
        while not engine.ended(e):
            rows = engine.open_rows(e)
            for decision in policy.decide(engine.state(e)).decisions:
                assert engine.commit(e, decision.driver, int(rows[decision.booking]))
            engine.wait(e)
    return engine.world.totals.sum(axis=1)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("pair", "dqn"),
        ("pair", "dqn_matching"),
        ("dueling", "dqn"),
        ("blind", "dqn_matching"),
        ("flat", "dqn"),
        ("flat_dueling", "dqn"),
    ],
)
def test_batch_and_single_decisions_agree(models, name, policy):
    engine = Engine(SMALL, len(SEEDS))
    chosen = make_policy(policy, SMALL, model=best(models, name))
    engine.start(SEEDS)
    chosen.play(engine)
    batch = engine.world.totals.sum(axis=1).copy()
    engine.start(SEEDS)
    assert len(set(batch.tolist())) == len(SEEDS)
    np.testing.assert_array_equal(one_by_one(chosen, engine), batch)


def test_a_model_scores_as_it_was_judged(models):
    """What training writes into the manifest is what the policy does."""
    for name, policy in (("pair", "dqn_matching"), ("flat", "dqn"), ("blind", "dqn_matching")):
        manifest = json.loads((best(models, name) / "manifest.json").read_text())
        engine = Engine(SMALL, 3)
        engine.start(SEEDS[:3])
        chosen = make_policy(policy, SMALL, model=best(models, name))
        chosen.play(engine)
        rewards = engine.world.totals.sum(axis=1)
        assert manifest["metrics"]["score"] == pytest.approx(rewards.mean(), abs=1e-9), name


def test_the_full_observation_is_decided_one_by_one(models):
    chosen = make_policy("dqn", SMALL, model=best(models, "full"))
    assert chosen.play is None
    engine = Engine(SMALL, 1)
    engine.start(SEEDS[:1])
    assert np.isfinite(one_by_one(chosen, engine)).all()


def test_a_pair_network_serves_a_fleet_it_never_saw(models):
    bigger = SMALL.resized(num_drivers=5)
    engine = Engine(bigger, 2)
    engine.start(SEEDS[:2])
    make_policy("dqn_matching", bigger, model=best(models, "pair")).play(engine)
    assert np.isfinite(engine.world.totals).all()


@pytest.mark.parametrize(
    ("policy", "folder", "finding"),
    [
        ("dqn_matching", "flat/checkpoints/best", "holds a flat network: evaluate it as .*'dqn'"),
        ("dqn", "foreign/checkpoints/best", "trained on another kind of environment"),
        ("dqn", "pair/checkpoints", r"there is no manifest\.json"),
        ("dqn", "nowhere", r"there is no manifest\.json"),
        ("dqn", "pair/training_config.json", "is a file: give the folder"),
    ],
)
def test_a_folder_that_cannot_decide_is_one_sentence(models, policy, folder, finding):
    with pytest.raises(PolicyError, match=finding) as raised:
        make_policy(policy, SMALL, model=models / folder)
    assert "\n" not in str(raised.value)


def test_a_flat_network_serves_one_fleet_size(models):
    with pytest.raises(PolicyError, match=r"trained for 3 drivers, scenario .* has 10"):
        make_policy("dqn", load_scenario("geneva"), model=best(models, "flat"))


def test_no_model_is_one_sentence():
    for name in ("dqn", "dqn_matching"):
        with pytest.raises(PolicyError, match="needs a trained network: --model"):
            make_policy(name, SMALL)


@pytest.mark.parametrize("kind", ["pair", "flat"])
def test_parameters_of_another_network_are_one_sentence(models, tmp_path, kind):
    """Such as a saved buffer, whose folder holds no network."""
    from safetensors.numpy import save_file

    from services.rl.policies.model_files import file_sha256

    folder = tmp_path / "model"
    shutil.copytree(best(models, kind), folder)
    for arrays in ({}, {"pair_hidden.weight": np.ones((2, 2), dtype=np.float32)}):
        save_file(arrays, folder / "model.safetensors")
        document = json.loads((folder / "manifest.json").read_text())
        document.pop("sha256", None)
        document["files"] = {"model.safetensors": file_sha256(folder / "model.safetensors")}
        (folder / "manifest.json").write_text(json.dumps(document | {"sha256": ""}))
        with pytest.raises(PolicyError, match="SHA-256 differs"):
            make_policy("dqn", SMALL, model=folder)
        (folder / "manifest.json").write_text(json.dumps(document))
        with pytest.raises(PolicyError, match=r"model: the .* network has no parameter"):
            make_policy("dqn", SMALL, model=folder)


def test_deciding_never_imports_torch(models):
    """In a process of its own: linear matcher, pair network and flat network."""
    program = f"""
import sys
from pathlib import Path
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
scenario = load_scenario("geneva_small")
engine = Engine(scenario, 1)
engine.start([1_000_000])
while not len(engine.open_rows(0)):
    engine.wait(0)
results = Path({str(models)!r})
for name, folder in (("matching_linear", None), ("dqn_matching", "pair"), ("dqn", "flat")):
    model = results / folder / "checkpoints" / "best" if folder else None
    make_policy(name, scenario, model=model).decide(engine.state(0))
assert "torch" not in sys.modules, "torch was imported"
assert "services.rl.policies.pair_network" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "folder", ["checkpoints/best", "checkpoints/latest/step_0000048000", "dqn_model_final", "."]
)
def test_a_model_is_named_after_its_experiment_and_step(tmp_path, folder):
    home = tmp_path / "first"
    (home / folder).mkdir(parents=True)
    (home / "training_config.json").write_text("{}")
    manifest = ModelManifest({}, {}, 1.0, "dqn", 48_000)
    assert trained_as(home / folder, manifest) == "first at step 48,000"


def test_a_model_moved_away_from_its_training_keeps_a_name(tmp_path):
    manifest = ModelManifest({}, {}, 1.0, "dqn", 7)
    assert trained_as(tmp_path / "mine", manifest) == "mine at step 7"
    copied = tmp_path / "first" / "checkpoints" / "best"
    assert trained_as(copied, manifest) == "first at step 7"
