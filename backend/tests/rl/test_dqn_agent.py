"""The agent: exact on problems with known answers, and what each switch does."""

import copy

import numpy as np
import pytest
import torch

from services.rl.dqn_agent import AgentOptions, DQNAgent
from services.rl.q_networks import QNetwork
from services.rl.replay_buffer import Batch, ReplayBuffer

from .toy_problems import GAMMA, MASKED, SEMI_MARKOV, errors, greedy, learned

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "double, hard": {"double": True},
    "single, hard": {"double": False},
    "double, soft": {"double": True, "tau": 0.05, "target_update_interval": 1},
    "single, soft, dueling": {
        "double": False,
        "tau": 0.05,
        "target_update_interval": 1,
        "dueling": True,
    },
    "double, prioritised, dueling": {"prioritised": True, "dueling": True, "priority_beta": 1.0},
}


# --- problems with known answers -----------------------------------------------------------------


# Not with dueling: there the value belongs to the observation, and two states that look alike
# but for their masks cannot have two values.
@pytest.mark.parametrize("variant", [v for v in VARIANTS if "dueling" not in v])
def test_the_masked_problem_is_solved_exactly(variant):
    agent = learned(MASKED, **VARIANTS[variant])
    true = MASKED.values()
    assert true["start", 0] == pytest.approx(0.18)
    assert max(map(abs, errors(agent, MASKED, true).values())) < 1e-2
    assert greedy(agent, MASKED, "start") == 1
    assert greedy(agent, MASKED, "fork") == 0
    assert greedy(agent, MASKED, "rich") == 2
    assert greedy(agent, MASKED, "poor") == 0


@pytest.mark.parametrize("double", [True, False])
def test_an_unmasked_target_gets_the_masked_problem_wrong(double):
    """It learns what would be true were the forbidden action allowed: riches at the start."""
    agent = learned(MASKED, double=double, masked_target=False)
    assert greedy(agent, MASKED, "start") == 0
    believed = MASKED.values(masked=False)
    assert believed["start", 0] == pytest.approx(4.5)
    got = errors(agent, MASKED, believed)
    assert abs(got["start", 0]) < 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_semi_markov_problem_is_solved_exactly(variant):
    agent = learned(SEMI_MARKOV, **VARIANTS[variant])
    assert max(map(abs, errors(agent, SEMI_MARKOV, SEMI_MARKOV.values()).values())) < 1e-2
    assert greedy(agent, SEMI_MARKOV, "now or later") == 0
    assert greedy(agent, SEMI_MARKOV, "one or two") == 1


@pytest.mark.parametrize(
    ("dt", "wrong"),
    [
        (0.0, {"now or later": 1, "one or two": 1}),  # waiting is free: wait
        (1.0, {"now or later": 1, "one or two": 0}),  # and an assignment costs an epoch
    ],
)
def test_who_ignores_durations_gets_the_semi_markov_problem_wrong(dt, wrong):
    agent = learned(SEMI_MARKOV, dt=dt)
    believed = SEMI_MARKOV.values(dt=dt)
    assert max(map(abs, errors(agent, SEMI_MARKOV, believed).values())) < 1e-2
    for state, action in wrong.items():
        assert greedy(agent, SEMI_MARKOV, state) == action


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_the_reward_scale_changes_the_units_only(scale):
    """What the network learns is scaled, what the agent tells is not."""
    agent = learned(SEMI_MARKOV, reward_scale=scale)
    true = SEMI_MARKOV.values()
    assert max(map(abs, errors(agent, SEMI_MARKOV, true).values())) < 1e-2
    inside = agent.online(torch.from_numpy(SEMI_MARKOV.seen("later")[None]))[0, 0].item()
    assert inside == pytest.approx(1.3 * scale, abs=0.02 * scale)
    assert agent.diagnostics["q_max"].item() == pytest.approx(1.3, abs=0.05)


# --- targets -------------------------------------------------------------------------------------


def batch_of(rows=6, actions=4, seed=0, **fields):
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, actions)) < 0.6
    mask[:, 1] = True
    made = {
        "state": rng.normal(size=(rows, 3)).astype(np.float32),
        "mask": mask,
        "action": np.ones(rows, dtype=np.int64),
        "reward": rng.normal(size=rows).astype(np.float32),
        "next_state": rng.normal(size=(rows, 3)).astype(np.float32),
        "next_mask": mask[::-1].copy(),
        "done": np.zeros(rows, dtype=np.float32),
        "dt": rng.integers(0, 4, rows).astype(np.float32),
        "weight": np.ones(rows, dtype=np.float32),
        "index": np.arange(rows),
    }
    return Batch(**(made | fields))


def agent_of(seed=0, dueling=False, **options):
    torch.manual_seed(seed)
    net = QNetwork(3, 4, (16,), dueling=dueling)
    agent = DQNAgent(3, 4, network=net, options=AgentOptions(**{"gamma": GAMMA} | options))
    torch.manual_seed(seed + 100)  # a target network of its own
    agent.target.load_state_dict(QNetwork(3, 4, (16,), dueling=dueling).state_dict())
    return agent


@pytest.mark.parametrize("double", [True, False])
def test_targets_are_those_of_the_definition(double):
    agent = agent_of(double=double, reward_scale=0.5)
    batch = batch_of(done=np.array([0, 0, 1, 0, 0, 1], dtype=np.float32))
    with torch.no_grad():
        online = agent.online(torch.from_numpy(batch.next_state)).numpy()
        target = agent.target(torch.from_numpy(batch.next_state)).numpy()
    expected = []
    for i in range(6):
        valid = np.flatnonzero(batch.next_mask[i])
        best = valid[np.argmax((online if double else target)[i, valid])]
        after = 0.0 if batch.done[i] else GAMMA ** batch.dt[i] * target[i, best]
        expected.append(0.5 * batch.reward[i] + after)
    np.testing.assert_allclose(agent.targets(batch).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_final_state_without_valid_actions_is_worth_nothing(dueling):
    agent = agent_of(dueling=dueling, reward_scale=1.0)
    batch = batch_of(done=np.ones(6, dtype=np.float32), next_mask=np.zeros((6, 4), dtype=np.bool_))
    np.testing.assert_array_equal(agent.targets(batch).numpy(), batch.reward)


def test_the_target_network_moves_when_it_is_told_to():
    agent = agent_of(target_update_interval=3, tau=1.0, learning_rate=0.1)
    before = copy.deepcopy(agent.target.state_dict())
    for update in range(1, 4):
        agent.train_on_batch(batch_of(seed=update))
        moved = any(not torch.equal(before[k], v) for k, v in agent.target.state_dict().items())
        assert moved == (update == 3)
    for name, value in agent.target.state_dict().items():
        assert torch.equal(value, agent.online.state_dict()[name])


def test_a_soft_update_goes_a_part_of_the_way():
    agent = agent_of(tau=0.25)
    old, fast = (copy.deepcopy(net.state_dict()) for net in (agent.target, agent.online))
    agent.update_target_network()
    for name, value in agent.target.state_dict().items():
        torch.testing.assert_close(value, old[name] + 0.25 * (fast[name] - old[name]))


def test_importance_weights_reach_the_loss_where_it_is_linear():
    """Weighting the error inside the Huber loss would lose them beyond 1 but for the scale."""
    weight = np.array([1.0, 0.25], dtype=np.float32)
    batch = batch_of(
        rows=2,
        action=np.array([0, 3]),
        reward=np.array([500.0, -500.0], dtype=np.float32),
        mask=np.ones((2, 4), dtype=np.bool_),
        weight=weight,
    )
    agent = agent_of(reward_scale=1.0, gradient_clip=1e9)
    agent.optimizer = torch.optim.SGD(agent.online.parameters(), lr=1.0)
    bias = agent.online.head.bias.detach().clone()
    error = agent.train_on_batch(batch).numpy()
    step = (bias - agent.online.head.bias).detach().numpy()
    np.testing.assert_allclose(step, [-1.0 / 2, 0, 0, 0.25 / 2], rtol=1e-6)
    expected = np.mean(weight * (np.abs(error) - 0.5))
    assert agent.diagnostics["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_clipped_and_their_norm_is_told():
    agent = agent_of(reward_scale=1.0, gradient_clip=0.01)
    agent.optimizer = torch.optim.SGD(agent.online.parameters(), lr=1.0)
    before = [p.detach().clone() for p in agent.online.parameters()]
    agent.train_on_batch(batch_of(reward=np.full(6, 90.0, dtype=np.float32)))
    moved = [(a - b).detach() for a, b in zip(before, agent.online.parameters(), strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert agent.diagnostics["gradient_norm"].item() > 0.1


def test_errors_become_priorities():
    buffer = ReplayBuffer(8, 3, 4, prioritised=True, alpha=0.5)
    for i in range(8):
        buffer.push(np.full(3, i), i % 4, np.full(3, i + 1), 10.0 * i, False)
    agent = agent_of(reward_scale=0.1, batch_size=64)
    agent.buffer = buffer
    drawn = []
    train = agent.train_on_batch
    agent.train_on_batch = lambda batch: drawn.append((batch, train(batch))) or drawn[-1][1]
    agent.train_step()
    ((batch, error),) = drawn
    priority = (np.abs(error.numpy().astype(np.float64)) + 1e-3) ** 0.5
    np.testing.assert_allclose(buffer.tree.get(batch.index), priority, rtol=1e-6)
    assert len(set(batch.index.tolist())) > 4
