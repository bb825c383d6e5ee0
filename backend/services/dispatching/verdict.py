"""Intervals of shares, and the experiment's verdict in numbers: valid at every look.

People look at a dashboard all day. An ordinary interval, read whenever it pleases, misses its
promise: of A/A experiments looked at daily, far more than one in twenty is called at some time.
The difference between arms has therefore a confidence *sequence*: it covers the truth at all looks
together with probability 1 − α, up to the normal approximation (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas 2021, "Time-uniform central limit theory and asymptotic confidence sequences").
Units, not bookings, are what was randomised; so units are what is counted, and their bookings'
dependence is in their variance. Shares of a day are descriptions with Wilson's interval (1927).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Z95: Final = 1.959964
ENOUGH: Final = 20
"""Fewer outcomes give no interval worth showing."""

ENOUGH_UNITS: Final = 30
"""Units per arm before the normal approximation is trusted."""

RATIO_P: Final = 0.0005
"""Of a split that is less likely than this: something sends units to the wrong arm."""

_TIGHTEST_AT: Final = 400.0  # units at which the sequence is tightest
_MOST_MORE: Final = 100_000

Answer = Literal["no_data", "wrong_split", "too_early", "better", "worse", "undecided", "same"]


@dataclass(frozen=True)
class Interval:
    """A share with its 95 % interval."""

    share: float
    low: float
    high: float


def wilson(count: int, of: int) -> Interval | None:
    """Wilson's score interval of ``count`` of ``of``; None where there are too few."""
    if of < ENOUGH:
        return None
    p, z2 = count / of, Z95**2
    centre = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * math.sqrt(p * (1 - p) / of + z2 / (4 * of**2))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class UnitCount:
    """One randomised unit: bookings with an outcome, and how many of them went well."""

    learned: bool
    good: int
    bookings: int


@dataclass(frozen=True)
class Verdict:
    """What the experiment says about on-time pickups.

    Attributes:
        answer: In a word. ``same``: whatever difference there is, it is below the margin.
        difference: Share on time of the learned arm minus that of the heuristic.
        low: Of the 95 % confidence sequence.
        high: Of the sequence.
        more_bookings: About how many more bookings until the interval could exclude zero, if the
            difference stays what it is; None: not foreseeable.
        bookings: Per arm: heuristic, learned.
        units: Per arm.
    """

    answer: Answer
    difference: float | None
    low: float | None
    high: float | None
    more_bookings: int | None
    bookings: tuple[int, int]
    units: tuple[int, int]


def judge(units: Sequence[UnitCount], share: float, *, margin: float = 0.01) -> Verdict:
    """Judge the experiment.

    Args:
        units: Those with an outcome; one unit per booking, or a unit per block or company.
        share: Of units that should have gone to the learned arm, as they were drawn.
        margin: Differences within ± this are as good as none.
    """
    arms = [[u for u in units if u.learned is learned] for learned in (False, True)]
    n = (len(arms[0]), len(arms[1]))
    counts = (sum(u.bookings for u in arms[0]), sum(u.bookings for u in arms[1]))
    nothing = Verdict("no_data", None, None, None, None, counts, n)
    if not counts[0] or not counts[1]:
        return nothing
    if ratio_p(n, share) < RATIO_P:
        return Verdict("wrong_split", None, None, None, None, counts, n)
    rates = [sum(u.good for u in arm) / c for arm, c in zip(arms, counts, strict=True)]
    difference = rates[1] - rates[0]
    if min(n) < ENOUGH_UNITS:
        spare = math.ceil(2 * max(1.0, sum(counts) / sum(n)) * (ENOUGH_UNITS - min(n)))
        return Verdict("too_early", difference, None, None, spare, counts, n)
    variances = [_variance(arm, rate) for arm, rate in zip(arms, rates, strict=True)]
    total = sum(n)
    # Per-unit variance of the difference, as if all units were one sequence.
    sigma2 = total * sum(v / k for v, k in zip(variances, n, strict=True))
    half = sequence_half_width(total, sigma2)
    low, high = difference - half, difference + half
    answer: Answer = "undecided"
    if low > 0 or high < 0:
        answer = "better" if low > 0 else "worse"
    elif low > -margin and high < margin:
        answer = "same"
    more = _more(total, sigma2, abs(difference), sum(counts)) if answer == "undecided" else None
    return Verdict(answer, difference, low, high, more, counts, n)


def sequence_half_width(n: float, sigma2: float, *, alpha: float = 0.05) -> float:
    """Half the width of the asymptotic confidence sequence after ``n`` units.

    The mixture's parameter makes it tightest near `_TIGHTEST_AT` units (eq. 3 and appendix B.2 of
    the paper).
    """
    if sigma2 <= 0:
        sigma2 = 1.0 / n  # not one bad outcome yet: one in n could be
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / _TIGHTEST_AT
    scaled = n * rho2 + 1  # in units of the standard deviation
    bound = 2 * scaled / (n**2 * rho2) * math.log(math.sqrt(scaled) / alpha)
    return math.sqrt(sigma2 * bound)


def ratio_p(units: tuple[int, int], share: float) -> float:
    """Probability of a split at least as uneven as this (chi-square, one degree of freedom)."""
    if not 0 < share < 1:
        return 1.0  # nothing was drawn: there is no ratio to be wrong
    total = sum(units)
    expected = (total * (1 - share), total * share)
    if min(expected) < 5:
        return 1.0
    chi2 = sum((k - e) ** 2 / e for k, e in zip(units, expected, strict=True))
    return math.erfc(math.sqrt(chi2 / 2))


def _variance(units: Sequence[UnitCount], rate: float) -> float:
    """Variance of a unit's part in the arm's rate (linearised ratio of sums)."""
    mean = sum(u.bookings for u in units) / len(units)
    parts = [(u.good - rate * u.bookings) / mean for u in units]
    return sum(part**2 for part in parts) / max(1, len(units) - 1)


def _more(units: int, sigma2: float, difference: float, bookings: int) -> int | None:
    """Bookings still to come until the interval is as narrow as the difference is wide."""
    if difference < 1e-4:
        return None
    low, high = units, units
    while sequence_half_width(high, sigma2) > difference:
        low, high = high, 2 * high
        if (high - units) * bookings / units > _MOST_MORE:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if sequence_half_width(middle, sigma2) > difference:
            low = middle
        else:
            high = middle
    return max(1, math.ceil((high - units) * bookings / units))
