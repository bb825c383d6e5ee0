"""Objectives: eight looks, evenly spread, on the same days and with the same seed for all."""

from typing import ClassVar

import pytest

from services.rl.errors import TrainingError, UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.config import TrainingConfig
from services.rl.training.tuning import network_objective as room
from services.rl.training.tuning.objective import MOST_DAYS, RUNGS, objective_of, rung_of

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
