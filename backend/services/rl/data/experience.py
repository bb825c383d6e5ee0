"""An experience: one decision that was acted on, what it led to, and what it was worth.

A company's log is a chain of epochs. In an epoch, assignments are committed one after another in
the order in which they were logged, then the fleet waits until its next decision. So an assignment
takes no time (``dt`` 0) and leads to the same moment with one job more; the epoch's end is one
experience of its own, the WAIT, which leads to the company's next epoch of the operating day.

Rows of drivers and bookings are kept, not observations: encoders compute pair features and masks
again, so that an experience outlives a change of the observation's layout.
"""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

EXPERIENCE_SCHEMA = 1

WAIT_PREFIX = "wait-"
"""Of the id of an epoch's WAIT, before the snapshot's number; other ids are those of decisions."""


class Ending(StrEnum):
    """What became of the decision."""

    COMPLETED = "completed"
    NO_SHOW = "no_show"  # the patient was not there
    CALLED_OFF = "called_off"  # the patient cancelled before the pickup
    UNSERVED = "unserved"  # nobody came
    WITHDRAWN = "withdrawn"  # taken back: by a person, a breakdown, another driver
    WAITED = "waited"  # of a WAIT


@dataclass(frozen=True)
class RewardTerms:
    """What a decision earned, by the terms of `services.rl.simulation.reward`; all undiscounted."""

    completion: float = 0.0
    lateness: float = 0.0  # <= 0
    deadhead: float = 0.0  # <= 0
    loaded: float = 0.0  # <= 0
    cancellation: float = 0.0  # <= 0

    @property
    def total(self) -> float:
        """The KPI reward."""
        return self.completion + self.lateness + self.deadhead + self.loaded + self.cancellation


@dataclass(frozen=True, eq=False)
class Rows:
    """A fleet at one moment, as `DispatchState` has it.

    Attributes:
        now_min: Minutes after the start of the operating day.
        drivers: ``(N,)`` of `STATE_DRIVER_DTYPE`.
        bookings: ``(B,)`` of `STATE_BOOKING_DTYPE`: open ones.
    """

    now_min: float
    drivers: npt.NDArray[np.void]
    bookings: npt.NDArray[np.void]


@dataclass(frozen=True, eq=False)
class Experience:
    """One decision.

    Attributes:
        id: Of the decision, or `WAIT_PREFIX` and the snapshot's number.
        company_id: Whose.
        day: Operating day.
        at: When it was decided.
        scenario_hash: Of the world whose travel times and rules it was decided by.
        state: At the beginning of the epoch.
        prior: Rows ``(driver, booking)`` of `state` that were committed earlier in the epoch.
        action: Row of the driver and row of the booking; None: WAIT.
        dt: Decision epochs until the next state; 0 for an assignment.
        next_state: Of a WAIT: the company's next epoch of the day. None for an assignment (the
            same moment, with ``action`` added to ``prior``), and where ``done``.
        done: No decision of this operating day follows.
        terms: What it earned. Of an assignment: all that its booking came to. Of a WAIT: what was
            lost because open bookings were given up before the next epoch.
        loss: Of an assignment: what leaving the booking unserved would have cost (>= 0); of a WAIT
            the losses of the bookings given up: what a reward relative to "nobody does anything"
            adds (`RewardTiming.PLANNED_GAIN`).
        pickup_in_min: From the decision to the pickup that happened; None: none did.
        planned_pickup_in_min: From the decision to the pickup as planned; None: not logged.
        planned_reward: What the plan was worth by the same function; None: not logged.
        ending: What became of it.
        propensity: Probability with which the action was logged; None: unknown.
        k: Candidates among which exploration could choose.
        arm: Of the experiment.
        unit: What was randomised; empty: nothing.
        model: Version that decided; empty: the heuristic, or a person.
        source: ``policy``, ``human`` or ``reconstructed``.
        overridden: A person replaced the decision.
    """

    id: str
    company_id: int
    day: date
    at: datetime
    scenario_hash: str
    state: Rows
    prior: tuple[tuple[int, int], ...]
    action: tuple[int, int] | None
    dt: float
    next_state: Rows | None
    done: bool
    terms: RewardTerms
    loss: float
    pickup_in_min: float | None
    planned_pickup_in_min: float | None
    planned_reward: float | None
    ending: Ending
    propensity: float | None
    k: int
    arm: str
    unit: str
    model: str
    source: str
    overridden: bool = False

    @property
    def reward(self) -> float:
        """KPI reward, undiscounted."""
        return self.terms.total
