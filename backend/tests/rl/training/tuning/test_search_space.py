"""Search spaces: what they draw, and what they refuse in one sentence."""

import json
from pathlib import Path

import optuna
import pytest

from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.config import flat_fields
from services.rl.training.planner_config import plan_fields
from services.rl.training.planner_fit import PlannerFit
from services.rl.training.tuning.objective import objective_of
from services.rl.training.tuning.search_space import (
    SPACES,
    Parameter,
    SearchSpace,
    load_space,
    parse_space,
)

FIELDS = {"hyperparameters.learning_rate": 1e-4, "hyperparameters.gamma": 0.92,
          "hyperparameters.batch_size": 256, "hyperparameters.hidden": [512, 256, 128]}  # fmt: skip


@pytest.fixture
def drawing():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return lambda space: space.draw(study.ask())


@pytest.mark.parametrize("policy", sorted(SPACES))
@pytest.mark.parametrize("mode", ["sanity", "quick", "production"])
def test_every_space_holds_the_defaults_of_every_budget(atmr_home, policy, mode):
    objective = objective_of(policy, load_scenario("geneva_small"), mode=mode)
    space = SPACES[policy].checked(objective.fields())
    defaults = space.defaults(objective.fields())
    for p in space.parameters:
        assert p.distribution()._contains(p.distribution().to_internal_repr(defaults[p.label]))
    again = space.fields(defaults)
    for name, value in again.items():
        shown = list(value) if isinstance(value, tuple) else value
        expected = objective.fields()[name]
        expected = list(expected) if isinstance(expected, tuple) else expected
        assert shown == pytest.approx(expected) if isinstance(shown, float) else shown == expected


@pytest.mark.parametrize("policy", ["dqn_matching", "qnetwork"])
def test_everything_a_network_space_draws_is_a_valid_configuration(atmr_home, drawing, policy):
    objective = objective_of(policy, load_scenario("geneva_small"))
    for _ in range(40):
        values = drawing(SPACES[policy])
        config = objective.document(values)
        changed = objective.base.changed(**config)
        assert changed.hyperparameters.gamma == values["hyperparameters.gamma"]
        assert 0.6 <= changed.hyperparameters.gamma < 1


def test_planner_trials_cost_alike_whatever_they_draw(atmr_home, drawing):
    objective = objective_of("planner", load_scenario("geneva_small"), mode="production")
    whole = objective.steps({})
    for _ in range(40):
        values = drawing(SPACES["planner"])
        assert isinstance(objective.plan(values), PlannerFit)
        assert objective.steps(values) == pytest.approx(whole, rel=0.35)
    assert objective.plan({}) == objective.base


def test_the_roadmap_moves_four_parameters():
    names = {p.name.removeprefix("hyperparameters.") for p in SPACES["qnetwork"].parameters}
    assert names == {"learning_rate", "gamma", "batch_size", "hidden"}


def test_a_complement_is_drawn_near_one(drawing):
    space = SearchSpace(
        (Parameter("hyperparameters.gamma", 0.001, 0.1, log=True, complement=True),)
    )
    drawn = [drawing(space)["hyperparameters.gamma"] for _ in range(200)]
    assert all(0.9 <= g <= 0.999 for g in drawn)
    assert sum(g > 0.99 for g in drawn) == pytest.approx(100, abs=30)  # evenly in log(1 - g)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"hyperparameters.lerning_rate": {"low": 1e-5, "high": 1e-3}}, "unknown parameter"),
        ({"hyperparameters.learning_rate": {"low": 1e-3, "high": 1e-2}}, "outside the range"),
        ({"hyperparameters.learning_rate": {"low": 1e-3, "high": 1e-5}}, "must be below high"),
        ({"hyperparameters.learning_rate": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"hyperparameters.learning_rate": {"low": 0}}, "low and high"),
        ({"hyperparameters.learning_rate": {"low": 0, "hihg": 1}}, "must be a mapping of some of"),
        ({"hyperparameters.batch_size": {"choices": [64, 128]}}, "not among the choices"),
        ({"hyperparameters.batch_size": {"choices": []}}, "one value or more"),
        ({"hyperparameters.batch_size": {"low": 1.5, "high": 300}}, "so must its ends"),
        ({"hyperparameters.hidden": {"low": 1, "high": 3}}, "needs choices"),
        ({"hyperparameters.learning_rate": 3}, "must be a mapping"),
        ({}, "names no parameter"),
    ],
)
def test_a_space_that_cannot_be_is_one_sentence(raw, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_space(raw, FIELDS)
    assert "\n" not in str(caught.value)


def test_a_file_says_the_same_as_the_built_in_space(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SPACES["qnetwork"].document()))
    assert load_space(path, FIELDS) == SPACES["qnetwork"]
    assert load_space(path, FIELDS).sha256 == SPACES["qnetwork"].sha256


@pytest.mark.parametrize(("text", "words"), [("{", "neither JSON nor YAML"), ("3", "mapping")])
def test_a_file_that_is_no_space_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_space(path, FIELDS)
    with pytest.raises(UsageError, match="cannot be read"):
        load_space(tmp_path / "none.yaml", FIELDS)


@pytest.mark.parametrize("name", ["seed", "threads", "check_days", "own.generations"])
def test_what_makes_trials_comparable_is_not_moved(name):
    fields = plan_fields(PlannerFit())
    space = {name: {"low": 1, "high": 9}}
    with pytest.raises(UsageError, match=f"{name} must stay as it is"):
        parse_space(space, fields)


@pytest.mark.parametrize("choices", [[0.1, 0.1], [0.1, float("nan")], [0.1, {"a": 1}]])
def test_choices_that_no_storage_gives_back_are_refused(choices):
    with pytest.raises(UsageError, match="choices must be different numbers"):
        parse_space({"x": {"choices": choices}}, {"x": 0.1})


def test_the_flat_networks_defaults_are_those_that_were_confirmed():
    folder = Path(__file__).resolve().parents[5] / "session/RL/tuning/geneva_overload_qnetwork"
    confirmed = json.loads((folder / "winner.json").read_text(encoding="utf-8"))
    rounded = flat_fields()["hyperparameters"]
    for name in ("learning_rate", "gamma", "batch_size", "hidden"):
        value = confirmed["hyperparameters"][name]
        kept = list(rounded[name]) if name == "hidden" else rounded[name]
        assert kept == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value)
