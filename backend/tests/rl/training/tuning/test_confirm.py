"""A confirmation: its intervals hold, and what it claims it has measured on test days alone."""

import numpy as np
import pytest

from services.rl.errors import UsageError
from services.rl.training.tuning.confirm import (
    ConfirmPlan,
    confirm,
    crossed_difference,
    crossed_gain,
    rank_correlation,
)
from services.rl.training.tuning.study import open_study
from services.rl.training.tuning.worker import work

from .toy_studies import toy


def two_way(rng, seeds, days, of_seed, of_day, rest, gain=0.0):
    noise = of_seed * rng.standard_normal((seeds, 1)) + of_day * rng.standard_normal((1, days))
    return gain + noise + rest * rng.standard_normal((seeds, days))


@pytest.mark.parametrize(
    ("of_seed", "of_day", "rest"), [(3.0, 5.0, 8.0), (0.0, 5.0, 8.0), (5.0, 0.0, 8.0), (0, 0, 8)]
)
def test_the_interval_covers_the_truth_19_times_of_20_whatever_varies(of_seed, of_day, rest):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(800):
        a = two_way(rng, 4, 60, of_seed, of_day, rest, gain=2.0)
        found = crossed_difference(a, np.zeros_like(a))
        covered += found.low <= 2.0 <= found.high
    assert covered >= 0.93 * 800


def test_an_interval_over_days_alone_would_not():
    """What the crossed interval is for: three lucky seeds on many days prove little."""
    from services.rl.evaluation.paired import estimate

    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        a = two_way(rng, 3, 100, 5.0, 1.0, 5.0)
        found = estimate(a.mean(axis=0))
        covered += found.low <= 0.0 <= found.high
    assert covered < 0.6 * 400


def test_a_gain_is_in_percent_of_the_default_and_unknown_below_zero():
    rng = np.random.default_rng(3)
    default = 500 + two_way(rng, 3, 100, 0.5, 20.0, 1.0)
    better = 1.1 * default
    gain = crossed_gain(better, default)
    assert gain.mean == pytest.approx(10.0) and gain.half_width < 0.1
    assert np.isnan(crossed_gain(better, default - 1_000).mean)


def test_ranks_of_few_candidates_are_compared_exactly():
    found = rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0])
    assert found["rho"] == pytest.approx(1.0) and found["p"] == pytest.approx(1 / 24)
    assert rank_correlation([1.0, 2.0], [1.0, 2.0])["rho"] is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])["rho"] is None


def test_too_few_seeds_and_a_study_with_nothing_to_confirm_are_refused(storage, tmp_path):
    order = toy(tmp_path, trials=1)
    study = open_study(order.setup(), storage, resume=False)
    work(order)
    with pytest.raises(UsageError, match="at least 3"):
        confirm(study, order, ConfirmPlan(seeds=2))
    with pytest.raises(UsageError, match="nothing to confirm"):
        confirm(study, order, ConfirmPlan())
