"""Playing what a bundle serves on given days: its model, or its heuristic.

The policies are those that the serving engine makes of the bundle. Where they play whole batches in
compiled code, they do; `gate_serving` makes sure that the engine itself decides the same.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.rl.policies.base import Policy
from services.rl.serving.bundle import Bundle
from services.rl.serving.policies import copied, learned_of, matching_of
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.reward import weights_table
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import BookingStatus, Day, FloatArray

from .runner import play_day

URGENT_FROM: Final = 4
"""Priorities from which on a patient is urgent."""

TALLY: Final = (
    "reward",
    "worth",  # of all bookings due, if every one were completed in time at no cost
    "due",
    "served",
    "on_time",
    "urgent_due",
    "urgent_served",
    "urgent_late_15",  # picked up more than 15 min after the promised time
    "urgent_late_30",
    *(f"due_p{p}" for p in range(1, 6)),
    *(f"served_p{p}" for p in range(1, 6)),
)
"""Sums over one day."""

_BATCH: Final = 25


@dataclass(frozen=True)
class Played:
    """What a policy did on D days.

    Attributes:
        name: Who decided.
        sums: ``(D, len(TALLY))``.
        refused: Assignments that were not allowed, where days were played decision by decision.
    """

    name: str
    sums: FloatArray
    refused: int = 0

    def of(self, name: str) -> FloatArray:
        """One sum of every day, ``(D,)``."""
        return self.sums[:, TALLY.index(name)]

    @property
    def days(self) -> int:
        """D."""
        return len(self.sums)


def served_policy(
    bundle: Bundle | None, scenario: Scenario, source: DaySource | None = None
) -> Policy:
    """What a bundle answers with: its model, or ``matching`` where that is its kind."""
    model = learned_of(bundle, scenario, source, "cpu")
    return heuristic_of(bundle, scenario, source) if model is None else model


def heuristic_of(
    bundle: Bundle | None, scenario: Scenario, source: DaySource | None = None
) -> Policy:
    """The tuned ``matching`` that answers when the bundle's model does not."""
    return matching_of(bundle, scenario, source)


def play_days(
    policy: Policy,
    scenario: Scenario,
    days: Sequence[Day],
    *,
    source: DaySource | None = None,
    threads: int = 1,
) -> Played:
    """Play a policy on days, in the served scenario.

    Args:
        policy: A prototype; copies of it play.
        scenario: The served world.
        days: To play.
        source: Where zone matrices come from, if the scenario travels by zones.
        threads: Batches at once; compiled code lets go of Python's lock.
    """
    batches = [days[i : i + _BATCH] for i in range(0, len(days), _BATCH)]

    def one(batch: Sequence[Day]) -> tuple[FloatArray, int]:
        return _play_batch(copied(policy), scenario, batch, source)

    if threads <= 1 or len(batches) <= 1:
        found = [one(batch) for batch in batches]
    else:
        with ThreadPoolExecutor(min(threads, len(batches))) as pool:
            found = list(pool.map(one, batches))
    return Played(
        policy.name,
        np.concatenate([sums for sums, _ in found]),
        sum(refused for _, refused in found),
    )


def _play_batch(
    policy: Policy, scenario: Scenario, days: Sequence[Day], source: DaySource | None
) -> tuple[FloatArray, int]:
    engine = Engine(scenario, len(days), days=days, source=source)
    engine.start(np.arange(len(days)))
    play = getattr(policy, "play", None)
    refused = 0
    if play is not None:
        play(engine)
    else:
        refused = sum(play_day(policy, engine, e)[1] for e in range(len(days)))
    return np.array([tally(engine, e) for e in range(len(days))]), refused


def tally(engine: Engine, env: int = 0) -> FloatArray:
    """`TALLY` of a finished day, by the definitions of `simulation.kpis` and `outcomes`."""
    history = engine.history(env)
    status, priority = history["status"], history["priority"]
    due = (status != BookingStatus.NO_SHOW) & (status != BookingStatus.CALLED_OFF)
    served = status == BookingStatus.COMPLETED
    pickup = np.where(served, history["pickup_min"], 0.0)
    since = np.where(history["immediate"], history["created_min"], history["promised_min"])
    on_time = served & (pickup - since <= engine.scenario.rules.on_time_min + 1e-9)
    late = np.where(served, pickup - history["promised_min"], 0.0)
    urgent = priority >= URGENT_FROM
    weights = weights_table(engine.scenario.reward)
    fare = history["fare"]
    worth = weights.completion * np.where(np.isnan(fare), weights.priority[priority - 1], fare)
    return np.array(
        [
            engine.world.totals[env].sum(),
            worth[due].sum(),
            due.sum(),
            served.sum(),
            on_time.sum(),
            (due & urgent).sum(),
            (served & urgent).sum(),
            (urgent & (late > 15.0 + 1e-9)).sum(),
            (urgent & (late > 30.0 + 1e-9)).sum(),
            *((due & (priority == p)).sum() for p in range(1, 6)),
            *((served & (priority == p)).sum() for p in range(1, 6)),
        ],
        dtype=np.float64,
    )
