"""Evaluations end to end on few days: pairing, yardstick, tables, files."""

import json

import numpy as np
import pytest

from services.rl.errors import PolicyError, UsageError
from services.rl.evaluation.evaluation import day_book, run_evaluation
from services.rl.evaluation.report import text, write_report
from services.rl.evaluation.runner import evaluate_policy, play_day
from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.registry import make_policy
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Split, load_scenario

PROVENANCE = {
    "command": "evaluate.py",
    "commit": "abc",
    "machine": {"processor": "x", "cpus": 2, "python": "3"},
}


class Stubborn:
    """Commits every open booking to driver 0, allowed or not."""

    name = "stubborn"

    def __init__(self, scenario):
        pass

    def decide(self, state, *, plan=None, budget_ms=None, rng=None):
        return DecisionSet(tuple(Decision(b, 0) for b in range(len(state.bookings))))


class NoPolicy:
    def __init__(self, scenario):
        pass


@pytest.fixture(scope="module")
def book():
    return day_book(load_scenario("geneva_small"), None, Split.VALIDATION, 4)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ATMR_HOME", str(tmp_path))
    return tmp_path


def test_policies_meet_the_same_days(book):
    found = run_evaluation(book, Split.VALIDATION, ["random", "nearest", "cheapest", "matching"])
    due = [r.kpi("bookings_due").tolist() for r in found.results]
    assert all(d == due[0] for d in due)
    assert found.reference == "matching"
    assert (
        found.difference("nearest").mean
        == (found.result("nearest").kpi("reward") - found.result("matching").kpi("reward")).mean()
    )


def test_random_is_repeatable_by_seed(book):
    one, two = (evaluate_policy("random", book, seed=3) for _ in range(2))
    other = evaluate_policy("random", book, seed=4)
    assert np.array_equal(one.kpis, two.kpis)
    assert not np.array_equal(one.kpis, other.kpis)


def test_hindsight_is_never_below_a_policy(book, home):
    found = run_evaluation(
        book, Split.VALIDATION, ["nearest", "matching", "hindsight"], hindsight_seconds=0.3
    )
    for result in found.results:
        assert (result.kpi("reward") <= found.hindsight_rewards() + 1e-9).all()
    gap = found.gap("nearest")
    assert gap is not None and gap.mean == 0.0


def test_what_a_policy_may_not_do_is_refused_and_counted(book):
    found = evaluate_policy(f"{__name__}:Stubborn", book)
    assert found.refused > 0
    assert found.kpi("completed").sum() > 0


def test_rolling_days_are_kept_and_read_again(book, home):
    one = day_book(book.scenario, None, Split.VALIDATION, 1)
    first = evaluate_policy("rolling", one, budget_ms=20)
    files = list((home / "data" / "rl" / "cache" / "days").glob("*.json"))
    assert len(files) == 1
    stored = json.loads(files[0].read_text())
    stored["kpis"][KPIS.index("reward")] = 12345.0
    files[0].write_text(json.dumps(stored))
    assert evaluate_policy("rolling", one, budget_ms=20).kpi("reward").tolist() == [12345.0]
    files[0].write_text("{ damaged")
    again = evaluate_policy("rolling", one, budget_ms=20)
    assert again.kpi("bookings_due").tolist() == first.kpi("bookings_due").tolist()
    assert again.kpi("reward")[0] != 12345.0


def test_two_processes_give_what_one_gives(home):
    book = day_book(load_scenario("geneva_small"), None, Split.VALIDATION, 2)
    name = "tests.rl.evaluation.test_evaluation:Stubborn"
    alone = evaluate_policy(name, book, jobs=1, cached=False)
    together = evaluate_policy(name, book, jobs=2, cached=False)
    assert np.array_equal(alone.kpis, together.kpis)


def test_report_and_json_say_the_same(book, home):
    found = run_evaluation(
        book, Split.VALIDATION, ["nearest", "matching", "hindsight"], hindsight_seconds=0.3
    )
    files = write_report(found, home / "report", PROVENANCE)
    assert {f.name for f in files} == {"report.md", "kpis.png", "gantt.png", "map.png"}
    assert all(f.stat().st_size > 0 for f in files)
    report = files[0].read_text()
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for policy in document["policies"]:
        assert f"{policy['mean']['reward']:.1f}" in report
        assert len(policy["per_day"]["reward"]) == 4
        assert policy["mean"]["reward"] == pytest.approx(np.mean(policy["per_day"]["reward"]))
    assert document["day_seeds"] == [1_000_000, 1_000_001, 1_000_002, 1_000_003]
    assert document["scenario_hash"] == book.scenario.sha256
    assert "best known" in text(found)


@pytest.mark.parametrize(
    ("policies", "reference", "error", "words"),
    [
        (["nearest", "nearest"], None, UsageError, "twice"),
        (["hindsight"], None, UsageError, "besides hindsight"),
        (["nearest"], "matching", UsageError, "--reference 'matching'"),
        (["nowhere"], None, PolicyError, "unknown policy 'nowhere'"),
        (["nowhere.to:Be"], None, PolicyError, "cannot be imported"),
        ([f"{__name__}:NoPolicy"], None, PolicyError, "needs an attribute 'name'"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_played(book, policies, reference, error, words):
    with pytest.raises(error, match=words):
        run_evaluation(book, Split.VALIDATION, policies, reference=reference)


def test_a_policy_must_decide_on_rows_of_the_state(book):
    class Astray(Stubborn):
        def decide(self, state, *, plan=None, budget_ms=None, rng=None):
            return DecisionSet((Decision(len(state.bookings), 0),))

    with pytest.raises(PolicyError, match="open bookings"):
        play_day(Astray(book.scenario), book.engine([0]))


def test_resized_scenarios_use_the_weights_of_their_origin():
    policy = make_policy("matching", load_scenario("geneva").resized(num_drivers=5))
    assert "geneva (another scenario" in policy.note
