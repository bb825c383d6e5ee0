"""Objectives: eight looks, evenly spread, on the same days and with the same seed for all."""

import json
from dataclasses import replace
from typing import ClassVar

import optuna
import pytest

from services.rl.errors import TrainingError, UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.config import (
    TrainingConfig,
    flat_fields,
    load_config,
    mode_config,
    sanity_fields,
)
from services.rl.training.planner_config import changed_plan
from services.rl.training.planner_run import planner_fit_of
from services.rl.training.tuning import network_objective as room
from services.rl.training.tuning.objective import MOST_DAYS, RUNGS, objective_of, rung_of
from services.rl.training.tuning.search_space import SPACES

SCENARIO = load_scenario("geneva_small")


class Refuses:
    """Stands for the trainer: notes the configuration and trains nothing."""

    seen: ClassVar[list[TrainingConfig]] = []

    def __init__(self, _task, config, **_):
        Refuses.seen.append(config)
        raise TrainingError("not here")


@pytest.fixture
def configurations(monkeypatch):
    Refuses.seen = []
    monkeypatch.setattr(room, "Trainer", Refuses)
    return Refuses.seen


def run(objective, name="t", **changed):
    values = {**objective.fields(), **changed}
    moved = {k: v for k, v in values.items() if k in ("hyperparameters.learning_rate",)}
    with pytest.raises(TrainingError, match="not here"):
        objective.run(moved, name, lambda *_: None)


@pytest.mark.parametrize("policy", ["dqn_matching", "qnetwork"])
@pytest.mark.parametrize("budget", [("quick", None), ("sanity", None), ("production", None),
                                    ("quick", 1_234)])  # fmt: skip
def test_every_budget_has_its_eight_looks_once(configurations, policy, budget):
    mode, steps = budget
    run(objective_of(policy, SCENARIO, mode=mode, steps=steps))
    (config,) = configurations
    envs, every = config.hyperparameters.num_envs, config.evaluation.eval_freq
    last = -(-config.total_timesteps // envs)
    looks = [v * envs for v in range(every, last + 1, every)]
    if looks[-1:] != [last * envs]:
        looks.append(last * envs)  # the trainer judges what it ends with
    assert [rung_of(at, config.total_timesteps) for at in looks] == list(range(1, RUNGS + 1))


def test_trials_differ_in_what_is_moved_and_in_nothing_else(configurations):
    objective = objective_of("dqn_matching", SCENARIO, seed=7)
    run(objective, "a", **{"hyperparameters.learning_rate": 1e-3})
    run(objective, "b", **{"hyperparameters.learning_rate": 1e-4})
    one, other = (c.model_dump() for c in configurations)
    assert one["seed"] == other["seed"] == 7
    assert one["hyperparameters"].pop("learning_rate") == 1e-3
    assert other["hyperparameters"].pop("learning_rate") == 1e-4
    assert one.pop("experiment_name") != other.pop("experiment_name")
    assert one == other


def test_a_study_leaves_days_to_choose_by(configurations):
    with pytest.raises(UsageError, match="--days"):
        objective_of("planner", SCENARIO, days=MOST_DAYS + 1)


BUDGETS = [("sanity", None), ("sanity", 160), ("quick", None), ("quick", 6), ("production", None)]


def other_values(policy):
    """Values that a study may draw, none of them the default."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    return SPACES[policy].draw(study.ask())


@pytest.mark.parametrize(("mode", "steps"), BUDGETS)
@pytest.mark.parametrize("policy", ["dqn_matching", "qnetwork"])
def test_a_networks_document_trains_what_was_confirmed(
    configurations, tmp_path, policy, mode, steps
):
    objective = objective_of(policy, SCENARIO, mode=mode, steps=steps)
    values = other_values(policy)
    with pytest.raises(TrainingError, match="not here"):
        objective.train(values, 3, tmp_path / "trained")
    (confirmed,) = configurations
    path = tmp_path / "winner.json"
    path.write_text(json.dumps(objective.document(values)))
    begins = mode_config(mode)  # as train_dqn.py does
    if policy == "qnetwork":
        begins = begins.changed(**flat_fields())
    if mode == "sanity":
        begins = begins.changed(**sanity_fields())
    trained = load_config(path, begins)
    left_open = {"experiment_name", "seed", "checkpoints", "sanity"}
    assert trained.model_dump(exclude=left_open) == confirmed.model_dump(exclude=left_open)


@pytest.mark.parametrize(("mode", "steps"), BUDGETS)
def test_a_planners_document_fits_what_was_confirmed(mode, steps):
    objective = objective_of("planner", SCENARIO, mode=mode, steps=steps, seed=3)
    values = other_values("planner")
    read = json.loads(json.dumps(objective.document(values)))
    fitted = changed_plan(planner_fit_of(mode), read)
    assert replace(fitted, seed=3, threads=1) == objective.plan(values)
