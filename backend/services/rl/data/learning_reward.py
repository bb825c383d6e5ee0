"""What a learner is paid for an experience: the simulator's timings, on what really happened."""

from collections.abc import Callable
from functools import lru_cache

from services.rl.simulation.reward import RewardTiming, credit_factor, weights_table
from services.rl.simulation.scenarios import RewardWeights
from services.rl.simulation.world import Weights

from .experience import Ending, Experience

_WENT_THERE = (Ending.COMPLETED, Ending.NO_SHOW)


def reward_of(
    experience: Experience,
    weights: RewardWeights,
    timing: RewardTiming,
    gamma: float,
    epoch_min: float,
) -> float:
    """Learning reward of one experience.

    An experience tells what its decision came to in all, so every timing pays it at once:

    * ``EVENT`` and ``COMMITMENT``: the KPI reward, undiscounted;
    * ``PLANNED_PICKUP``: discounted by γ per epoch until the pickup that happened; where none did,
      until the planned one, if that is known;
    * ``PLANNED_GAIN``: likewise, relative to leaving the booking unserved: a drive to the patient
      (also one who was not there) earns the loss it avoided, and lost bookings cost nothing.

    Where everything goes as planned these are the simulator's rewards step by step under the last
    two; under ``EVENT`` their sums over a day are. A WAIT's losses are never discounted: they fall
    due before its next state.

    Args:
        experience: One decision.
        weights: The scenario's.
        timing: When a learner is paid.
        gamma: Discount per decision epoch.
        epoch_min: Minutes between decision epochs.
    """
    earned = experience.reward
    if timing >= RewardTiming.PLANNED_GAIN:
        earned -= experience.terms.cancellation
        if experience.ending in _WENT_THERE:
            earned += experience.loss
    if experience.action is None:
        return earned
    until = experience.pickup_in_min
    if until is None:
        until = experience.planned_pickup_in_min or 0.0
    return earned * _credit_factor(_table(weights, timing, gamma), until, epoch_min)


# As written, not as compiled: what is inlined into compiled code cannot be called from Python.
_credit_factor: Callable[[Weights, float, float], float]
_credit_factor = credit_factor.py_func  # type: ignore[attr-defined]


@lru_cache(maxsize=32)
def _table(weights: RewardWeights, timing: RewardTiming, gamma: float) -> Weights:
    return weights_table(weights, timing, gamma)
