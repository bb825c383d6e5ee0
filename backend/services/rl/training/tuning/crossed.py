"""Intervals of a comparison in which seeds and days both vary, and rank correlation."""

from collections.abc import Sequence
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


def crossed_gain(a: FloatArray, b: FloatArray) -> Estimate:
    """How much more ``a`` is than ``b``, in percent of the mean of ``b``; see `crossed_difference`.

    By the delta method for a ratio of means. Unknown where the mean of ``b`` is not above 0.
    """
    base = float(np.mean(b))
    if not base > 0:
        return Estimate(float("nan"), float("inf"))
    ratio = float(np.mean(a)) / base
    residual = (np.asarray(a, float) - ratio * np.asarray(b, float)) / base
    spread = crossed_difference(residual, np.zeros_like(residual))
    return Estimate(100 * (ratio - 1), 100 * spread.half_width)


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
