"""Whose doing a booking's outcome is, in a switchback experiment.

By the arm that decided it last, it would be a trap: an arm that puts a booking off until the block
is over leaves its failure to the other arm, and one that takes bookings early claims the easy
ones. So the block is chosen by what no arm can change: the moment at which the booking's car has to
be found, `LEAD_MIN` before the promise, or the request if that is later. And the first
`BURN_IN_MIN` of a block count for nobody: its bookings are served from the queues that the block
before has left.

Measured on whole days of ``geneva_overload`` (``scripts/rl/check_experiments.py --bias``): with
blocks of an hour these two rules take away most of what is left of the bias of a shared fleet.
Blocks of half an hour stay biased, whatever the rule.
"""

from datetime import datetime, timedelta
from typing import Final

from .config import block_start

LEAD_MIN: Final = 15.0
"""Before the promise: when a car is found, in the median of what policies do."""

BURN_IN_MIN: Final = 15.0

RECOMMENDED_BLOCK_MIN: Final = 60
"""Shorter blocks begin with the other arm's queues for much of their length."""


def attributed_at(promised: datetime, created: datetime) -> datetime:
    """The moment whose block a booking belongs to."""
    return max(promised - timedelta(minutes=LEAD_MIN), created)


def burns_in(at: datetime, block_min: int) -> bool:
    """Whether that moment is in the part of its block that counts for nobody.

    Blocks of less than twice the burn-in have none: nothing would be left of them.
    """
    if block_min < 2 * BURN_IN_MIN:
        return False
    return at - block_start(at, block_min) < timedelta(minutes=BURN_IN_MIN)


def block_settles_at(begins: datetime, block_min: int, given_up_min: float) -> datetime:
    """When what became of all bookings of a block is known.

    Args:
        begins: Of the block.
        block_min: Its length.
        given_up_min: So long after its promise a booking is given up.
    """
    return begins + timedelta(minutes=block_min + LEAD_MIN + given_up_min)
