"""The experiment's report: verdicts whose truth is known, KPIs per arm, what blocks a verdict."""

import json

import numpy as np
import pytest

from services.rl.evaluation.experiment_markdown import markdown
from services.rl.evaluation.experiments import ReportConfig, UnitOutcomes, report
from services.rl.evaluation.sequential import look_day
from services.rl.experiments.config import UnitKind

BOOKING = ReportConfig(UnitKind.BOOKING)


def draws(rng, n, rate_heuristic, rate_learned, size=1, share=0.5):
    learned = rng.random(n) < share
    good = rng.binomial(size, np.where(learned, rate_learned, rate_heuristic))
    return [
        UnitOutcomes(bool(a), size, int(g), late=size - int(g))
        for a, g in zip(learned, good, strict=True)
    ]


def told(units, **fields):
    return report(units, ReportConfig(**{"unit": UnitKind.BOOKING, **fields}))


def test_looking_every_day_keeps_the_promise():
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        units = draws(rng, 1200, 0.7, 0.7)
        looks = (report(units[:n], BOOKING) for n in range(80, 1201, 160))
        called += any(r.answer in ("better", "worse") for r in looks)
    assert called <= 18  # 5 % of 200 and what chance may add; fixed-time intervals call ~ 40


def test_a_real_difference_is_found_with_its_sign():
    rng = np.random.default_rng(1)
    better, worse = told(draws(rng, 3000, 0.7, 0.82)), told(draws(rng, 3000, 0.82, 0.7))
    assert (better.answer, worse.answer) == ("better", "worse")
    assert better.difference.low > 0 > worse.difference.high
    late = better.differences["late"]
    assert late.value == pytest.approx(-better.difference.value) and late.high < 0


def test_units_count_not_their_bookings():
    rng = np.random.default_rng(2)
    single = draws(rng, 400, 0.7, 0.75)
    tenfold = [UnitOutcomes(u.learned, 10, 10 * u.on_time, late=10 * u.late) for u in single]
    one, ten = told(single), told(tenfold)
    assert ten.difference.low == pytest.approx(one.difference.low)
    assert ten.arms["rl"].bookings == 10 * one.arms["rl"].bookings
    assert ten.outlook.icc == pytest.approx(1.0, abs=0.01) and one.outlook.icc == 0


def test_no_verdict_says_how_much_more():
    rng = np.random.default_rng(5)
    early = told(draws(rng, 40, 0.7, 0.7), days=4.0)
    assert early.answer == "too_early" and early.outlook.more_bookings > 0
    later = told(draws(rng, 600, 0.7, 0.75), days=10.0)
    assert later.answer == "undecided" and later.outlook.more_bookings > 100
    assert later.outlook.more_days == pytest.approx(later.outlook.more_bookings / 60, rel=0.01)
    assert 20 < later.outlook.days_fixed < later.outlook.days_always_valid
    assert told([]).answer == told([UnitOutcomes(True, 1, 1)]).answer == "no_data"


def test_a_difference_that_is_certainly_small_is_none():
    rng = np.random.default_rng(6)
    assert told(draws(rng, 4000, 0.9, 0.9), margin=0.05).answer == "same"


def test_an_implausible_split_blocks_the_verdict():
    units = [UnitOutcomes(i % 10 < 3, 1, i % 7 > 0) for i in range(1000)]
    assert told(units).answer == "wrong_split" and told(units).ratio.blocked
    assert told(units, share=0.3).answer != "wrong_split"
    # What was drawn may be right, and outcomes get lost on the way; or the other way round.
    drawn = [i % 2 == 0 for i in range(1400)]
    assert told(units, drawn=drawn).answer == "wrong_split"
    rng = np.random.default_rng(7)
    even = draws(rng, 1000, 0.7, 0.7)
    assert told(even).ratio.blocked is False
    assert told(even, drawn=[i % 10 < 3 for i in range(1000)]).answer == "wrong_split"


def test_companies_are_judged_at_few_looks_only():
    rng = np.random.default_rng(8)
    units = [
        UnitOutcomes(i % 2 == 0, 600, int(rng.binomial(600, 0.9 if i % 2 == 0 else 0.7)))
        for i in range(20)
    ]
    between = told(units, unit=UnitKind.COMPANY, look=0)
    assert between.answer == "too_early" and between.outlook.more_bookings is None
    looks = [told(units, unit=UnitKind.COMPANY, look=look) for look in (1, 2, 3)]
    assert [r.answer for r in looks] == ["better"] * 3
    widths = [r.difference.high - r.difference.low for r in looks]
    assert widths == sorted(widths)  # later looks have less to spend
    assert [look_day(k) for k in (1, 2, 3)] == [7, 14, 28]
    assert told(units[:8], unit=UnitKind.COMPANY, look=1).answer == "too_early"


def test_kpis_are_ratios_over_units_with_intervals_that_cover():
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(200):
        units = []
        for _unit in range(40):
            size, luck = int(rng.integers(1, 9)), float(rng.beta(8, 2))
            good = int(rng.binomial(size, luck))
            units.append(UnitOutcomes(False, size, good, unserved=size - good))
        interval = told(units).arms["heuristic"].kpis["on_time"]
        covered += interval.low <= 0.8 <= interval.high
    assert 180 <= covered <= 199
    one = UnitOutcomes(
        True, 10, 6, late=2, unserved=2, urgent=4, urgent_unserved=1, wait_min=80.0, late_min=8.0
    )
    kpis = told([one, one]).arms["rl"].kpis
    values = {name: kpi.value for name, kpi in kpis.items()}
    assert values == pytest.approx(
        {"on_time": 0.6, "late": 0.2, "unserved": 0.2, "urgent_unserved": 0.25,
         "wait_min": 10.0, "late_min": 1.0}
    )  # fmt: skip
    assert all(kpi.low is None for kpi in kpis.values())  # two units give no interval


def test_the_report_is_json_and_a_page_in_words():
    rng = np.random.default_rng(10)
    made = told(
        draws(rng, 900, 0.7, 0.8, size=4), unit=UnitKind.SWITCHBACK, block_min=30, days=60.0,
        breaches=("Too many late bookings.",),
    )  # fmt: skip
    assert json.loads(json.dumps(made.to_json(), allow_nan=False))["answer"] == made.answer
    page = markdown(made)
    assert "more punctual" in page and "Too many late bookings." in page
    assert "| on time |" in page and "less than an hour" in page
    assert "no finished bookings" in markdown(told([]))


def test_what_to_beware_of_is_told_by_unit():
    rng = np.random.default_rng(11)
    units = draws(rng, 100, 0.7, 0.7)
    assert told(units).notes == ("shared_fleet",)
    assert told(units, unit=UnitKind.SWITCHBACK, block_min=30).notes == ("carry_over",)
    assert told(units, unit=UnitKind.SWITCHBACK, block_min=60).notes == ()
