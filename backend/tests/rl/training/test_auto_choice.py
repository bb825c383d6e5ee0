"""The rule of ``--policy auto`` on made-up days: safe first, then best, a tie to the simplest."""

import numpy as np

from services.rl.evaluation.paired import Estimate
from services.rl.training.auto_choice import Judged, choose, sure

DAYS = 40
NOISE = np.random.default_rng(0).normal(0.0, 5.0, DAYS)


def judged(name, gain, *, trained=False, wobble=1.0, urgent=0.0, missed=0.0, days=DAYS):
    """Made-up days: ``gain`` above 100 points, the same weather for everybody."""
    own = np.random.default_rng(sum(map(ord, name))).normal(0.0, wobble, DAYS)
    common = np.arange(DAYS) % 3  # urgent bookings left over on these days, by anybody
    kpis = {
        "reward": 100.0 + gain + NOISE + own - own.mean(),
        "bookings_due": np.full(DAYS, 50.0),
        "on_time_pct": 80.0 - 2.0 * (missed + 0.1 * own),
        "unserved_p4": common + urgent + 0.01 * own,
        "unserved_p5": common * 0.0,
    }
    return Judged(name, trained, {k: v[:days] for k, v in kpis.items()})


def test_the_best_wins():
    choice = choose(
        [judged("nearest", -8), judged("matching", 0), judged("planner", 9)], "matching"
    )
    assert choice.winner == choice.best == "planner"
    assert choice.gain["planner"].low > 0 > choice.gain["nearest"].high


def test_a_tie_goes_to_what_needs_no_training_and_then_to_the_first():
    network = judged("dqn", 10.1, trained=True)
    linear, search = judged("linear", 9.9), judged("search", 10.0)
    choice = choose([judged("matching", 0), linear, search, network], "matching")
    assert choice.best == "dqn"
    assert choice.winner == "linear"
    assert set(choice.tied) == {"linear", "search", "dqn"}


def test_more_urgent_patients_left_behind_is_a_veto_whatever_the_reward():
    risky = judged("risky", 30, urgent=0.5)
    choice = choose([judged("matching", 0), judged("linear", 5), risky], "matching")
    assert choice.winner == "linear"
    assert list(choice.unsafe["risky"]) == ["urgent_unserved"]


def test_so_are_more_patients_not_picked_up_in_time():
    tardy = judged("tardy", 30, missed=1.0)
    choice = choose([judged("matching", 0), tardy], "matching")
    assert choice.winner == "matching"
    assert list(choice.unsafe["tardy"]) == ["not_in_time"]


def test_a_rise_within_the_interval_is_no_veto():
    choice = choose([judged("matching", 0), judged("planner", 9, urgent=0.0001)], "matching")
    assert choice.winner == "planner" and not choice.unsafe


def test_too_few_days_keep_todays_heuristic_and_never_fall_back_behind_it():
    few = [
        judged("nearest", -8, days=1), judged("matching", 0, days=1), judged("planner", 9, days=1)
    ]  # fmt: skip
    choice = choose(few, "matching")
    assert choice.best == "planner" and choice.winner == "matching"
    assert "nearest" not in choice.tied


def test_a_gain_is_sure_with_enough_days_and_an_interval_above_zero():
    assert sure(Estimate(5.0, 1.0), 20)
    assert not sure(Estimate(5.0, 1.0), 19)
    assert not sure(Estimate(5.0, 6.0), 200)
