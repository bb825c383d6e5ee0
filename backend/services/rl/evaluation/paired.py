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
    nothing = np.zeros(len(policy))
    room = np.asarray(hindsight) - np.asarray(nearest)
    if room.mean() <= 0:
        return Estimate(float("nan"), float("inf"))
    return rate_difference(np.asarray(policy) - np.asarray(nearest), room, nothing, room)


def relative_gain(a: FloatArray, b: FloatArray) -> Estimate:
    """How much more ``a`` is than ``b`` on the same days, in percent of the mean of ``b``.

    Infinite where the mean of ``b`` is not above 0.
    """
    if np.mean(b) <= 0:
        return Estimate(float("nan"), float("inf"))
    return rate_difference(a, b, b, b)


def rate_difference(
    count_a: FloatArray, of_a: FloatArray, count_b: FloatArray, of_b: FloatArray
) -> Estimate:
    """``sum(count_a) / sum(of_a) - sum(count_b) / sum(of_b)`` over the same days, in percent.

    Such as the share of patients served by one policy, less that of another. The interval is the
    delta method's for ratios of paired means (Cochran 1977, ch. 6). Infinite where a denominator
    is not above 0.
    """
    residual, total = np.zeros(len(count_a)), 0.0
    for sign, count, of in ((1.0, count_a, of_a), (-1.0, count_b, of_b)):
        mean = float(np.mean(of))
        if not mean > 0:
            return Estimate(float("nan"), float("inf"))
        ratio = float(np.mean(count)) / mean
        residual = residual + sign * (np.asarray(count) - ratio * np.asarray(of)) / mean
        total += sign * ratio
    return Estimate(100 * total, 100 * estimate(residual).half_width)
