"""From logged experiences to off-policy choices: what would the candidate have done there?

The candidate is asked once per epoch, as it is served, on the state in which the log decided. Of
each booking that was assigned, its answer is the same driver, another one, or to wait. The log may
have chosen another driver than planned (exploration), never to wait: where the candidate waits
there is no support, and the booking is left out and counted.

The candidate is asked without a plan of the epoch before: a planner's answer after a full day may
differ a little from this one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from services.rl.data.experience import Experience, Rows
from services.rl.errors import StateError
from services.rl.serving.bundle import Bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.simulation import world
from services.rl.simulation.days import DaySource
from services.rl.simulation.host import HostWorld
from services.rl.simulation.reward import completion_worth, planned_value, weights_table
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from .gate_serving import PATIENCE_MS
from .off_policy import Choices, day_numbers, fitted

MOST_EPOCHS: Final = 5_000
"""Epochs on which a candidate is asked: the newest ones."""


# The same functions as Python: compiled, they are only there for compiled callers.
_COMPLETION_WORTH: Final[Any] = completion_worth.py_func  # type: ignore[attr-defined]
_PLANNED_VALUE: Final[Any] = planned_value.py_func  # type: ignore[attr-defined]


@dataclass
class Logged:
    """Choices, and what was left out.

    Attributes:
        choices: Those that the log explored among.
        left_out: Decisions by reason.
        agree: Share of usable decisions on which the candidate takes the logged driver.
    """

    choices: Choices
    left_out: dict[str, int] = field(default_factory=dict)
    agree: float = float("nan")


def state_of(rows: Rows, scenario: Scenario) -> DispatchState:
    """Rows as a policy is asked them; drivers and bookings are named by their place."""
    return DispatchState(
        now_min=rows.now_min,
        driver_ids=tuple(f"driver-{d:04d}" for d in range(len(rows.drivers))),
        drivers=rows.drivers,
        booking_ids=tuple(f"booking-{b:04d}" for b in range(len(rows.bookings))),
        bookings=rows.bookings,
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
    )


def logged_choices(
    candidate: Bundle,
    scenario: Scenario,
    experiences: Iterable[Experience],
    *,
    epsilon: float = 0.0,
    source: DaySource | None = None,
) -> Logged:
    """Ask a candidate about what was logged.

    Args:
        candidate: Its bundle.
        scenario: The served world; experiences of another are left out.
        experiences: Any; only assignments by a policy with a propensity count.
        epsilon: Of the candidate's own exploration; 0: it does what it plans.
        source: Where zone matrices come from, if the scenario travels by zones.
    """
    left_out: Counter[str] = Counter()
    epochs: dict[tuple[int, Any], list[Experience]] = {}
    for experience in experiences:
        reason = _unfit(experience, scenario)
        if reason:
            left_out[reason] += 1
            continue
        epochs.setdefault((experience.company_id, experience.at), []).append(experience)
    newest = sorted(epochs, key=lambda key: key[1])
    for key in newest[:-MOST_EPOCHS]:
        left_out["older than the newest epochs asked"] += len(epochs[key])
    asker = _Asker(candidate, scenario, source)
    try:
        rows = [
            row
            for key in newest[-MOST_EPOCHS:]
            for row in asker.rows(epochs[key], epsilon, left_out)
        ]
    finally:
        asker.close()
    return _gathered(rows, left_out)


def _unfit(e: Experience, scenario: Scenario) -> str:
    """Why an experience is no choice of a logged policy; empty if it is."""
    if e.action is None:
        return "epoch's end"
    if e.source != "policy" or e.overridden:
        return "not a policy's choice"
    if e.propensity is None:
        return "propensity unknown"
    if e.scenario_hash != scenario.sha256:
        return "another scenario"
    if e.k < 2:
        return "no other driver was open to exploration"
    return ""


@dataclass(frozen=True)
class _Row:
    reward: float
    logged: float
    target: float
    planned_logged: float
    planned_target: float
    day: str
    same: bool


class _Asker:
    """The candidate as served, and a world to try its drivers in."""

    def __init__(self, bundle: Bundle, scenario: Scenario, source: DaySource | None) -> None:
        self._scenario = scenario
        self._serving = InferenceEngine(scenario, bundle, source=source)
        self._serving.warm_up()
        self._host = HostWorld(scenario, observation="compact", source=source)
        self._weights = weights_table(scenario.reward)

    def close(self) -> None:
        self._serving.close()

    def rows(self, epoch: list[Experience], epsilon: float, left_out: Counter[str]) -> list[_Row]:
        state = state_of(epoch[0].state, self._scenario)
        try:
            answer = self._serving.decide(state, budget_ms=PATIENCE_MS)
        except StateError:
            left_out["state not admitted"] += len(epoch)
            return []
        if answer.fallback_reason is not None:
            left_out["the candidate fell back"] += len(epoch)
            return []
        chosen = {d.booking: d.driver for d in answer.decisions.decisions if d.driver is not None}
        found = []
        for experience in epoch:
            row = self._row(state, experience, chosen, epsilon, left_out)
            if row is not None:
                found.append(row)
        return found

    def _row(
        self,
        state: DispatchState,
        e: Experience,
        chosen: dict[int, int],
        epsilon: float,
        left_out: Counter[str],
    ) -> _Row | None:
        assert e.action is not None and e.propensity is not None
        driver, booking = e.action
        taken = chosen.get(booking)
        if taken is None:
            left_out["the candidate waits"] += 1
            return None
        planned = self.planned(state, e.prior, driver, booking)
        other = planned if taken == driver else self.planned(state, e.prior, taken, booking)
        if planned is None or other is None:
            left_out["its driver is taken by what was committed before"] += 1
            return None
        # As exploration draws: the planned driver, or uniformly one of the k.
        kept, drawn = 1.0 - epsilon + epsilon / e.k, epsilon / e.k
        return _Row(
            reward=e.reward,
            logged=e.propensity,
            target=kept if taken == driver else drawn,
            planned_logged=planned,
            planned_target=other,
            day=f"{e.company_id}:{e.day.isoformat()}",
            same=taken == driver,
        )

    def planned(
        self, state: DispatchState, prior: tuple[tuple[int, int], ...], driver: int, booking: int
    ) -> float | None:
        """Reward of an assignment as planned, after what was committed before; None: infeasible."""
        self._host.load(state)
        engine = self._host.engine
        for d, b in prior:
            engine.commit(0, d, b)
        if not engine.commit(0, driver, booking):
            return None
        w = engine.world
        worth = _COMPLETION_WORTH(
            self._weights,
            int(state.bookings["priority"][booking]),
            float(state.bookings["fare"][booking]),
        )
        return float(
            _PLANNED_VALUE(
                self._weights,
                worth,
                float(w.bookings[0, booking, world.PLAN_LATE]),
                float(w.bookings[0, booking, world.LEG_KM]),
                float(w.bookings[0, booking, world.TRIP_KM]),
            )
        )


def _gathered(rows: list[_Row], left_out: Counter[str]) -> Logged:
    def column(name: str) -> Any:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    day = day_numbers([row.day for row in rows])
    reward = column("reward")
    model_logged, model_target = fitted(
        column("planned_logged"), column("planned_target"), reward, day
    )
    choices = Choices(
        reward=reward,
        logged=column("logged"),
        target=column("target"),
        model_logged=model_logged,
        model_target=model_target,
        day=day,
    )
    agree = float(np.mean([row.same for row in rows])) if rows else float("nan")
    return Logged(choices, dict(left_out), agree)
