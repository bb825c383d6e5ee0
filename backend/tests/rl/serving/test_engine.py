"""The engine: right answers from every thread, and the heuristic's where the model fails."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.rl.errors import BundleError, StateError
from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.registry import make_policy
from services.rl.serving.bundle import KINDS
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.policies import Pool
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

from .models import SMALL, bundle_of, chosen

BACKEND = Path(__file__).resolve().parents[3]
AMPLE_MS = 60_000.0


@pytest.fixture
def served(bundles):
    """Builds engines that end with the test."""
    made = []

    def build(kind, **options):
        bundle = bundles[kind] if kind else None
        made.append(InferenceEngine(SMALL, bundle, **{"budget_ms": AMPLE_MS, **options}))
        made[-1].warm_up()
        return made[-1]

    yield build
    for engine in made:
        engine.close()


class Stand:
    """A learned policy made by a test."""

    name = "dqn_matching"

    def __init__(self, decide):
        self._decide = decide

    def decide(self, state, *, plan=None, budget_ms=None, rng=None):
        return self._decide(state)


def with_policy(engine, decide):
    """The engine with its model replaced by a function."""
    engine._loaded.learned = Pool(lambda: Stand(decide))
    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_decides_as_its_policy_does(served, bundles, states, kind):
    engine = served(kind)
    assert engine.ready
    model = bundles[kind].path / "network" if kind == "dqn_matching" else None
    policy = make_policy(kind, SMALL, model=model, transfer=True)
    answers = [engine.decide(state) for state in states]
    assert any(chosen(a) for a in answers)
    for state, answer in zip(states, answers, strict=True):
        assert chosen(answer) == [
            (d.driver, d.booking, round(d.score, 3)) for d in policy.decide(state).decisions
        ]
        assert (answer.policy, answer.fallback_reason) == (kind, None)
        assert answer.model == bundles[kind].version == engine.version
        assert answer.latency_ms > 0.0
    assert engine.counters == {f"policy:{kind}": len(states)}


def test_a_whole_day_is_played_with_the_planners_plan_handed_on(served):
    engine, world = served("planner"), Engine(SMALL, 1)
    world.start([1_000_003])
    plan, plans = None, 0
    while not world.ended(0):
        rows = world.open_rows(0)
        answer = engine.decide(world.state(0), plan=plan)
        plan = answer.decisions.plan
        plans += bool(plan and plan.routes)
        for decision in answer.decisions.decisions:
            assert world.commit(0, decision.driver, int(rows[decision.booking]))
        world.wait(0)
    assert plans > 10
    assert engine._loaded.learned is not None
    with engine._loaded.learned.borrowed() as policy:
        assert policy.ignored_plans == 0


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_get_the_answers_of_one(served, states, kind):
    engine = served(kind)
    alone = [chosen(engine.decide(state)) for state in states]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda s: chosen(engine.decide(s)), states * 8))
    assert together == alone * 8


def test_a_batch_decides_like_single_questions(served, states):
    engine = served("planner")
    alone = [engine.decide(state) for state in states[:12]]
    batch = engine.decide_batch(states[:12])
    assert [chosen(a) for a in batch] == [chosen(a) for a in alone]
    assert engine.decide_batch([]) == []


def test_the_heuristic_can_be_asked_for(served, states):
    engine = served("dqn_matching")
    matching = make_policy("matching", SMALL)
    answer = engine.decide(states[0], use="heuristic")
    assert (answer.policy, answer.fallback_reason) == ("matching", None)
    assert chosen(answer) == [
        (d.driver, d.booking, round(d.score, 3)) for d in matching.decide(states[0]).decisions
    ]


def test_without_a_model_the_heuristic_answers_and_it_is_counted(served, states):
    engine = served(None)
    answer = engine.decide(states[0])
    assert (answer.policy, answer.fallback_reason, answer.model) == ("matching", "no_model", "")
    assert engine.counters == {"policy:matching": 1, "fallback:no_model": 1}


def test_a_late_model_is_not_waited_for(served, states):
    engine = with_policy(served("dqn_matching"), lambda _: time.sleep(1.0) or DecisionSet(()))
    answer = engine.decide(states[0], budget_ms=50.0, plan="yesterday's")
    assert (answer.policy, answer.fallback_reason) == ("matching", "budget")
    assert answer.latency_ms < 900.0
    assert answer.decisions.plan == "yesterday's"  # the next epoch may still build on it
    assert engine.decide(states[0], budget_ms=0.0).fallback_reason == "budget"
    assert engine.counters["fallback:budget"] == 2


def test_late_models_of_many_callers_do_not_pile_up(served, states):
    engine = with_policy(served("dqn_matching"), lambda _: time.sleep(0.3) or DecisionSet(()))
    before = threading.active_count()
    for _ in range(20):
        assert engine.decide(states[0], budget_ms=5.0).fallback_reason == "budget"
    assert threading.active_count() - before <= engine._workers._max_workers


def test_a_model_that_raises_is_replaced_by_the_heuristic(served, states):
    def broken(_state):
        raise ZeroDivisionError("model")

    answer = with_policy(served("planner"), broken).decide(states[0])
    assert (answer.policy, answer.fallback_reason) == ("matching", "error:ZeroDivisionError")


@pytest.mark.parametrize(
    "decisions",
    [
        lambda s: [Decision(len(s.booking_ids), 0)],
        lambda s: [Decision(-1, 0)],
        lambda s: [Decision(0, len(s.driver_ids))],
        lambda s: [Decision(0, -1)],
        lambda s: [Decision(0, None), Decision(0, None)],
        # More than a driver's queue holds.
        lambda s: [Decision(b, 0) for b in range(len(s.booking_ids))] * 3,
    ],
)
def test_what_the_rules_forbid_is_never_answered(served, states, decisions):
    engine = with_policy(served("planner"), lambda s: DecisionSet(tuple(decisions(s))))
    answer = engine.decide(states[0])
    assert (answer.policy, answer.fallback_reason) == ("matching", "infeasible")


def test_explicit_deferrals_are_feasible(served, states):
    engine = with_policy(
        served("planner"),
        lambda s: DecisionSet(tuple(Decision(b, None) for b in range(len(s.booking_ids)))),
    )
    assert engine.decide(states[0]).fallback_reason is None


def test_nearest_answers_where_even_matching_raises(served, states):
    def broken(_state):
        raise RuntimeError("matching")

    engine = served("matching")
    with engine._loaded.desks.borrowed() as desk:
        desk.matching = Stand(broken)
    answer = engine.decide(states[0])
    assert (answer.policy, answer.fallback_reason) == ("nearest", "error:RuntimeError")


def test_no_open_booking_is_an_ordinary_state(served, states):
    quiet = replace(states[0], bookings=states[0].bookings[:0], booking_ids=())
    for kind in KINDS:
        answer = served(kind).decide(quiet)
        assert (answer.policy, chosen(answer), answer.fallback_reason) == (kind, [], None)


def test_a_fleet_off_duty_defers_everything(served, states):
    drivers = states[0].drivers.copy()
    drivers["down"] = True
    for kind in KINDS:
        answer = served(kind).decide(replace(states[0], drivers=drivers))
        assert (chosen(answer), answer.fallback_reason) == ([], None)


def test_a_state_that_cannot_be_is_the_callers_error(served, states):
    bookings = states[0].bookings.copy()
    bookings["pickup_lat"][0] = np.nan
    engine = served("dqn_matching")
    with pytest.raises(StateError, match="pickup_lat of booking 0 is nan"):
        engine.decide(replace(states[0], bookings=bookings))
    with pytest.raises(StateError, match="belongs to scenario"):
        engine.decide(replace(states[0], scenario_hash="0" * 64))
    assert engine.counters == {}
    assert engine.decide(states[0]).fallback_reason is None


def test_models_are_exchanged_under_load(served, bundles, states):
    """Every answer is wholly of the one or the other model, and both were in force."""
    engine = served("dqn_matching")
    expected = {}
    for name in ("dqn_matching", "other"):
        engine.swap(bundles[name])
        for i, state in enumerate(states):
            expected[engine.version, i] = chosen(engine.decide(state))
    first, second = (bundles[name].version for name in ("dqn_matching", "other"))
    assert any(expected[first, i] != expected[second, i] for i in range(len(states)))
    stop, wrong, seen = threading.Event(), [], set()

    def ask(offset):
        i = offset
        while not stop.is_set():
            i = (i + 1) % len(states)
            answer = engine.decide(states[i])
            seen.add(answer.model)
            if answer.fallback_reason or chosen(answer) != expected[answer.model, i]:
                wrong.append((i, answer))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        engine.swap(bundles["other" if turn % 2 == 0 else "dqn_matching"])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen == {first, second}


def test_the_model_can_be_taken_out(served, states):
    engine = served("planner")
    engine.swap(None)
    assert (engine.version, engine.decide(states[0]).fallback_reason) == ("", "no_model")


def test_a_bundle_of_another_scenario_is_refused_and_the_old_one_stays(served, bundles, tmp_path):
    engine = served("dqn_matching")
    foreign = bundle_of("matching", tmp_path, load_scenario("geneva"))
    with pytest.raises(BundleError, match="is for scenario 'geneva'"):
        engine.swap(foreign)
    assert engine.version == bundles["dqn_matching"].version


def test_a_bundle_that_vanished_is_refused_and_the_old_one_stays(served, bundles, tmp_path, states):
    import shutil

    engine = served("planner")
    gone = bundle_of("dqn_matching", tmp_path, seed=2)
    shutil.rmtree(gone.path)
    with pytest.raises(Exception, match=r"matching\.json"):
        engine.swap(gone)
    assert engine.decide(states[0]).model == bundles["planner"].version


def test_serving_never_imports_torch(bundles):
    """In a process of its own, every kind; nor what is large and not needed for deciding."""
    program = f"""
import sys
from pathlib import Path
from services.rl.serving.bundle import read_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.policies import warm_state
for folder in {[str(b.path) for b in bundles.values()]!r}:
    bundle = read_bundle(Path(folder))
    engine = InferenceEngine(bundle.scenario, bundle)
    engine.warm_up()
    answer = engine.decide(warm_state(bundle.scenario), budget_ms=60_000)
    assert answer.fallback_reason is None, answer
    engine.close()
for name in ("torch", "onnxruntime", "gymnasium", "cmaes", "scipy.stats", "matplotlib"):
    assert name not in sys.modules, f"{{name}} was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
