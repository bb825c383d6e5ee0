"""Paired statistics: policies on the same days, differences with their 95 % intervals."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from services.rl.simulation.types import FloatArray


@dataclass(frozen=True)
class Estimate:
    """A mean with half the width of its 95 % interval (Student's t over days)."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate(values: FloatArray) -> Estimate:
    """Mean and interval of one number per day, ``(D,)``; infinite for fewer than two days."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Estimate(mean, float("inf"))
    spread = float(np.std(values, ddof=1)) / np.sqrt(count)
    return Estimate(mean, float(stats.t.ppf(0.975, count - 1)) * spread)


def paired_difference(a: FloatArray, b: FloatArray) -> Estimate:
    """Mean of ``a - b`` over the same days."""
    return estimate(np.asarray(a) - np.asarray(b))


def gap_closed(policy: FloatArray, nearest: FloatArray, hindsight: FloatArray) -> Estimate:
    """Share of the way from nearest to hindsight, in percent: a ratio of means over days.

    The interval is the delta method's for a ratio of paired means (Cochran 1977, ch. 6).
    Infinite where hindsight is not above nearest.
    """
    gain = np.asarray(policy) - np.asarray(nearest)
    room = np.asarray(hindsight) - np.asarray(nearest)
    mean_room = float(room.mean())
    if mean_room <= 0:
        return Estimate(float("nan"), float("inf"))
    ratio = float(gain.mean()) / mean_room
    residual = estimate((gain - ratio * room) / mean_room)
    return Estimate(100 * ratio, 100 * residual.half_width)
