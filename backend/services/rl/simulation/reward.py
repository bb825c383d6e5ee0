"""The reward: one definition for the environment, the replay buffer and the collector.

Terms are booked as events at simulated times:

* ``completion``: + completion · w(priority) per completed booking (its fare under profit rules);
* ``lateness``: - late_per_min per minute of pickup after the window's end;
* ``deadhead``: - deadhead_per_km per empty kilometre; ``loaded`` likewise with a patient aboard;
* ``cancellation``: - cancellation · w(priority) per booking left unserved;
* ``invalid_action``: a penalty per refused action; ``balance`` and ``idle``: weight 0 by default.

Their undiscounted sum is the KPI reward. For *learning*, three timings exist (`RewardTiming`).
"""

from enum import IntEnum
from typing import Any

import numpy as np

from .compiled import inlined
from .scenarios import RewardWeights
from .world import Weights


class RewardTiming(IntEnum):
    """When a learner is paid for an assignment, and for what.

    ``EVENT``: each term when it happens. ``COMMITMENT``: the planned value at once.
    ``PLANNED_PICKUP``: the planned value at commitment, discounted by γ per epoch from the
    planned pickup, so that an early promise is worth no more than a late one; deviations from
    the plan are booked when they happen. In a prototype it lifted a DQN by 15 % over
    ``COMMITMENT``. The undiscounted sums of these three agree.

    ``PLANNED_GAIN``: as ``PLANNED_PICKUP``, but what counts is the gain over leaving the booking
    unserved: an assignment earns the penalty it avoids, a lost booking costs nothing. The sum
    differs by the penalty of a day on which nobody does anything (that of all bookings but those
    called off in time), which no decision changes. One decision's merit then lies in its own
    reward instead of in a penalty that falls due an hour later.
    """

    EVENT = 0
    COMMITMENT = 1
    PLANNED_PICKUP = 2
    PLANNED_GAIN = 3


def weights_table(
    weights: RewardWeights, timing: RewardTiming = RewardTiming.EVENT, gamma: float = 1.0
) -> Weights:
    """The scenario's weights as numbers for compiled code."""
    return Weights(
        completion=weights.completion,
        priority=np.array(weights.priority, dtype=np.float64),
        late=weights.late_per_min,
        deadhead=weights.deadhead_per_km,
        loaded=weights.loaded_per_km,
        cancellation=weights.cancellation,
        invalid_action=weights.invalid_action,
        balance=weights.balance,
        idle=weights.idle_per_min,
        timing=int(timing),
        gamma=float(gamma),
    )


@inlined
def completion_worth(weights: Weights, priority: int, fare: float) -> float:
    """Reward of completing a booking: its fare where there is one, else by priority."""
    if np.isnan(fare):
        return weights.completion * weights.priority[priority - 1]
    return weights.completion * fare


@inlined
def unserved_loss(weights: Weights, priority: int) -> float:
    """Penalty (positive) of leaving a booking unserved."""
    return weights.cancellation * weights.priority[priority - 1]


@inlined
def planned_value(
    weights: Weights, worth: float, late_min: float, deadhead_km: float, trip_km: float
) -> float:
    """Undiscounted value of serving a booking as planned."""
    return (
        worth - weights.late * late_min - weights.deadhead * deadhead_km - weights.loaded * trip_km
    )


@inlined
def credit_factor(weights: Weights, wait_min: float, epoch_min: float) -> float:
    """Discount of a value realised ``wait_min`` from now, under the learner's timing."""
    if weights.timing >= 2 and weights.gamma < 1.0 and wait_min > 0.0:
        return weights.gamma ** (wait_min / epoch_min)
    return 1.0


def reward_sum(terms: Any) -> float:
    """KPI reward of a mapping of reward terms."""
    return float(sum(terms.values()))
