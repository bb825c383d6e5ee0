"""Logged transitions as the network learns from them: encoded once, drawn at random.

What the maximum of a transition's target runs over can be limited (`ProductionReplay.restrict`) to
actions that a network as it was takes seriously: others have no support in the log.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from services.rl.data.experience import Experience
from services.rl.dqn_agent import DQNAgent
from services.rl.q_networks import FLOOR
from services.rl.replay_buffer import Batch
from services.rl.simulation.observation import ObservationLayout
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
        layout = ObservationLayout(
            "rows", scenario.fleet.num_drivers, config.environment.max_bookings
        )
        given = iter(experiences)
        first = next(given, None)
        if first is None:
            return cls.empty(layout)
        from services.rl.data.encoding import ExperienceEncoder

        encoder = ExperienceEncoder(
            scenario, observation="rows", max_bookings=config.environment.max_bookings
        )
        _ = encoder, experiences, seed, taken
        raise NotImplementedError

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
