"""Boundaries, looks and the sample ratio."""

import numpy as np
import pytest

from services.rl.evaluation.intervals import wilson
from services.rl.evaluation.sequential import (
    RATIO_P,
    boundary,
    look_alpha,
    look_day,
    looks_until,
    ratio_p,
    students,
)


def test_wilson_agrees_with_the_textbook_and_wants_twenty():
    assert wilson(10, 19) is None
    i = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(i.low, 4), round(i.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1


def test_the_sequence_narrows_and_is_wider_than_one_look():
    widths = [boundary(n) / n**0.5 for n in (50, 200, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    assert all(boundary(n) > 1.96 for n in (10, 100, 1000, 1e6))


def test_few_units_are_paid_for():
    assert students(1.959964, 10) == pytest.approx(2.228, abs=1e-3)  # the table of Student's t
    assert students(3.0, 1e6) == pytest.approx(3.0, abs=1e-3)
    assert np.isfinite(students(12.0, 58))


def test_looks_at_units_that_stay_spend_alpha_once():
    assert [looks_until(d) for d in (0, 6.9, 7, 13, 14, 28, 60)] == [0, 0, 1, 1, 2, 3, 4]
    assert all(looks_until(look_day(k)) == k for k in range(1, 12))
    assert sum(look_alpha(k) for k in range(1, 10_000)) <= 0.05


def test_the_sample_ratio_may_be_looked_at_after_every_unit():
    rng = np.random.default_rng(4)
    alarms = sum(ratio_p(rng.random(2000) < 0.5, 0.5) < 0.05 for _ in range(400))
    assert alarms <= 30  # 5 % of 400 and what chance may add
    assert ratio_p(rng.random(2000) < 0.5, 0.5) > RATIO_P


def test_a_fault_of_assignment_is_found_and_stays_found():
    rng = np.random.default_rng(5)
    tilted = rng.random(3000) < 0.4
    assert ratio_p(tilted, 0.5) < RATIO_P and ratio_p(tilted, 0.4) > RATIO_P
    mended = np.append(tilted, rng.random(6000) < 0.55)
    assert ratio_p(mended, 0.5) <= ratio_p(tilted, 0.5)
    assert ratio_p([], 0.5) == ratio_p([True] * 50, 1.0) == 1.0
