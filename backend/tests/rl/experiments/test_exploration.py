"""Exploration: exact propensities, few candidates, nobody much later, never the urgent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.rl.experiments.exploration import (
    MOST_CANDIDATES,
    MOST_LATER_MIN,
    NEVER_FROM_PRIORITY,
    drawn,
    explore,
)
from services.rl.policies.base import Decision
from services.rl.policies.registry import make_policy

from .fleets import SCENARIO, busy_state, committable, world


def planned(state, name="matching"):
    return list(make_policy(name, SCENARIO).decide(state).decisions)


def unurgent(minute=120.0):
    state = busy_state(minute)
    bookings = state.bookings.copy()
    bookings["priority"] = 2
    return replace(state, bookings=bookings)


@given(st.integers(1, MOST_CANDIDATES), st.floats(0, 1))
def test_propensities_of_all_candidates_add_up_to_one(k, epsilon):
    candidates = list(range(10, 10 + k))
    found = {}
    for u in np.linspace(0, 1, 4001)[:-1]:
        driver, propensity = drawn(candidates, epsilon, float(u))
        assert found.setdefault(driver, propensity) == propensity
    first = found[candidates[0]] if candidates[0] in found else epsilon / k
    if k > 1 and epsilon > 0.01:
        assert set(found) == set(candidates)
        assert sum(found.values()) == pytest.approx(1.0)
        assert first == pytest.approx(1 - epsilon + epsilon / k)


@pytest.mark.parametrize(("k", "epsilon"), [(2, 0.1), (5, 0.1), (5, 1.0), (3, 0.5)])
def test_frequencies_match_the_propensities(k, epsilon):
    draws = np.random.default_rng(5).random(40_000)
    chosen = [drawn(range(k), epsilon, float(u))[0] for u in draws]
    for driver in range(k):
        propensity = epsilon / k + (1 - epsilon if driver == 0 else 0)
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], len(draws), propensity)
        assert low <= chosen.count(driver) <= high


def test_the_logged_propensity_is_the_frequency_on_a_real_state():
    state = unurgent()
    plan = planned(state)
    rng = np.random.default_rng(7)
    runs = 1500
    seen: dict[int, int] = {}
    propensity: dict[int, float] = {}
    for _ in range(runs):
        _, choices = explore(world(), state, plan, 0.4, lambda row: float(rng.random()))
        choice = choices[plan[0].booking]  # the first: nothing is drawn before it
        seen[choice.driver] = seen.get(choice.driver, 0) + 1
        assert propensity.setdefault(choice.driver, choice.propensity) == choice.propensity
    assert choice.k > 1 and set(seen) == set(choice.candidates)
    for driver, count in seen.items():
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], runs, propensity[driver])
        assert low <= count <= high


@pytest.mark.parametrize("minute", [60.0, 120.0, 200.0, 300.0])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_explored_is_feasible_and_not_much_later(minute, seed):
    state = unurgent(minute)
    plan = planned(state)
    rng = np.random.default_rng(seed)
    order, choices = explore(world(), state, plan, 1.0, lambda row: float(rng.random()))
    assert sorted(order) == sorted(choices) == sorted(d.booking for d in plan)
    taken = [(choices[row].driver, row) for row in order]
    assert committable(state, taken)
    late, _ = world().lateness(state, plan)
    after, _ = world().lateness(state, [Decision(b, d) for d, b in taken])
    for row, choice in choices.items():
        assert 1 <= choice.k <= MOST_CANDIDATES
        assert len(set(choice.candidates)) == choice.k
        allowed = MOST_LATER_MIN if choice.explored else 0.0
        assert after[row] <= late[row] + allowed + 1e-9


def test_one_moved_booking_leaves_every_other_where_it_was():
    state = unurgent(200.0)
    plan = planned(state)
    for decision in plan:
        order, choices = explore(
            world(), state, plan, 1.0, lambda row, b=decision.booking: 0.999 if row == b else 0.0
        )
        late, _ = world().lateness(state, plan)
        after, _ = world().lateness(state, [Decision(b, choices[b].driver) for b in order])
        assert after.pop(decision.booking) <= late[decision.booking] + MOST_LATER_MIN + 1e-9
        assert all(after[b] == late[b] for b in after)
        assert all(not c.explored for b, c in choices.items() if b != decision.booking)


def test_urgent_bookings_are_never_explored():
    for minute in (60.0, 120.0, 200.0, 300.0):
        state = busy_state(minute)
        _, choices = explore(world(), state, planned(state), 1.0, lambda row: 0.999)
        for row, choice in choices.items():
            if state.bookings["priority"][row] >= NEVER_FROM_PRIORITY:
                assert choice.k == 1 and choice.propensity == 1.0 and not choice.explored


def test_without_epsilon_the_plan_stands():
    state = unurgent()
    plan = planned(state)
    order, choices = explore(world(), state, plan, 0.0, lambda row: 0.999)
    assert order == [d.booking for d in plan]
    assert all(c.propensity == 1.0 and not c.explored for c in choices.values())
