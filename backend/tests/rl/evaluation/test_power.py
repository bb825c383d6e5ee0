"""The power calculator against textbook numbers, and against experiments."""

import math

import numpy as np
import pytest

from services.rl.errors import UsageError
from services.rl.evaluation.arm_ratios import Moments
from services.rl.evaluation.power import Question, days_needed, units_to_cross
from services.rl.evaluation.simulated_experiments import Trial, history, play_experiment
from services.rl.experiments.config import UnitKind
from services.rl.experiments.simulated_weeks import Demand


def test_one_look_is_the_textbook_s():
    answer = days_needed(Question(rate=0.7, effect=0.05, bookings_per_day=100))
    n = (1.959964 + 0.841621) ** 2 * (0.7 * 0.3 + 0.75 * 0.25) / 0.05**2  # per arm
    assert answer.fixed == pytest.approx(2 * n / 100, rel=1e-4)
    assert 1.2 < answer.always_valid / answer.fixed < 2.5


def test_correlated_bookings_take_longer_and_uneven_splits_too():
    base = Question(rate=0.7, bookings_per_unit=8, bookings_per_day=100)
    days = days_needed(base).always_valid
    for worse in ({"icc": 0.1}, {"share": 0.1}, {"effect": 0.02}, {"power": 0.95}):
        assert days_needed(Question(**{**vars(base), **worse})).always_valid > 1.1 * days


def test_the_correlation_of_a_history_is_found_again():
    rng = np.random.default_rng(1)
    rho, rate = 0.1, 0.8
    a, b = rate * (1 / rho - 1), (1 - rate) * (1 / rho - 1)
    size = rng.integers(1, 15, 4000)
    moments = Moments.of(rng.binomial(size, rng.beta(a, b, 4000)), size)
    assert moments.icc() == pytest.approx(rho, abs=0.015)
    single = Moments.of(rng.binomial(1, 0.8, 500), np.ones(500))
    assert single.icc() == 0.0
    question = Question.from_history(moments, 100.0)
    assert question.bookings_per_day == pytest.approx(size.sum() / 100)
    # The formula gives back the variance that it was taken from.
    equal = Question.from_history(moments, 100.0, effect=1e-6)
    assert equal.variance() == pytest.approx(4 * moments.unit_variance, rel=1e-3)


def test_crossing_is_sooner_than_a_single_look_would_be_sure_of():
    units = units_to_cross(0.1, 60, 0.8, 0.05)
    assert units_to_cross(0.1, 60, 0.5, 0.05) < units < units_to_cross(0.1, 60, 0.95, 0.05)
    assert units_to_cross(1e-9, 60, 0.8, 0.05) == math.inf


def test_few_companies_never_find_a_small_effect():
    few = Question(rate=0.8, companies=20, icc=0.03, bookings_per_day=1700)
    assert days_needed(few) == days_needed(few).__class__(None, None)
    many = Question(rate=0.8, effect=0.1, companies=100, icc=0.01, bookings_per_day=8500)
    answer = days_needed(many)
    assert answer.always_valid in (7, 14, 28) and answer.fixed <= answer.always_valid


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"rate": 1.0}, "rate"),
        ({"rate": 0.99}, "effect"),
        ({"rate": 0.8, "effect": 0.0}, "effect"),
        ({"rate": 0.8, "icc": 2.0}, "icc"),
        ({"rate": 0.8, "bookings_per_day": 0.0}, "bookings_per_day"),
        ({"rate": 0.8, "companies": 3}, "companies"),
    ],
)
def test_what_cannot_be_is_named(fields, word):
    with pytest.raises(UsageError, match=word):
        Question(**fields)
    with pytest.raises(UsageError, match="history"):
        Question.from_history(Moments.of([], []), 10.0)


def test_the_days_told_are_about_the_days_it_takes():
    trial = Trial(Demand(1, 85), UnitKind.SWITCHBACK, 56, gain=0.0)
    question = Question.from_history(history(trial, 1), 56, effect=0.1)
    days = math.ceil(days_needed(question).always_valid)
    played = Trial(trial.demand, trial.unit, days, gain=0.1)
    results = [play_experiment(played, 100 + i) for i in range(60)]
    found = sum(r.answer == "better" for r in results)
    assert 0.65 * 60 <= found <= 0.97 * 60
    assert not any(r.answer == "worse" for r in results)


@pytest.mark.parametrize("unit", list(UnitKind))
def test_equal_arms_are_seldom_called(unit):
    demand = Demand(12, 4) if unit == UnitKind.COMPANY else Demand(1, 40)
    results = [play_experiment(Trial(demand, unit, 14), seed) for seed in range(60)]
    assert sum(r.called_on is not None for r in results) <= 7
    assert not any(r.blocked for r in results)
    assert sum(r.covered is False for r in results) <= 8
