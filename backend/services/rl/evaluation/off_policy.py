"""Off-policy estimates: what another policy would have earned on logged bookings.

Each assigned booking is one choice: a state, a driver out of k, a logged probability, a reward.
The target policy's value is estimated from those choices alone, booking by booking; what its other
choices would have led to later in the day is *not* in it (a trajectory's weight is a product over a
day's hundred choices: not estimable).

* **SNIPS** (Swaminathan and Joachims 2015): ``sum(w r) / sum(w)``, ``w = target / logged``.
* **Doubly robust** (Dudik, Langford, Li 2011): ``mean(q(target) + w (r - q(logged)))`` with a model
  q of the reward; right if either the propensities or the model are.

Both need *support*: a log without exploration shows nothing of what it did not do. Then no number
is given. The intervals treat an operating day as one observation (cluster-robust, Student's t).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from services.rl.errors import UsageError
from services.rl.simulation.types import FloatArray, IntArray

from .paired import Estimate

FEWEST_DAYS: Final = 5
"""Clusters below which an interval says nothing."""
LEAST_MASS: Final = 0.8
"""Of the target policy's choices that the log could have taken; see `support`."""

_FOLDS: Final = 5


@dataclass(frozen=True)
class Choices:
    """n logged choices.

    Attributes:
        reward: ``(n,)`` that followed.
        logged: ``(n,)`` probability with which the logged driver was chosen.
        target: ``(n,)`` probability with which the target policy chooses the same driver.
        model_logged: ``(n,)`` reward that a model expects of the logged driver.
        model_target: ``(n,)`` that it expects of the target policy's choice.
        day: ``(n,)`` number of the operating day: the cluster.
    """

    reward: FloatArray
    logged: FloatArray
    target: FloatArray
    model_logged: FloatArray
    model_target: FloatArray
    day: IntArray

    def __post_init__(self) -> None:
        """Check.

        Raises:
            UsageError: If a column has another length, or a probability is none.
        """
        n = len(self.reward)
        for name in ("logged", "target", "model_logged", "model_target", "day"):
            if len(getattr(self, name)) != n:
                raise UsageError(f"off-policy: {name} has {len(getattr(self, name))} of {n} rows")
        if n and not ((self.logged > 0.0) & (self.logged <= 1.0)).all():
            raise UsageError("off-policy: logged propensities must lie in (0, 1]")
        if n and not ((self.target >= 0.0) & (self.target <= 1.0 + 1e-12)).all():
            raise UsageError("off-policy: target probabilities must lie in [0, 1]")

    def __len__(self) -> int:
        """Number of choices."""
        return len(self.reward)

    @property
    def weight(self) -> FloatArray:
        """``(n,)`` importance weights."""
        return self.target / self.logged


@dataclass(frozen=True)
class OffPolicy:
    """What can be said of a target policy.

    Attributes:
        snips: Reward per booking; None: not estimable.
        doubly_robust: The same.
        logged: Of what was done: the plain mean.
        gain: Doubly robust, less `logged`, in one interval (they share their days).
        choices: n.
        days: Clusters.
        effective: Effective sample size, ``sum(w)^2 / sum(w^2)`` (Kish 1965).
        mass: Mean weight: the share of the target's choices that the log could have taken.
        why: Why it is not estimable; empty if it is.
    """

    snips: Estimate | None
    doubly_robust: Estimate | None
    logged: Estimate | None
    gain: Estimate | None
    choices: int
    days: int
    effective: float
    mass: float
    why: str = ""

    @property
    def estimable(self) -> bool:
        """Whether there is a number."""
        return not self.why


def off_policy(choices: Choices, *, fewest_effective: float = 100.0) -> OffPolicy:
    """Estimate, or say why not.

    Args:
        choices: Logged choices; only those among which the log could choose (k at least 2), or
            what was never open would pass for support.
        fewest_effective: Effective sample size below which no number is given.
    """
    days = np.unique(choices.day)
    effective, mass = effective_size(choices.weight), _mass(choices)
    why = support(choices, len(days), effective, mass, fewest_effective)
    if why:
        return OffPolicy(None, None, None, None, len(choices), len(days), effective, mass, why)
    w, r = choices.weight, choices.reward
    robust = choices.model_target + w * (r - choices.model_logged)
    ones = np.ones(len(choices))
    return OffPolicy(
        snips=clustered_ratio(w * r, w, choices.day),
        doubly_robust=clustered_ratio(robust, ones, choices.day),
        logged=clustered_ratio(r, ones, choices.day),
        gain=clustered_ratio(robust - r, ones, choices.day),
        choices=len(choices),
        days=len(days),
        effective=effective,
        mass=mass,
    )


def effective_size(weight: FloatArray) -> float:
    """``sum(w)^2 / sum(w^2)``; 0 where all weights are."""
    squares = float(np.sum(weight**2))
    return float(np.sum(weight)) ** 2 / squares if squares > 0.0 else 0.0


def _mass(choices: Choices) -> float:
    return float(choices.weight.mean()) if len(choices) else 0.0


def support(
    choices: Choices, days: int, effective: float, mass: float, fewest_effective: float
) -> str:
    """Why choices do not support an estimate; empty if they do.

    Under full support the weights' mean is 1. It is less by the share of the target's choices that
    the log could never take; those it can say nothing about.
    """
    if not len(choices):
        return "no logged decision could have been another: nothing was explored"
    if float(choices.logged.max()) >= 1.0 and float(choices.logged.min()) >= 1.0:
        return "the log is greedy (every propensity is 1): it shows nothing of other choices"
    if days < FEWEST_DAYS:
        return f"{days} operating days; intervals need {FEWEST_DAYS}"
    if effective < fewest_effective:
        return (
            f"the effective sample size is {effective:.0f} of {len(choices)} decisions; "
            f"{fewest_effective:.0f} are needed (explore more, or log for longer)"
        )
    upper = clustered_ratio(choices.weight, np.ones(len(choices)), choices.day).high
    if upper < LEAST_MASS:
        return (
            f"only {mass:.0%} of the candidate's choices were open to exploration; "
            f"{LEAST_MASS:.0%} are needed"
        )
    return ""


def clustered_ratio(numerator: FloatArray, denominator: FloatArray, day: IntArray) -> Estimate:
    """``sum(numerator) / sum(denominator)`` with the interval of day totals (linearised)."""
    _, cluster = np.unique(day, return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    total = float(np.sum(denominator))
    if not total > 0.0:
        return Estimate(float("nan"), float("inf"))
    value = float(np.sum(numerator)) / total
    if count < 2:
        return Estimate(value, float("inf"))
    residual = np.bincount(cluster, numerator - value * denominator, minlength=count) / total
    spread = float(np.sqrt(count / (count - 1) * np.sum(residual**2)))
    return Estimate(value, float(stats.t.ppf(0.975, count - 1)) * spread)


# --- the model of the reward ---------------------------------------------------------------------


def fitted(
    planned: FloatArray,
    of: FloatArray,
    reward: FloatArray,
    day: IntArray,
) -> tuple[FloatArray, FloatArray]:
    """Expected rewards of choices: planned reward, corrected by a line fitted on *other* days.

    Cross-fitted: a day's own outcomes are never in the line that judges it, or the doubly robust
    estimate would lean towards what happened.

    Args:
        planned: ``(n,)`` planned reward of the logged choice.
        of: ``(n,)`` planned reward of the target's choice.
        reward: ``(n,)`` realised reward of the logged choice.
        day: ``(n,)`` number of the operating day.

    Returns:
        ``(n,)`` expected of the logged, and of the target's choice.
    """
    _, cluster = np.unique(day, return_inverse=True)
    fold = cluster % _FOLDS
    logged, target = planned.astype(np.float64), of.astype(np.float64)
    for k in np.unique(fold):
        mine, others = fold == k, fold != k
        slope, intercept = _line(planned[others], reward[others])
        logged[mine] = intercept + slope * planned[mine]
        target[mine] = intercept + slope * of[mine]
    return logged, target


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope and intercept; the plan itself where there is nothing to fit."""
    if len(x) < 10 or float(np.std(x)) < 1e-9:
        return 1.0, float(np.mean(y - x)) if len(x) else 0.0
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def day_numbers(labels: Sequence[object]) -> IntArray:
    """Clusters by label, ``(n,)``."""
    _, numbers = np.unique(np.array([str(label) for label in labels]), return_inverse=True)
    found: npt.NDArray[np.int64] = numbers.astype(np.int64)
    return found
