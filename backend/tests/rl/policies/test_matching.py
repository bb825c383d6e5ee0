"""The compiled assignment against SciPy's, and the tuned weights."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from services.rl.errors import PolicyError
from services.rl.policies import kernels
from services.rl.policies.baselines import make_baseline
from services.rl.policies.tuning import UNTUNED, MatchingWeights, TuningPlan, tune_matching
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
        lambda shape: arrays(
            np.float64, shape, elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0, 3.25, 7.0])
        )
    )
)
def test_the_assignment_is_the_best_there_is(score):
    match = kernels.assign(score)
    taken = [j for j in match if j >= 0]
    assert len(set(taken)) == len(taken)
    value = sum(score[i, j] for i, j in enumerate(match) if j >= 0)
    rows, columns = linear_sum_assignment(-score)
    assert value == pytest.approx(score[rows, columns].sum())


def test_a_large_assignment_agrees_with_scipy():
    score = np.maximum(np.random.default_rng(0).normal(0, 5, (60, 150)), 0)
    match = kernels.assign(score)
    rows, columns = linear_sum_assignment(-score)
    value = sum(score[i, j] for i, j in enumerate(match) if j >= 0)
    assert value == pytest.approx(score[rows, columns].sum())


@pytest.mark.parametrize("name", ["geneva", "geneva_overload"])
def test_shipped_weights_belong_to_today_s_scenario(name):
    """Fails when a scenario changes and nobody tunes again."""
    policy = make_baseline("matching", load_scenario(name))
    assert policy is not None
    assert policy.note == f"weights tuned on {name}"


def test_tuning_is_repeatable_and_never_falls_below_its_start():
    scenario = load_scenario("geneva_small")
    plan = TuningPlan(generations=3, population=6, days_per_generation=4, check_days=20)
    one, two = tune_matching(scenario, plan), tune_matching(scenario, plan)
    assert one == two
    assert one.scenario_hash == scenario.sha256

    def reward(weights):
        engine = Engine(scenario, 20)
        engine.start(900_000 + np.arange(20))
        kernels.play_days(
            *engine.memory,
            kernels.MATCHING,
            weights.array(),
            weights.hold_back_min,
            np.zeros(20, dtype=np.uint64),
        )
        return engine.world.totals.sum(axis=1).mean()

    assert reward(one) >= reward(UNTUNED) - 1e-6


def test_weights_survive_the_disk_and_damage_is_named(tmp_path):
    path = tmp_path / "weights.json"
    UNTUNED.save(path)
    assert MatchingWeights.load(path) == UNTUNED
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "features": ["other"]}))
    with pytest.raises(PolicyError, match="other features"):
        MatchingWeights.load(path)
    path.write_text("{")
    with pytest.raises(PolicyError, match="cannot be read"):
        MatchingWeights.load(path)
    with pytest.raises(PolicyError, match="does not exist"):
        MatchingWeights.load(tmp_path / "none.json")
