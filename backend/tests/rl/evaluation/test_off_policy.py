"""Off-policy estimators against a known truth, and their silence where there is no support."""

import numpy as np
import pytest

from services.rl.errors import UsageError
from services.rl.evaluation.off_policy import Choices, effective_size, fitted, off_policy

ARMS, DAYS, PER_DAY = 5, 20, 150
EPSILON = 0.3


def world(rng, *, epsilon=EPSILON, model="good", another=0.6, days=DAYS):
    """Logged choices of a policy that explores, and the true value of another policy.

    Contexts have an effect that all choices of a day share: clusters matter. The target policy
    takes another arm than the logged plan in a share ``another`` of contexts.
    """
    n = days * PER_DAY
    day = np.repeat(np.arange(days), PER_DAY)
    context = rng.normal(0, 1, n) + rng.normal(0, 0.8, days)[day]
    base = 8.0 + context
    of_arm = np.array([0.0, 1.5, -1.0, 0.5, -2.0])
    plan = rng.integers(0, ARMS, n)
    target = np.where(
        rng.random(n) < another, (plan + 1 + rng.integers(0, ARMS - 1, n)) % ARMS, plan
    )
    explored = rng.random(n) < epsilon
    taken = np.where(explored, rng.integers(0, ARMS, n), plan)
    logged = np.where(taken == plan, 1 - epsilon + epsilon / ARMS, epsilon / ARMS)
    reward = base + of_arm[taken] + rng.normal(0, 2, n)
    bias = {"good": 0.0, "wrong": 3.0}[model]
    scale = {"good": 1.0, "wrong": 0.0}[model]
    choices = Choices(
        reward=reward,
        logged=logged,
        target=(taken == target).astype(float),
        model_logged=scale * (base + of_arm[taken]) + bias,
        model_target=scale * (base + of_arm[target]) + bias,
        day=day,
    )
    return choices, float((base + of_arm[target]).mean())


@pytest.mark.parametrize("model", ["good", "wrong"])
def test_both_estimators_are_unbiased_under_support_whatever_the_model_says(model):
    errors, covered = [], []
    for seed in range(120):
        choices, truth = world(np.random.default_rng(seed), model=model)
        found = off_policy(choices, fewest_effective=50)
        assert found.estimable, found.why
        errors.append((found.snips.mean - truth, found.doubly_robust.mean - truth))
        # The truth of these contexts: the intervals are for other days too, so wider than needed.
        covered.append(found.doubly_robust.low <= truth <= found.doubly_robust.high)
    errors = np.array(errors)
    standard_error = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < 4 * standard_error + 1e-3).all()
    assert np.mean(covered) >= 0.9


def test_a_good_model_makes_the_estimate_sharper():
    spread = {}
    for model in ("good", "wrong"):
        found = [
            (c := world(np.random.default_rng(s), model=model))[1]
            - off_policy(c[0], fewest_effective=50).doubly_robust.mean
            for s in range(60)
        ]
        spread[model] = np.std(found)
    assert spread["good"] < 0.8 * spread["wrong"]


def test_intervals_that_ignore_days_would_be_too_narrow():
    choices, _ = world(np.random.default_rng(3))
    by_day = off_policy(choices, fewest_effective=50).logged
    alone = Choices(**{**choices.__dict__, "day": np.arange(len(choices))})
    assert off_policy(alone, fewest_effective=50).logged.half_width < 0.5 * by_day.half_width


def test_the_gain_over_the_log_has_the_sign_of_the_truth():
    better, worse = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        choices, truth = world(rng)
        gain = off_policy(choices, fewest_effective=50).gain
        true_gain = truth - choices.reward.mean()
        better += gain.low <= true_gain <= gain.high
        worse += abs(gain.mean - true_gain) < 1.0
    assert better >= 17 and worse >= 18


def test_a_greedy_log_is_not_estimable():
    choices, _ = world(np.random.default_rng(0), epsilon=0.0)
    found = off_policy(choices)
    assert not found.estimable and "greedy" in found.why
    assert found.snips is None and found.doubly_robust is None and found.gain is None


def test_an_empty_log_is_not_estimable():
    nothing = np.zeros(0)
    found = off_policy(Choices(nothing, nothing, nothing, nothing, nothing, nothing.astype(int)))
    assert not found.estimable and "nothing was explored" in found.why


def test_a_small_effective_sample_is_not_estimable_and_says_how_small():
    choices, _ = world(np.random.default_rng(0), epsilon=0.005, another=1.0)
    found = off_policy(choices, fewest_effective=100)
    assert not found.estimable and "effective sample size" in found.why
    assert found.effective == pytest.approx(effective_size(choices.weight))
    assert f"{found.effective:.0f}" in found.why


def test_choices_outside_of_what_the_log_could_do_are_not_estimable():
    choices, _ = world(np.random.default_rng(0), another=0.0)
    # In half of the contexts the target takes a driver that exploration never draws.
    outside = np.random.default_rng(1).random(len(choices)) < 0.5
    halved = Choices(**{**choices.__dict__, "target": np.where(outside, 0.0, choices.target)})
    found = off_policy(halved, fewest_effective=50)
    assert not found.estimable and "open to exploration" in found.why
    assert found.mass == pytest.approx(0.5, abs=0.1)


def test_too_few_days_have_no_interval_and_no_number():
    choices, _ = world(np.random.default_rng(0), days=3)
    found = off_policy(choices, fewest_effective=20)
    assert not found.estimable and "3 operating days" in found.why


def test_the_fitted_model_never_sees_the_day_it_judges():
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(10), 30)
    planned = rng.normal(8, 2, len(day))
    reward = 1.0 + 0.9 * planned + rng.normal(0, 0.1, len(day))
    clean, _ = fitted(planned, planned, reward, day)
    assert np.allclose(clean, 1.0 + 0.9 * planned, atol=0.1)
    spoilt = np.where(day == 4, reward + 1_000.0, reward)
    again, _ = fitted(planned, planned, spoilt, day)
    assert np.array_equal(again[day == 4], clean[day == 4])  # its own fold does not know
    assert not np.allclose(again[day == 5], clean[day == 5])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("logged", 0.0, "propensities"), ("target", 1.5, "target"), ("logged", 1.2, "propensities")],
)
def test_what_is_no_probability_is_refused(field, value, words):
    choices, _ = world(np.random.default_rng(0))
    column = getattr(choices, field).copy()
    column[7] = value
    with pytest.raises(UsageError, match=words):
        Choices(**{**choices.__dict__, field: column})
