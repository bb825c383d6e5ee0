"""What an evaluation prints and reports: a table that fits, and a conclusion in words."""

import numpy as np
import pytest

from services.rl.evaluation.evaluation import Evaluation, day_book
from services.rl.evaluation.report import conclusion, table, text
from services.rl.evaluation.runner import DayResults
from services.rl.policies.hindsight import Hindsight
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Split, load_scenario

DAYS = 6


def results(policy, rewards, ms=0.0634):
    kpis = np.full((len(rewards), len(KPIS)), 12.3)
    kpis[:, KPIS.index("reward")] = rewards
    return DayResults(policy, kpis, np.full(4, ms))


def evaluation(*found, reference, hindsight=()):
    book = day_book(load_scenario("geneva_small"), None, Split.VALIDATION, DAYS)
    yardstick = [Hindsight("day", v, "best known", "search") for v in hindsight]
    return Evaluation(book, Split.VALIDATION, list(found), reference, yardstick)


def noisy(mean, spread=100.0):
    return mean + spread * np.array([-1.0, 1.0, -0.5, 0.5, -0.25, 0.25])


@pytest.fixture
def three():
    return (
        results("nearest", noisy(400.0), 107.4),
        results("matching", noisy(410.0), 4.16),
        results("matching_linear", noisy(430.0)),
    )


def test_the_terminal_table_fits_140_columns(three):
    full = evaluation(*three, reference="matching", hindsight=noisy(600.0))
    printed = text(full)
    assert max(map(len, table(full, markdown=False).splitlines())) <= 140
    assert "|" not in table(full, markdown=False)
    assert "closed %" in printed


def test_columns_that_no_policy_has_are_left_out(three):
    without = evaluation(*three, reference="matching")
    assert "closed" not in table(without) + table(without, markdown=False)
    assert "of bound" not in table(without)
    assert "gap closed %" in table(evaluation(*three, reference="matching", hindsight=noisy(600.0)))


def test_latency_has_two_significant_digits(three):
    shown = table(evaluation(*three, reference="matching"))
    for cell in ("110 / 110", "4.2 / 4.2", "0.063 / 0.063"):
        assert f" {cell} |" in shown


def test_the_best_reward_is_marked_once(three):
    for markdown in (True, False):
        shown = table(evaluation(*three, reference="matching"), markdown=markdown)
        (marked,) = [line for line in shown.splitlines() if "▲" in line]
        assert "matching_linear" in marked


def test_the_conclusion_says_who_and_by_how_much(three):
    found = evaluation(*three, reference="matching")
    sentence = conclusion(found)
    assert sentence.startswith("matching_linear earned most: 430.0 a day, 20.0 ± 0.0 more than ")
    assert sentence.endswith("than matching; the 95 % interval excludes 0.")
    assert text(found).endswith(sentence + "\n")
    assert sentence in text(found, markdown=True)


def test_the_conclusion_compares_a_winning_reference_with_the_next(three):
    found = conclusion(evaluation(*three, reference="matching_linear"))
    assert "it is the reference; next comes matching" in found
    assert "20.0 ± 0.0 more than matching;" in found


def test_the_conclusion_does_not_claim_what_days_cannot_tell():
    scattered = results("dqn", noisy(401.0, -100.0))
    found = evaluation(results("nearest", noisy(400.0)), scattered, reference="nearest")
    assert conclusion(found).endswith(
        "the 95 % interval includes 0: 6 days cannot tell them apart."
    )
    one = evaluation(results("a", [1.0]), results("b", [2.0]), reference="a")
    assert "one day gives no interval" in conclusion(one)
    assert "nothing to compare" in conclusion(evaluation(scattered, reference="dqn"))
