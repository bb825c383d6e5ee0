"""The replay buffer: what goes in comes out, n steps later, in proportion to its error."""

import numpy as np
import pytest

from services.rl.replay_buffer import ReplayBuffer
from services.rl.simulation.engine import Engine
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.scenarios import load_scenario

S, A = 3, 11  # 11 actions: the packed mask has a part of a byte


def push_numbered(buffer, first, count, lanes=1):
    """Transitions whose every field tells their number."""
    for number in range(first, first + count, lanes):
        n = number + np.arange(lanes)
        buffer.push_batch(
            np.repeat(n[:, None], S, axis=1).astype(np.float32),
            n % A,
            np.repeat(n[:, None] + 0.5, S, axis=1).astype(np.float32),
            n * 10.0,
            n % 4 == 3,
            mask=np.ones((lanes, A), dtype=np.bool_),
            next_mask=np.arange(A)[None] <= n[:, None] % A,
            dt=n % 2,
        )


def stored(buffer):
    """Everything in the buffer, oldest first."""
    start = buffer.position if len(buffer) == buffer.capacity else 0
    places = (start + np.arange(len(buffer))) % buffer.capacity
    return buffer._rows(places, np.ones(len(places), dtype=np.float32))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("capacity", [7, 12, 100])
def test_the_last_transitions_are_kept_whole(capacity, lanes):
    buffer = ReplayBuffer(capacity, S, A, num_lanes=lanes)
    push_numbered(buffer, 0, 30, lanes)
    n = np.arange(max(0, 30 - capacity), 30)
    kept = stored(buffer)
    assert len(buffer) == len(n)
    assert buffer.pushed == 30
    np.testing.assert_array_equal(kept.state[:, 0], n)
    np.testing.assert_array_equal(kept.next_state[:, 2], n + 0.5)
    np.testing.assert_array_equal(kept.action, n % A)
    np.testing.assert_array_equal(kept.reward, n * 10)
    np.testing.assert_array_equal(kept.done, n % 4 == 3)
    np.testing.assert_array_equal(kept.dt, n % 2)
    np.testing.assert_array_equal(kept.mask, np.ones((len(n), A), dtype=np.bool_))
    np.testing.assert_array_equal(kept.next_mask, np.arange(A)[None] <= n[:, None] % A)


def test_samples_are_drawn_from_what_is_there():
    buffer = ReplayBuffer(50, S, A, seed=1)
    push_numbered(buffer, 0, 8)
    batch = buffer.sample(4000)
    counts = np.bincount(batch.action, minlength=8)
    assert len(counts) == 8
    assert counts.min() > 400
    np.testing.assert_array_equal(batch.weight, np.ones(4000))
    np.testing.assert_array_equal(batch.state[:, 0], batch.index)


# --- n steps -------------------------------------------------------------------------------------


def slow_n_step(steps, n, gamma):
    """What one lane must store: ``(first step, reward, dt, last step)``, by definition."""
    result = []
    for i in range(len(steps)):
        reward, dt = 0.0, 0.0
        for k in range(i, i + n):
            if k == len(steps):
                break  # the n-th reward is not there yet
            reward += gamma**dt * steps[k]["reward"]
            dt += steps[k]["dt"]
            if steps[k]["ended"] or k == i + n - 1:
                result.append((i, reward, dt, k))
                break
    return result


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("lanes", [1, 4])
def test_n_step_returns_are_those_of_the_definition(n, lanes):
    """Durations add up, ends cut off, and only a terminated end takes the value away."""
    rng = np.random.default_rng(n * 10 + lanes)
    gamma, count = 0.9, 60
    buffer = ReplayBuffer(10_000, 2, A, n_step=n, gamma=gamma, num_lanes=lanes)
    steps = [[] for _ in range(lanes)]
    for t in range(count):
        for lane in steps:
            end = rng.choice(["no", "terminated", "truncated"], p=[0.75, 0.15, 0.1])
            lane.append(
                {
                    "reward": float(rng.normal()),
                    "dt": float(rng.integers(0, 2)),
                    "done": end == "terminated",
                    "ended": end != "no",
                    "action": int(rng.integers(A)),
                    "mask": rng.random(A) < 0.5,
                    "next_mask": (rng.random(A) < 0.5) | (np.arange(A) == 0),
                }
            )
        now = [lane[t] for lane in steps]
        pick = {name: np.array([step[name] for step in now]) for name in now[0]}
        number = np.arange(lanes, dtype=np.float32)
        buffer.push_batch(
            np.stack([number, np.full(lanes, t, dtype=np.float32)], axis=1),
            pick["action"],
            # Where a day ends this is its last observation, not the next day's first.
            np.stack([number, np.full(lanes, t + 0.5, dtype=np.float32)], axis=1),
            pick["reward"],
            pick["done"],
            mask=pick["mask"],
            next_mask=pick["next_mask"],
            dt=pick["dt"],
            ended=pick["ended"],
        )
    kept = stored(buffer)
    assert len(kept.action) == sum(len(slow_n_step(lane, n, gamma)) for lane in steps)
    for number, lane in enumerate(steps):
        mine = np.flatnonzero(kept.state[:, 0] == number)
        assert np.all(np.diff(kept.state[mine, 1]) > 0)  # in the order they began
        for row, (i, reward, dt, k) in zip(mine, slow_n_step(lane, n, gamma), strict=True):
            assert kept.state[row].tolist() == [number, i]
            assert kept.next_state[row].tolist() == [number, k + 0.5]
            assert kept.action[row] == lane[i]["action"]
            np.testing.assert_array_equal(kept.mask[row], lane[i]["mask"])
            np.testing.assert_array_equal(kept.next_mask[row], lane[k]["next_mask"])
            assert kept.reward[row] == pytest.approx(reward, rel=1e-6)
            assert kept.dt[row] == dt
            assert kept.done[row] == lane[k]["done"]


@pytest.mark.parametrize("n", [1, 4])
def test_days_of_the_engine_do_not_leak_into_each_other(n):
    """With autoreset the step returns the next day's first observation; the buffer wants the last.

    Undiscounted, the rewards of a day's transitions without overlap add up to the day's reward.
    """
    scenario = load_scenario("geneva_small")
    engine = Engine(scenario, 3, max_bookings=5, observation="rows", timing=RewardTiming.EVENT)
    engine.start([1, 2, 3])
    layout, out = engine.layout, engine.out
    buffer = ReplayBuffer(
        5000, layout.size, layout.num_actions, n_step=n, gamma=1.0, num_lanes=3, seed=0
    )
    rng, ends = np.random.default_rng(0), 0
    starts, last = [out.observation[0].copy()], []
    day_reward = 0.0
    while ends < 3:
        state, mask = out.observation.copy(), out.mask != 0
        action = np.array([rng.choice(np.flatnonzero(m)) for m in mask])
        engine.step(action, autoreset=True)
        over = out.terminated | out.truncated
        following = np.where(over[:, None], out.final_observation, out.observation)
        ends += int(over[0])
        if over[0]:
            starts.append(out.observation[0].copy())
            last.append(out.final_observation[0].copy())
        if ends == 0 or (over[0] and ends == 1):
            day_reward += float(out.reward[0])
        next_mask = out.mask != 0
        next_mask[over] = False  # nothing follows; the mask shown is the next day's
        buffer.push_batch(
            state,
            action,
            following,
            out.reward,
            out.terminated,
            mask=mask,
            next_mask=next_mask,
            dt=out.epochs,
            ended=over,
        )
    kept = stored(buffer)
    final = {row.tobytes() for row in last}
    first = {row.tobytes() for row in starts}
    assert not first & {row.tobytes() for row in kept.next_state}
    assert final <= {row.tobytes() for row in kept.next_state[kept.done == 1]}
    # Follow the first day of environment 0, n steps at a time.
    index = {row.tobytes(): i for i, row in reversed(list(enumerate(kept.state)))}
    row, seen, epochs = index[starts[0].tobytes()], 0.0, 0.0
    for _ in range(1000):
        seen, epochs = seen + float(kept.reward[row]), epochs + float(kept.dt[row])
        if kept.done[row]:
            break
        row = index[kept.next_state[row].tobytes()]
    assert epochs == scenario.num_epochs
    assert seen == pytest.approx(day_reward, abs=1e-3)


# --- prioritised ---------------------------------------------------------------------------------


def prioritised(errors, alpha=0.6, seed=0):
    buffer = ReplayBuffer(16, S, A, prioritised=True, alpha=alpha, seed=seed)
    push_numbered(buffer, 0, len(errors))
    buffer.update_priorities(np.arange(len(errors)), np.array(errors))
    return buffer


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_large_errors_are_replayed_in_proportion(alpha):
    errors = np.array([0.0, 0.1, -1.0, 2.0, 8.0, 0.5])
    buffer = prioritised(errors, alpha)
    counts = sum(np.bincount(buffer.sample(64).index, minlength=6) for _ in range(1000))
    priority = (np.abs(errors) + 1e-3) ** alpha
    share = priority / priority.sum()
    np.testing.assert_allclose(counts / counts.sum(), share, atol=0.005)
    assert counts[0] > 0 or share[0] < 1e-3  # nothing is forgotten altogether


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_undo_the_preference(beta):
    errors = np.array([0.1, 1.0, 2.0, 8.0])
    buffer = prioritised(errors, alpha=1.0)
    batch = buffer.sample(4096, beta=beta)
    share = (errors + 1e-3) / (errors + 1e-3).sum()
    expected = (4 * share[batch.index]) ** -beta
    np.testing.assert_allclose(batch.weight, expected / expected.max(), rtol=1e-5)
    if beta == 1.0:  # the weighted mean is the plain mean of all four
        mean = np.average(batch.reward, weights=batch.weight)
        assert mean == pytest.approx(15.0, abs=1.0)


def test_what_is_new_is_replayed_like_the_worst_so_far():
    buffer = prioritised([0.1, 9.0, 0.2], alpha=1.0)
    push_numbered(buffer, 3, 1)
    assert buffer.tree.get(np.array([3, 1])).tolist() == [9.001, 9.001]


def test_an_overwritten_transition_takes_its_priority_with_it():
    buffer = prioritised([0.5] * 16, alpha=1.0)
    push_numbered(buffer, 16, 1)  # into place 0
    assert buffer.tree.get(np.array([0])) == buffer._highest == 1.0
    assert buffer.tree.total == pytest.approx(15 * 0.501 + 1.0)
