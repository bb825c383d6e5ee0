"""What decisions were worth, by the simulator's own reward, on times that really happened.

The functions of `services.rl.simulation.reward` are compiled into the engine and cannot be called
from Python as such; their Python bodies can. Nothing of the reward is defined here.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from services.rl.data.experience import RewardTerms
from services.rl.simulation import reward
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables, great_circle_km, unit_vector


def _body(compiled: Any) -> Callable[..., float]:
    """The Python function that was compiled."""
    found: Callable[..., float] = getattr(compiled, "py_func", compiled)
    return found


_completion_worth = _body(reward.completion_worth)
_unserved_loss = _body(reward.unserved_loss)
_planned_value = _body(reward.planned_value)


class Worth:
    """Values decisions in one scenario.

    Args:
        scenario: Gives the weights.
        tables: Its travel; by coordinates.
    """

    def __init__(self, scenario: Scenario, tables: TravelTables) -> None:
        self._weights = reward.weights_table(scenario.reward)
        self._circuity = tables.circuity
        self._of_priority = [
            float(_completion_worth(self._weights, p, np.nan)) for p in range(1, 6)
        ]
        self._loss = [float(_unserved_loss(self._weights, p)) for p in range(1, 6)]

    def km(self, a: tuple[float, float], b: tuple[float, float]) -> float:
        """Road kilometres between two places (degrees)."""
        return float(self._circuity * great_circle_km(*unit_vector(*a), *unit_vector(*b)))

    def loss(self, priority: int) -> float:
        """What leaving a booking unserved costs (positive)."""
        return self._loss[priority - 1]

    def completed(
        self, priority: int, fare: float, late_min: float, deadhead_km: float, trip_km: float
    ) -> RewardTerms:
        """Terms of a booking that was served."""
        weights, value = self._weights, _planned_value
        worth = self._of_priority[priority - 1]
        if fare == fare:
            worth = float(_completion_worth(weights, priority, fare))
        return RewardTerms(
            completion=worth,
            lateness=float(value(weights, 0.0, late_min, 0.0, 0.0)),
            deadhead=float(value(weights, 0.0, 0.0, deadhead_km, 0.0)),
            loaded=float(value(weights, 0.0, 0.0, 0.0, trip_km)),
        )

    def in_vain(self, deadhead_km: float) -> RewardTerms:
        """Terms of an empty way to a patient who was not there."""
        return RewardTerms(
            deadhead=float(_planned_value(self._weights, 0.0, 0.0, deadhead_km, 0.0))
        )

    def unserved(self, priority: int) -> RewardTerms:
        """Terms of a booking that nobody came for."""
        return RewardTerms(cancellation=-self.loss(priority))
