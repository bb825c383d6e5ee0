"""Intervals and verdicts: what they promise, checked by drawing."""

import numpy as np
import pytest

from services.dispatching.verdict import UnitCount, judge, ratio_p, sequence_half_width, wilson


def draws(rng, n, rate_heuristic, rate_learned, size=1):
    learned = rng.random(n) < 0.5
    good = rng.binomial(size, np.where(learned, rate_learned, rate_heuristic))
    return [UnitCount(bool(a), int(g), size) for a, g in zip(learned, good, strict=True)]


def test_wilson_agrees_with_the_textbook_and_wants_twenty():
    assert wilson(10, 19) is None
    i = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(i.low, 4), round(i.high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1


def test_looking_every_day_keeps_the_promise():
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        units = draws(rng, 1200, 0.7, 0.7)
        looks = (judge(units[:n], 0.5) for n in range(80, 1201, 80))
        called += any(v.answer in ("better", "worse") for v in looks)
    assert called <= 18  # 5 % of 200 and what chance may add; fixed-time intervals call ~ 40


def test_a_real_difference_is_found_with_its_sign():
    rng = np.random.default_rng(1)
    assert judge(draws(rng, 3000, 0.7, 0.82), 0.5).answer == "better"
    assert judge(draws(rng, 3000, 0.82, 0.7), 0.5).answer == "worse"


def test_units_count_not_their_bookings():
    rng = np.random.default_rng(2)
    single = draws(rng, 400, 0.7, 0.75)
    tenfold = [UnitCount(u.learned, 10 * u.good, 10 * u.bookings) for u in single]
    one, ten = judge(single, 0.5), judge(tenfold, 0.5)
    assert ten.low == pytest.approx(one.low) and ten.bookings[0] == 10 * one.bookings[0]


def test_no_verdict_says_how_many_more():
    rng = np.random.default_rng(5)
    early = judge(draws(rng, 40, 0.7, 0.7), 0.5)
    assert early.answer == "too_early" and early.more_bookings > 0
    later = judge(draws(rng, 600, 0.7, 0.75), 0.5)
    assert later.answer == "undecided" and later.more_bookings > 100
    assert judge([], 0.5).answer == "no_data"
    assert judge([UnitCount(True, 1, 1)], 0.5).answer == "no_data"


def test_an_implausible_split_blocks_the_verdict():
    units = [UnitCount(i < 300, 1, 1) for i in range(1000)]
    assert judge(units, 0.5).answer == "wrong_split"
    assert judge(units, 0.3).answer != "wrong_split"
    assert ratio_p((500, 500), 0.5) == 1.0 and ratio_p((7, 3), 0.0) == 1.0


def test_the_sequence_narrows():
    widths = [sequence_half_width(n, 1.0) for n in (50, 200, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.06
