"""The agent acts: only what is valid, exploring as the schedule says."""

import numpy as np
import pytest
import torch

from services.rl.dqn_agent import AgentOptions, DQNAgent
from services.rl.errors import PolicyError, UsageError
from services.rl.q_networks import FLOOR, QNetwork
from services.rl.simulation.scenarios import load_scenario

from .pair_states import network_of, states_of

pytestmark = pytest.mark.usefixtures("one_thread")


def agent_of(seed=0, **options):
    torch.manual_seed(0)
    return DQNAgent(3, 7, network=QNetwork(3, 7, (16,)), options=AgentOptions(**options), seed=seed)


def states(count=400, actions=7, seed=0):
    """States and masks of one to all actions; action 0 is not always among them."""
    rng = np.random.default_rng(seed)
    mask = rng.random((count, actions)) < rng.random((count, 1))
    mask[np.arange(count), rng.integers(0, actions, count)] = True
    return rng.normal(size=(count, 3)).astype(np.float32), mask


def test_exploration_follows_the_step_counter():
    agent = agent_of(exploration_initial_eps=1.0, exploration_final_eps=0.1, exploration_steps=200)
    seen = [agent.epsilon]
    for _ in range(3):
        agent.decay_epsilon(100)
        seen.append(agent.epsilon)
    assert seen == pytest.approx([1.0, 0.55, 0.1, 0.1])
    again = agent_of(exploration_final_eps=0.1, exploration_steps=200)
    again.steps = 100  # as a checkpoint restores it
    assert again.epsilon == pytest.approx(0.55)


@pytest.mark.parametrize("exploration", ["epsilon", "noise"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, None])
def test_an_action_is_always_valid(exploration, epsilon):
    agent = agent_of(exploration=exploration, noise_scale=1e4)
    rows, mask = states()
    actions = agent.select_actions(rows, mask, epsilon)
    assert mask[np.arange(len(rows)), actions].all()
    for i in range(40):
        assert mask[i, agent.select_action(rows[i], mask[i].astype(np.int8), epsilon)]


def test_greedy_actions_are_the_best_valid_ones():
    agent = agent_of()
    rows, mask = states()
    q = agent.q_values(rows, mask)
    assert (q[~mask] == np.float32(FLOOR)).all()
    with torch.no_grad():
        free = agent.online(torch.from_numpy(rows)).numpy() / 0.1
    np.testing.assert_allclose(q[mask], free[mask], rtol=1e-5)
    expected = np.where(mask, free, -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(agent.select_actions(rows, mask, 0.0), expected)


def test_epsilon_is_the_share_of_uniform_actions():
    agent = agent_of()
    row = np.zeros((20_000, 3), dtype=np.float32)
    mask = np.tile(np.array([1, 0, 1, 1, 0, 0, 1], dtype=np.bool_), (len(row), 1))
    counts = np.bincount(agent.select_actions(row, mask, 0.4), minlength=7) / len(row)
    best = agent.select_action(row[0], mask[0], 0.0)
    expected = np.where(mask[0], 0.1, 0.0)
    expected[best] += 0.6
    np.testing.assert_allclose(counts, expected, atol=0.015)


def test_noise_prefers_what_is_nearly_as_good():
    agent = agent_of(exploration="noise", noise_scale=1.0)
    scale = agent.options.reward_scale  # the network's own unit
    agent._scores = lambda rows, masks: np.tile(
        scale * np.array([0.0, -0.5, -50.0], dtype=np.float32), (len(rows), 1)
    )
    row, mask = np.zeros((5000, 3), dtype=np.float32), np.ones((5000, 3), dtype=np.bool_)
    counts = np.bincount(agent.select_actions(row, mask, 1.0), minlength=3) / 5000
    assert 0.25 < counts[1] < 0.45  # P(noise > 0.5 / sqrt 2) = 0.36
    assert counts[2] == 0.0


def test_the_same_seed_explores_the_same_way():
    rows, mask = states()
    one, two, other = agent_of(5), agent_of(5), agent_of(6)
    first = one.select_actions(rows, mask, 0.5)
    np.testing.assert_array_equal(first, two.select_actions(rows, mask, 0.5))
    assert (first != other.select_actions(rows, mask, 0.5)).any()


def test_exploration_stays_within_what_the_pair_network_considers():
    """A held-back pair is valid, but never worth trying early."""
    engine, rows, masks = states_of(load_scenario("geneva_overload"))
    net = network_of(engine, hold_back_min=20.0)
    agent = DQNAgent(rows.shape[1], masks.shape[1], network=net)
    considered = net.considered(net.prepare(rows, masks)).numpy()
    assert (considered.sum(axis=1) < masks.sum(axis=1)).any()
    tried = np.zeros_like(masks)
    for _ in range(200):
        tried[np.arange(len(rows)), agent.select_actions(rows, masks, 1.0)] = True
    assert not (tried & ~considered).any()
    assert (tried & considered).sum() > 0.8 * considered.sum()


def test_a_broken_network_is_named_not_followed():
    """NaN would otherwise look like a forbidden action, and action 0 be taken for ever."""
    agent = agent_of()
    rows, mask = states(4)
    rows[2, 1] = np.nan
    assert np.isnan(agent.q_values(rows, mask)[2, mask[2]]).all()
    for epsilon in (0.0, 1.0):
        with pytest.raises(PolicyError, match="not finite"):
            agent.select_actions(rows, mask, epsilon)


def test_what_cannot_be_is_refused():
    rows, mask = states(3)
    mask[1] = False
    with pytest.raises(UsageError, match="no valid action"):
        agent_of().select_actions(rows, mask)
    with pytest.raises(UsageError, match=r"gamma must lie in \(0, 1\]"):
        agent_of(gamma=1.01)
    with pytest.raises(PolicyError, match="the network has 7 actions, the environment 8"):
        DQNAgent(3, 8, network=QNetwork(3, 7, (16,)))


def test_the_default_agent_is_the_roadmap_s():
    agent = DQNAgent(122, 201)
    assert agent.online.architecture()["hidden"] == [512, 256, 128]
    assert agent.buffer.capacity == 100_000
    assert not any(p.requires_grad for p in agent.target.parameters())
    before = agent.buffer.pushed
    agent.store_transition(np.zeros(122), 3, np.ones(122), -1.5, False, dt=0.0)
    assert agent.buffer.pushed == before + 1
    batch = agent.buffer.sample(1)
    assert (batch.action[0], batch.reward[0], batch.dt[0]) == (3, -1.5, 0.0)
