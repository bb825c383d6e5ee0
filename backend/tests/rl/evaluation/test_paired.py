"""Intervals and ratios against values known by hand and by simulation."""

import math

import numpy as np
import pytest

from services.rl.evaluation.paired import estimate, gap_closed, paired_difference


def test_an_estimate_is_students_interval():
    found = estimate(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    # t(0.975, 4) = 2.776445, s = sqrt(2.5), n = 5
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert found.excludes_zero
    assert not estimate(np.array([-1.0, 1.0])).excludes_zero


def test_one_day_says_nothing_about_spread():
    assert math.isinf(estimate(np.array([4.0])).half_width)


def test_pairing_removes_what_the_days_have_in_common():
    rng = np.random.default_rng(0)
    day = rng.normal(0, 100, 50)
    a, b = day + 1 + rng.normal(0, 0.1, 50), day + rng.normal(0, 0.1, 50)
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(1.0, abs=0.1)
    assert difference.half_width < 0.1 < estimate(a).half_width


def test_the_gap_is_a_ratio_of_means_with_honest_coverage():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        nearest = rng.normal(400, 60, 40)
        room = rng.normal(300, 40, 40)
        policy = nearest + 0.5 * room + rng.normal(0, 30, 40)
        gap = gap_closed(policy, nearest, nearest + room)
        covered += gap.low <= 50 <= gap.high
    assert 0.92 <= covered / 400 <= 0.98


def test_no_room_gives_no_number():
    same = np.ones(3)
    assert math.isnan(gap_closed(same, same, same).mean)
