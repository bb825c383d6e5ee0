"""What the demonstration says at its end follows from its results."""

import sys

import numpy as np
import pytest

from scripts.rl import demo, train_dqn
from services.rl.training import planner_run

SIX = {"matching": [400.0, 300.0, 500.0, 450.0, 350.0, 420.0]}


def document(**rewards):
    return {
        "policies": [
            {"name": name, "per_day": {"reward": list(values)}} for name, values in rewards.items()
        ]
    }


@pytest.fixture
def days():
    rng = np.random.default_rng(0)
    return rng.normal(500.0, 60.0, 200), rng.normal(0.0, 5.0, 200)


def test_a_clear_winner_is_certain_and_six_days_are_not(days):
    base, noise = days
    found = demo.conclusion(
        document(nearest=base - 10 + noise, matching=base, planner=base + 30 + noise),
        document(**SIX),
    )
    assert found.startswith("On 200 simulated days that nothing was fitted on, planner")
    assert "more than matching (certain at 95 %); " in found
    assert "more than nearest (certain at 95 %)." in found
    assert "not certain" not in found
    assert "6 replayed days cannot rank the policies" in found
    assert "The company is invented" in found


def test_a_lead_that_chance_explains_is_not_called_certain(days):
    base, noise = days
    noise = noise - noise.mean()
    found = demo.conclusion(
        document(nearest=base - 30, matching=base, matching_linear=base + 0.1 + noise),
        document(**SIX),
    )
    assert "matching_linear earned most" in found
    assert "0.1 ± 0.7 more than matching (not certain: it may be 0)" in found
    assert "30.1 ± 0.7 more than nearest (certain at 95 %)" in found


def test_the_evaluated_days_did_not_choose_the_model():
    assert planner_run.VALIDATION_DAYS == demo.JUDGED


def test_the_advice_of_training_is_left_out(monkeypatch, capsys):
    def step(options):
        sys.stdout.write("32,000 steps in 60 s\nevaluate it: evaluate.py --scenario demo\n")
        return 3

    monkeypatch.setattr(train_dqn, "main", step)
    assert demo._unprompted(step, []) == 3
    assert capsys.readouterr().out == "32,000 steps in 60 s\n"
