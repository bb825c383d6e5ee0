"""Do things happen as predicted? Planned pickups and rewards against those that came about.

The gate judges a candidate on simulated days. They are worth what the simulation is worth: if
patients are picked up ten minutes later than planned, day for day, neither plan nor gate knows the
streets. Intervals treat an operating day as one observation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from services.rl.data.experience import Ending, Experience
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import FloatArray, IntArray

from .gate_lines import FAIL, INFO, NOT_ESTIMABLE, PASS, GateLimits, Line
from .off_policy import FEWEST_DAYS, clustered_ratio, day_numbers
from .paired import Estimate

CLOSE_MIN: Final = 5.0
FEWEST_PICKUPS: Final = 100


@dataclass(frozen=True)
class Hour:
    """Pickups promised in one hour of the day.

    Attributes:
        hour: Of the local clock at which was decided.
        pickups: How many.
        bias_min: Mean of realised less planned.
        mae_min: Mean absolute difference.
        close_share: Share within `CLOSE_MIN`.
    """

    hour: int
    pickups: int
    bias_min: float
    mae_min: float
    close_share: float


@dataclass(frozen=True)
class Calibration:
    """What was predicted against what came about.

    Attributes:
        pickups: Number compared.
        days: Operating days.
        bias_min: Realised less planned minutes until the pickup; positive: later than planned.
        mae_min: Mean absolute difference.
        close_share: Share within `CLOSE_MIN` minutes.
        hours: The same by hour of the day.
        rewards: Number of assignments whose planned reward was logged.
        planned_reward: Mean.
        reward: Mean of what came of them.
        reward_bias_pct: Their difference, percent of the planned.
        errors_min: ``(pickups,)`` realised less planned, for the plot.
        at_hour: ``(pickups,)`` hour, fractional.
    """

    pickups: int
    days: int
    bias_min: Estimate | None
    mae_min: Estimate | None
    close_share: Estimate | None
    hours: tuple[Hour, ...]
    rewards: int
    planned_reward: float | None
    reward: float | None
    reward_bias_pct: Estimate | None
    errors_min: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    at_hour: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)


def calibration(experiences: Iterable[Experience], scenario: Scenario) -> Calibration:
    """Compare what a policy planned with what came about.

    Args:
        experiences: Any; assignments with a plan count. A person's are left out: nobody here
            predicted them.
        scenario: For the clock of the day.
    """
    planned = [
        e for e in experiences if e.action is not None and e.source == "policy" and not e.overridden
    ]
    met = [
        e for e in planned if e.pickup_in_min is not None and e.planned_pickup_in_min is not None
    ]
    errors = np.array([(e.pickup_in_min or 0.0) - (e.planned_pickup_in_min or 0.0) for e in met])
    start = scenario.rules.day_start_min
    hours = np.array([((start + e.state.now_min) / 60.0) % 24.0 for e in met])
    day = day_numbers([f"{e.company_id}:{e.day}" for e in met])
    # What the patient called off or missed was nobody's plan; what was taken back was not carried
    # out. Left are rides that took place, and those that should have.
    carried = [
        e
        for e in planned
        if e.planned_reward is not None and e.ending in (Ending.COMPLETED, Ending.UNSERVED)
    ]
    foreseen = np.array([e.planned_reward or 0.0 for e in carried])
    real = np.array([e.reward for e in carried])
    reward_day = day_numbers([f"{e.company_id}:{e.day}" for e in carried])
    return Calibration(
        pickups=len(met),
        days=len(np.unique(day)),
        bias_min=_mean(errors, day),
        mae_min=_mean(np.abs(errors), day),
        close_share=_mean((np.abs(errors) <= CLOSE_MIN).astype(np.float64), day),
        hours=_by_hour(errors, hours),
        rewards=len(carried),
        planned_reward=float(foreseen.mean()) if len(carried) else None,
        reward=float(real.mean()) if len(carried) else None,
        reward_bias_pct=_bias_pct(real, foreseen, reward_day),
        errors_min=errors,
        at_hour=hours,
    )


def _mean(values: FloatArray, day: IntArray) -> Estimate | None:
    return clustered_ratio(values, np.ones(len(values)), day) if len(values) else None


def _bias_pct(real: FloatArray, planned: FloatArray, day: IntArray) -> Estimate | None:
    if not len(planned) or not planned.sum() > 0.0:
        return None
    found = clustered_ratio(real - planned, planned, day)
    return Estimate(100.0 * found.mean, 100.0 * found.half_width)


def _by_hour(errors: FloatArray, hours: FloatArray) -> tuple[Hour, ...]:
    found = []
    for hour in sorted({int(h) for h in hours}):
        mine = errors[hours.astype(np.int64) == hour]
        found.append(
            Hour(
                hour,
                len(mine),
                float(mine.mean()),
                float(np.abs(mine).mean()),
                float((np.abs(mine) <= CLOSE_MIN).mean()),
            )
        )
    return tuple(found)


def calibration_lines(found: Calibration, limits: GateLimits) -> list[Line]:
    """Bias of pickups and rewards; it fails only where its whole interval is beyond the limit."""
    few = found.pickups < FEWEST_PICKUPS or found.days < FEWEST_DAYS
    why = (
        f"{found.pickups} pickups of {found.days} days; "
        f"{FEWEST_PICKUPS} of {FEWEST_DAYS} are needed"
    )
    return [
        _bias(
            "calibration.pickup_bias",
            "pickups later than planned (negative: earlier)",
            "min",
            None if few else found.bias_min,
            limits.pickup_bias_min,
            why,
            "recalibrate travel speeds and service times: the simulated days are not this "
            "company's, nor are the plans",
        ),
        _told("calibration.pickup_mae", "pickups: mean absolute error", "min",
              None if few else found.mae_min, why),
        _told("calibration.pickup_close", f"pickups within {CLOSE_MIN:g} min of the plan", "share",
              None if few else found.close_share, why),
        _bias(
            "calibration.reward_bias",
            "reward of an assignment above plan (negative: below)",
            "%",
            None if few else found.reward_bias_pct,
            limits.reward_bias_pct,
            why,
            "recalibrate travel speeds; look for promised bookings that nobody came to",
        ),
    ]  # fmt: skip


def _bias(
    name: str, title: str, unit: str, value: Estimate | None, limit: float, why: str, lever: str
) -> Line:
    if value is None or not np.isfinite(value.half_width):
        return Line(name, title, unit, None, None, None, limit, NOT_ESTIMABLE, why)
    beyond = value.low > limit or value.high < -limit
    return Line(name, title, unit, value.mean, value.low, value.high, limit,
                FAIL if beyond else PASS, lever if beyond else "")  # fmt: skip


def _told(name: str, title: str, unit: str, value: Estimate | None, why: str) -> Line:
    if value is None or not np.isfinite(value.half_width):
        return Line(name, title, unit, None, None, None, None, NOT_ESTIMABLE, why)
    return Line(name, title, unit, value.mean, value.low, value.high, None, INFO)
