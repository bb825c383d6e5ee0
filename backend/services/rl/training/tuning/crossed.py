"""Intervals of a comparison in which seeds and days both vary, and rank correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any, Final

import numpy as np
from scipy import stats

from services.rl.evaluation.paired import Estimate
from services.rl.simulation.types import FloatArray

_EXACT: Final = 7  # candidates up to which every order is counted


def crossed_difference(a: FloatArray, b: FloatArray) -> Estimate:
    """Mean of ``a - b`` with the interval for other seeds *and* other days.

    Args:
        a: ``(S, D)`` by seed and day.
        b: The same seeds' and days'.

    The variance of the mean of crossed random effects is (MS_seeds + MS_days - MS_rest) / SD.
    Seeds are few: what they show is never diminished, and the degrees of freedom are theirs, S - 1.
    Satterthwaite's (1946), estimated from three or four seeds, covered too little (92.9 % of 800).
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    seeds, days = difference.shape
    mean = float(difference.mean())
    if seeds < 2 or days < 2:
        return Estimate(mean, float("inf"))
    by_seed, by_day = difference.mean(axis=1), difference.mean(axis=0)
    of_seeds = days * float(by_seed.var(ddof=1))
    of_days = seeds * float(by_day.var(ddof=1))
    rest = difference - by_seed[:, None] - by_day[None] + mean
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (days - 1))
    more = max(0.0, of_days - of_rest)  # what days add to what seeds show already
    squares = max(of_seeds + more, of_days)
    half = float(stats.t.ppf(0.975, seeds - 1)) * float(np.sqrt(squares / (seeds * days)))
    return Estimate(mean, half)


@dataclass(frozen=True)
class Gain:
    """How much more, in percent, and its 95 % interval.

    Attributes:
        mean: NaN if unknown.
        low: Lower end.
        high: Upper end; seldom as far from the mean as the lower.
    """

    mean: float
    low: float
    high: float


def crossed_gain(a: FloatArray, b: FloatArray) -> Gain:
    """How much more ``a`` is than ``b``, in percent of the mean of ``b``; see `crossed_difference`.

    Fieller's interval (1954) of a ratio of means: every ratio r for which the interval of
    ``a - r b`` holds 0. The delta method goes wrong where ``b`` is hardly above 0, as a default
    that learns little is. Unknown where the interval of ``b`` itself reaches 0.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    base = crossed_difference(b, np.zeros_like(b))
    if not (base.low > 0 and np.isfinite(a).all()):
        return Gain(float("nan"), float("-inf"), float("inf"))
    ratio = float(a.mean()) / base.mean

    def end(side: float) -> float:
        """The last ratio on a side of the mean that is not excluded."""

        def excluded(away: float) -> bool:
            found = crossed_difference(a, (ratio + side * away) * b)
            return bool(abs(found.mean) > found.half_width)

        near, far = 0.0, 1e-6
        while not excluded(far):  # it comes to an end: b is above 0
            near, far = far, 2.0 * far
        for _ in range(50):
            middle = (near + far) / 2.0
            near, far = (near, middle) if excluded(middle) else (middle, far)
        return ratio + side * far

    return Gain(*(100.0 * (r - 1.0) for r in (ratio, end(-1.0), end(1.0))))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """Spearman's rho, and the share of orders that correlate as much by chance (exact to 7)."""
    count = len(a)
    if count < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return {"n": count, "rho": None, "p": None}
    x, y = stats.rankdata(a), stats.rankdata(b)
    rho = float(np.corrcoef(x, y)[0, 1])
    if count <= _EXACT:
        as_high = sum(
            np.corrcoef(x, y[list(order)])[0, 1] >= rho - 1e-12
            for order in permutations(range(count))
        )
        p = as_high / factorial(count)
    else:
        p = float(stats.spearmanr(a, b, alternative="greater").pvalue)
    return {"n": count, "rho": rho, "p": float(p)}
