"""Evidence: its mean is 1 while nothing is wrong, and it grows when something is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rl.experiments.evidence import (
    DAYS,
    LOG_ODDS,
    START_WEIGHTS,
    ArmComparison,
    RateCeiling,
    UnitTotal,
    _log_factors,
    standing_evidence,
)


@given(st.floats(-20, 20), st.floats(0.01, 0.99))
def test_a_factor_has_mean_one_over_the_draw_of_the_arm(residual, share):
    r, q = np.array([residual] * 2), np.array([share] * 2)
    gains = np.exp(_log_factors(r, np.array([1.0, 0.0]), q, LOG_ODDS))
    assert share * gains[:, 0] + (1 - share) * gains[:, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_unit_that_was_not_drawn_says_nothing(share):
    gains = _log_factors(np.array([5.0]), np.array([share]), np.array([share]), LOG_ODDS)
    assert not gains.any()


def test_the_weights_of_a_week_add_up_to_one():
    assert START_WEIGHTS.sum() == pytest.approx(1.0) and len(START_WEIGHTS) == DAYS
    assert ArmComparison().finding().e_value == pytest.approx(1.0)


def test_the_week_s_e_value_has_mean_one_over_all_draws_of_the_arms():
    """Exactly: all 2^9 draws of nine units' arms, whose outcomes bunch wildly."""
    outcomes = [(5, 5), (0, 5), (3, 4), (0, 1), (1, 1), (6, 8), (0, 8), (2, 2), (0, 2)]
    share, total = 0.3, 0.0
    for draw in range(2 ** len(outcomes)):
        arms = [bool(draw >> i & 1) for i in range(len(outcomes))]
        comparison = ArmComparison()
        for i in range(0, len(outcomes), 3):
            block = [UnitTotal(*outcomes[j], learned=arms[j], share=share) for j in range(i, i + 3)]
            comparison.weigh(block, day=i // 3)
        chance = math.prod(share if a else 1 - share for a in arms)
        total += chance * comparison.finding().e_value
    assert total == pytest.approx(1.0)


def test_standing_evidence_has_mean_one_over_all_draws_of_the_arms():
    outcomes = [(5, 50), (0, 50), (13, 40), (0, 10), (1, 10), (6, 80)]
    total = 0.0
    for draw in range(2 ** len(outcomes)):
        arms = [bool(draw >> i & 1) for i in range(len(outcomes))]
        units = [UnitTotal(*o, learned=a, share=0.5) for o, a in zip(outcomes, arms, strict=True)]
        total += 0.5 ** len(outcomes) * standing_evidence(units).e_value
    assert total == pytest.approx(1.0)


def test_a_worse_arm_raises_the_evidence_and_a_better_one_does_not():
    rng = np.random.default_rng(1)
    worse, better = ArmComparison(), ArmComparison()
    for _ in range(60):
        arms = rng.random(20) < 0.5
        dice = rng.random(20)
        for comparison, factor in ((worse, 2.0), (better, 0.5)):
            comparison.weigh(
                [
                    UnitTotal(float(d < 0.1 * (factor if a else 1)), 1, bool(a), 0.5)
                    for a, d in zip(arms, dice, strict=True)
                ],
                day=0,
            )
    assert worse.finding().e_value > 1e4
    assert worse.finding().rate > worse.finding().other
    assert better.finding().e_value < 1.0
    assert better.finding().rate < better.finding().other


def test_a_rate_at_its_ceiling_gains_nothing_and_one_above_gains():
    at, above = RateCeiling(0.05), RateCeiling(0.05)
    for block in range(400):
        at.weigh(1 if block % 20 == 0 else 0, 1, day=0)
        above.weigh(1 if block % 5 == 0 else 0, 1, day=0)
    assert at.finding().e_value < 10
    assert above.finding().e_value > 1e4


def test_harm_that_begins_on_the_sixth_day_is_seen_as_on_a_fresh_day():
    late_start, fresh = RateCeiling(0.05), RateCeiling(0.05)
    for day in range(5):
        for _ in range(96):
            late_start.weigh(0, 10, day)
    for ceiling, day in ((late_start, 5), (fresh, 0)):
        for _ in range(6):
            ceiling.weigh(5, 10, day)
    # The sixth day's own e-process has a weight of its own, whatever came before.
    ratio = fresh.finding().e_value / late_start.finding().e_value
    assert ratio < 2 * START_WEIGHTS[0] / START_WEIGHTS[5]
