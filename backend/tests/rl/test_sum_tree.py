"""The sum tree against a plain list of priorities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rl.errors import UsageError
from services.rl.sum_tree import SumTree

# Sums of multiples of 1/8 are exact: the reference needs no tolerance.
PRIORITY = st.integers(0, 400).map(lambda n: n / 8)


def found_by_walking(priorities: list[float], mass: float) -> int:
    """The item whose interval [sum before, sum with it) holds the mass."""
    before = 0.0
    for item, priority in enumerate(priorities):
        if before <= mass < before + priority:
            return item
        before += priority
    raise AssertionError("the mass lies beyond the total")


@st.composite
def histories(draw):
    capacity = draw(st.integers(1, 37))
    item = st.integers(0, capacity - 1)
    updates = draw(st.lists(st.lists(st.tuples(item, PRIORITY), min_size=1, max_size=9)))
    return capacity, updates


@settings(max_examples=200, deadline=None)
@given(histories(), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_it_is_a_list_of_priorities(history, shares):
    """Any capacity, any order of updates, repeated items within one: the last counts."""
    capacity, updates = history
    tree, priorities = SumTree(capacity), [0.0] * capacity
    for update in updates:
        tree.set(np.array([i for i, _ in update]), np.array([p for _, p in update]))
        for item, priority in update:
            priorities[item] = priority
        assert tree.total == sum(priorities)
    np.testing.assert_array_equal(tree.get(np.arange(capacity)), priorities)
    if tree.total > 0:
        mass = np.array(shares) * tree.total
        mass = mass[mass < tree.total]
        expected = [found_by_walking(priorities, m) for m in mass]
        assert tree.find(mass).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=33).filter(any),
    st.integers(0, 2**32),
)
def test_an_item_without_priority_is_never_found(priorities, seed):
    """Not even where rounding makes the mass equal to the total, or a little more."""
    tree = SumTree(len(priorities))
    tree.set(np.arange(len(priorities)), np.array(priorities))
    draws = np.random.default_rng(seed).random(200) * tree.total
    mass = np.concatenate([draws, [0.0, tree.total, np.nextafter(tree.total, np.inf)]])
    found = tree.find(mass)
    assert found.max() < len(priorities)
    assert (tree.get(found) > 0).all()


def test_items_are_found_in_proportion():
    tree = SumTree(5)
    tree.set(np.arange(5), np.array([1.0, 0.0, 3.0, 4.0, 2.0]))
    counts = np.bincount(tree.find((np.arange(10_000) + 0.5) / 1000), minlength=5)
    assert counts.tolist() == [1000, 0, 3000, 4000, 2000]


def test_a_million_updates_leave_no_drift():
    """Sums are taken anew from the leaves up, not adjusted by differences."""
    rng = np.random.default_rng(0)
    tree = SumTree(1000)
    for _ in range(1000):
        tree.set(rng.integers(0, 1000, 1000), 10.0 ** rng.uniform(-9, 9, 1000))
    tree.set(np.arange(1000), np.ones(1000))
    assert tree.total == 1000.0


def test_setting_nothing_changes_nothing():
    tree = SumTree(3)
    tree.set(np.array([1]), np.array([2.0]))
    tree.set(np.empty(0, dtype=np.int64), np.empty(0))
    assert tree.total == 2.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1e-9])
def test_a_priority_that_is_none_is_refused_and_nothing_changes(wrong):
    tree = SumTree(4)
    tree.set(np.arange(4), np.ones(4))
    before = tree.nodes.copy()
    with pytest.raises(UsageError, match="finite and not negative"):
        tree.set(np.array([0, 2]), np.array([5.0, wrong]))
    np.testing.assert_array_equal(tree.nodes, before)


def test_a_tree_without_items_is_refused():
    with pytest.raises(UsageError, match="positive capacity"):
        SumTree(0)
