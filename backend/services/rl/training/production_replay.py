"""Logged transitions as the network learns from them: encoded once, drawn at random.

What the maximum of a transition's target runs over can be limited (`ProductionReplay.restrict`) to
actions that a network as it was takes seriously: others have no support in the log.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from services.rl.data.encoding import ExperienceEncoder
from services.rl.data.experience import Experience
from services.rl.data.learning_reward import reward_of
from services.rl.dqn_agent import DQNAgent
from services.rl.q_networks import FLOOR
from services.rl.replay_buffer import Batch
from services.rl.simulation.observation import ObservationLayout
from services.rl.simulation.reward import RewardTiming
from services.rl.simulation.scenarios import Scenario

from .config import TrainingConfig
from .learners import Taken

MOST: Final = 20_000
"""Logged transitions kept in memory: drawn uniformly from those given."""

_AT_ONCE = 512


class ProductionReplay:
    """Logged transitions.

    Args:
        batch: All of them; ``weight`` and ``index`` mean nothing.

    Attributes:
        restricted: Share of valid next actions that `restrict` has taken out of targets.
    """

    def __init__(self, batch: Batch) -> None:
        self._all = batch
        self.restricted = 0.0

    @classmethod
    def of(
        cls,
        experiences: Iterable[Experience],
        scenario: Scenario,
        config: TrainingConfig,
        *,
        seed: int,
        taken: Taken,
    ) -> "ProductionReplay":
        """Encode what can be used.

        Args:
            experiences: Any number; at most `MOST` are kept, drawn by reservoir sampling.
            scenario: The served world: travel times and rules of the log.
            config: Reward timing, discount and the bookings shown.
            seed: Of the sample.
            taken: Told what was used and what was not.
        """
        h, shown = config.hyperparameters, config.environment
        encoder = ExperienceEncoder(scenario, max_bookings=shown.max_bookings)
        chosen = sorted(_sampled(experiences, seed), key=lambda e: (e.company_id, e.at, e.id))
        if not chosen:
            return cls.empty(encoder.layout)
        encoded = encoder.encode(chosen)
        for reason, count in encoded.skipped.items():
            taken.left_out[reason] = taken.left_out.get(reason, 0) + count
        kept = [chosen[row] for row in encoded.rows.tolist()]
        for experience in kept:
            taken.take(experience)
        timing = RewardTiming[shown.reward_timing.upper()]
        rewards = [
            reward_of(e, scenario.reward, timing, h.gamma, scenario.rules.epoch_min) for e in kept
        ]
        count = len(kept)
        return cls(
            Batch(
                state=encoded.state,
                mask=encoded.mask,
                action=encoded.action,
                reward=np.array(rewards, dtype=np.float32),
                next_state=encoded.next_state,
                next_mask=encoded.next_mask,
                done=encoded.done.astype(np.float32),
                dt=encoded.dt.astype(np.float32),
                weight=np.ones(count, dtype=np.float32),
                index=np.full(count, -1, dtype=np.int64),
            )
        )

    @classmethod
    def empty(cls, layout: ObservationLayout) -> "ProductionReplay":
        """None at all."""
        states = np.zeros((0, layout.size), dtype=np.float32)
        masks = np.zeros((0, layout.num_actions), dtype=np.bool_)
        none = np.zeros(0, dtype=np.float32)
        index = np.zeros(0, dtype=np.int64)
        return cls(Batch(states, masks, index, none, states, masks, none, none, none, index))

    def __len__(self) -> int:
        """How many."""
        return len(self._all.action)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Some of them."""
        chosen = Batch(**{name: values[rows] for name, values in vars(self._all).items()})
        return replace(
            chosen,
            weight=np.ones(len(rows), dtype=np.float32),
            index=np.full(len(rows), -1, dtype=np.int64),
        )

    def restrict(self, agent: DQNAgent, support: float) -> None:
        """Let targets choose only among actions that the agent's network takes seriously.

        Args:
            agent: Its present network judges.
            support: Of the probability of the best action, under a softmax of Q in reward units.
        """
        if support <= 0.0 or not len(self):
            return
        kept, valid = 0, 0
        for first in range(0, len(self), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            mask = self._all.next_mask[part]
            q = agent.q_values(self._all.next_state[part], mask)
            near = (q > 0.5 * FLOOR) & (q >= q.max(axis=1, keepdims=True) + np.log(support))
            valid += int(mask.sum())
            kept += int((mask & near).sum())
            # A finished day has no next action that counts; it must still have a valid one.
            self._all.next_mask[part] = np.where(near.any(axis=1, keepdims=True), mask & near, mask)
        self.restricted = 1.0 - kept / max(1, valid)


def _sampled(experiences: Iterable[Experience], seed: int) -> list[Experience]:
    """At most `MOST`, each with the same chance (reservoir sampling, Vitter 1985)."""
    rng = np.random.default_rng([seed, 17])
    kept: list[Experience] = []
    for number, experience in enumerate(experiences):
        if number < MOST:
            kept.append(experience)
        else:
            place = int(rng.integers(0, number + 1))
            if place < MOST:
                kept[place] = experience
    return kept
