"""Small decision problems whose values follow from dynamic programming, and an agent on them."""

from dataclasses import dataclass

import numpy as np
import torch

from services.rl.dqn_agent import AgentOptions, DQNAgent
from services.rl.q_networks import QNetwork
from services.rl.replay_buffer import ReplayBuffer

GAMMA = 0.9


@dataclass(frozen=True)
class Move:
    """One deterministic transition; ``to`` None ends the episode."""

    state: str
    action: int
    reward: float
    to: str | None
    dt: float = 1.0


@dataclass(frozen=True)
class Problem:
    """States may look alike (the same ``looks``) and differ in their valid actions."""

    looks: dict[str, int]
    moves: tuple[Move, ...]
    num_actions: int

    def seen(self, state: str | None) -> np.ndarray:
        row = np.zeros(1 + max(self.looks.values()), dtype=np.float32)
        if state is not None:
            row[self.looks[state]] = 1.0
        return row

    def mask(self, state: str | None) -> np.ndarray:
        mask = np.zeros(self.num_actions, dtype=np.bool_)
        mask[[move.action for move in self.moves if move.state == state]] = True
        return mask

    def values(self, dt=None, masked=True) -> dict[tuple[str, int], float]:
        """Q by value iteration; ``dt`` replaces all durations.

        Without masks the value of a state is the best among all actions of its looks.
        """
        q = {(move.state, move.action): 0.0 for move in self.moves}
        for _ in range(200):
            best = {
                state: max(
                    v
                    for (s, _), v in q.items()
                    if s == state or (not masked and self.looks[s] == self.looks[state])
                )
                for state in self.looks
            }
            for move in self.moves:
                after = 0.0 if move.to is None else best[move.to]
                duration = move.dt if dt is None else dt
                q[move.state, move.action] = move.reward + GAMMA**duration * after
        return q


MASKED = Problem(
    # "poor" and "rich" look the same, but only the rich may take action 2.
    looks={"start": 0, "fork": 1, "poor": 2, "rich": 2},
    moves=(
        Move("start", 0, 0.0, "poor"),
        Move("start", 1, 1.0, None),
        Move("fork", 0, -1.0, "rich"),
        Move("fork", 1, 0.3, "start"),
        Move("poor", 0, 0.2, None),
        Move("rich", 0, 0.2, None),
        Move("rich", 2, 5.0, None),
    ),
    num_actions=3,
)
"""Who forgets the mask believes that the start leads to riches."""

SEMI_MARKOV = Problem(
    looks={"now or later": 0, "later": 1, "one or two": 2, "second": 3},
    moves=(
        Move("now or later", 0, 1.0, None),
        Move("now or later", 1, 0.0, "later", dt=3.0),
        Move("later", 0, 1.3, None),
        Move("one or two", 0, 1.0, None),
        Move("one or two", 1, 0.5, "second", dt=0.0),  # an assignment takes no time
        Move("second", 0, 0.53, None),
    ),
    num_actions=2,
)
"""Waiting three epochs for 1.3 is worth 0.95 < 1; two assignments at once 1.03 > 1."""


def learned(problem, *, dt=None, steps=500, seed=0, n_step=1, prioritised=False, **options):
    """An agent that learned from every transition of the problem, many times."""
    chosen = {
        "learning_rate": 1e-2,
        "gamma": GAMMA,
        "batch_size": 32,
        "reward_scale": 1.0,
        "target_update_interval": 20,
        **options,
    }
    size = len(problem.seen(None))

    torch.manual_seed(seed)
    agent = DQNAgent(
        size,
        problem.num_actions,
        network=QNetwork(size, problem.num_actions, (32,), dueling=chosen.pop("dueling", False)),
        buffer=ReplayBuffer(
            64,
            size,
            problem.num_actions,
            gamma=GAMMA,
            n_step=n_step,
            prioritised=prioritised,
            seed=seed,
        ),
        options=AgentOptions(**chosen),
        seed=seed,
    )
    for move in problem.moves:
        agent.store_transition(
            problem.seen(move.state),
            move.action,
            problem.seen(move.to),
            move.reward,
            move.to is None,
            mask=problem.mask(move.state),
            next_mask=problem.mask(move.to),
            dt=move.dt if dt is None else dt,
        )
    for step in range(steps):
        if step == steps - steps // 3:
            for group in agent.optimizer.param_groups:
                group["lr"] /= 10  # settle
        agent.train_step()
    return agent


def errors(agent, problem, values) -> dict[tuple[str, int], float]:
    """Learned less true values, of every valid action."""
    return {
        (state, action): float(
            agent.q_values(problem.seen(state)[None], problem.mask(state)[None])[0, action] - value
        )
        for (state, action), value in values.items()
    }


def greedy(agent, problem, state) -> int:
    return agent.select_action(problem.seen(state), problem.mask(state), epsilon=0.0)
