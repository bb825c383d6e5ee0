"""A day played in the engine, as the trainer's stream saw it and as experiences tell it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from services.rl.data.experience import WAIT_PREFIX, Ending, Experience, RewardTerms, Rows
from services.rl.simulation.construction import RewardTimingName
from services.rl.simulation.engine import Engine
from services.rl.simulation.observation import ObservationKind
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import BookingStatus
from services.rl.simulation.world import REWARD_TERMS
from services.rl.training.streams import EngineStream, StreamStep

from .experiences import MONDAY

Array = np.ndarray[Any, Any]


@dataclass
class Played:
    """One day of T steps.

    Attributes:
        state: ``(T, S)``, where each action was chosen.
        mask: ``(T, A)``.
        action: ``(T,)``.
        steps: What the trainer got for each.
        experiences: One per step, in the same order.
    """

    state: Array
    mask: Array
    action: Array
    steps: list[StreamStep]
    experiences: list[Experience]

    @property
    def kpi_total(self) -> float:
        """The day's KPI reward."""
        return self.steps[-1].episodes[0].total


@dataclass
class _Step:
    """A step before the day is over."""

    epoch: Rows
    prior: tuple[tuple[int, int], ...]
    action: tuple[int, int] | None
    booking: int  # row of the day
    given_up: float  # loss of the bookings that a WAIT gave up


def play(
    scenario: Scenario,
    *,
    observation: ObservationKind = "rows",
    max_bookings: int = 20,
    timing: RewardTimingName = "event",
    gamma: float = 0.99,
    seed: int = 1,
    waiting: float = 0.3,
) -> Played:
    """Play a day with random valid actions; two engines, because the stream's goes on at once."""
    stream = EngineStream(
        scenario,
        1,
        observation=observation,
        max_bookings=max_bookings,
        timing=timing,
        gamma=gamma,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    state, mask = stream.reset()
    twin = Engine(scenario, max_bookings=max_bookings, observation=observation)
    twin.start([int(stream.engine.out.day[0])])
    states, masks, actions, steps, taken = [], [], [], [], []
    epoch, rows = _epoch(twin)
    prior: tuple[tuple[int, int], ...] = ()
    while not twin.ended(0):
        action = 0 if rng.random() < waiting else int(rng.choice(np.flatnonzero(mask[0])))
        pair, booking = None, -1
        if action:
            driver, slot = divmod(action - 1, max_bookings)
            booking = int(twin.open_rows(0)[slot])
            pair = driver, rows.index(booking)
        out = twin.step(np.array([action]))
        lost = -float(out.terms[0, REWARD_TERMS.index("cancellation")])
        taken.append(_Step(epoch, prior, pair, booking, lost))
        states.append(state[0])
        masks.append(mask[0])
        actions.append(action)
        steps.append(stream.step(np.array([action])))
        state, mask = steps[-1].state, steps[-1].mask
        if pair is None:
            epoch, rows = _epoch(twin)
            prior = ()
        else:
            prior = (*prior, pair)
    return Played(
        np.array(states),
        np.array(masks),
        np.array(actions),
        steps,
        _experiences(scenario, taken, twin.history(0)),
    )


def _epoch(engine: Engine) -> tuple[Rows, list[int]]:
    """The present rows, and which bookings of the day they are."""
    state = engine.state(0)
    return Rows(state.now_min, state.drivers, state.bookings), engine.open_rows(0).tolist()


def _experiences(scenario: Scenario, steps: list[_Step], history: Array) -> list[Experience]:
    made = []
    for number, step in enumerate(steps):
        wait = step.action is None
        following = next((s.epoch for s in steps[number + 1 :]), None) if wait else None
        now = step.epoch.now_min
        weights = scenario.reward
        if wait:
            terms, loss, pickup_in = RewardTerms(cancellation=-step.given_up), step.given_up, None
        else:
            b = history[step.booking]
            assert b["status"] == BookingStatus.COMPLETED
            priority = weights.priority[int(b["priority"]) - 1]
            terms = RewardTerms(
                completion=weights.completion * priority,
                lateness=-weights.late_per_min * max(0.0, b["pickup_min"] - b["window_end_min"]),
                deadhead=-weights.deadhead_per_km * b["deadhead_km"],
                loaded=-weights.loaded_per_km * b["trip_km"],
            )
            loss, pickup_in = weights.cancellation * priority, float(b["pickup_min"] - now)
        made.append(
            Experience(
                id=f"{WAIT_PREFIX}{number}" if wait else str(number),
                company_id=1,
                day=MONDAY.date(),
                at=MONDAY + timedelta(minutes=now, microseconds=number),
                scenario_hash=scenario.sha256,
                state=step.epoch,
                prior=step.prior,
                action=step.action,
                dt=float(wait),
                next_state=following,
                done=wait and following is None,
                terms=terms,
                loss=loss,
                pickup_in_min=pickup_in,
                planned_pickup_in_min=pickup_in,
                planned_reward=terms.total,
                ending=Ending.WAITED if wait else Ending.COMPLETED,
                propensity=None,
                k=1,
                arm="",
                unit="",
                model="",
                source="policy",
            )
        )
    return made
