"""Evidence that an arm is worse, valid at every look: e-processes.

An e-process starts at 1 and, while the arm is no worse, is a non-negative martingale: it ever
reaches 1/α with probability at most α (Ville 1939), however often somebody looks. Mixing over
effect sizes is the mixture SPRT (Robbins 1970; Johari, Pekelis and Walsh 2022).

`ArmComparison` takes its validity from the randomisation alone (Ham, Bojinov, Lindon and Tingley
2023, "Design-based confidence sequences"): if both arms do the same to every booking, outcomes
are what they are, however they bunch by day, hour or traffic jam, and only the arms were drawn.
For a unit with the residual R (bad outcomes less those expected) and the share q of the learned
arm, the factor

    exp(λ (A − q) R) / (q exp(λ (1 − q) R) + (1 − q) exp(−λ q R)),   A = 1 if learned, else 0,

has mean 1 over the draw of A, for any λ and any expectation that do not depend on A. λ is the
logarithm of an odds ratio; `LOG_ODDS` are mixed, divided by the units' overdispersion.

`RateCeiling` bets on block means (Waudby-Smith and Ramdas 2024): the factor 1 + c/p₀ (X − p₀) has
mean at most 1 while a block's expected share X is at most p₀, whatever happens within the block.

So that months without a breach do not make either insensitive, evidence is gathered anew each
day: a week is a mixture of seven e-processes, one begun each day (Shin, Ramdas and Rinaldo 2023,
"E-detectors"), and each week begins afresh. α is thus spent per week.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.rl.simulation.types import FloatArray

LOG_ODDS: Final = np.log(np.array([1.4, 2.0, 4.0]))
STAKES: Final = np.array([0.1, 0.3, 0.6])
DAYS: Final = 7
START_WEIGHTS: Final = np.array([0.4, *([0.1] * (DAYS - 1))])
"""Of the e-processes begun on each day of the week: a candidate that is bad from the start is
what is feared most."""

_PRIOR_BOOKINGS: Final = 20.0
_PRIOR_RATE: Final = 0.1
_LOWEST_RATE: Final = 0.005


@dataclass(frozen=True)
class UnitTotal:
    """What became of one unit's bookings, as far as known when it closes.

    Attributes:
        bad: How many went wrong.
        bookings: How many there were.
        learned: Whether the unit is the learned arm's.
        share: Probability with which it was drawn to be so.
    """

    bad: float
    bookings: float
    learned: bool
    share: float


@dataclass(frozen=True)
class Finding:
    """What the evidence says now.

    Attributes:
        e_value: Evidence against "no worse"; stop at 1/α.
        rate: Of the learned arm, in the run of days that says most.
        other: Of the other arm, or the ceiling.
        bookings: Outcomes (or blocks) of the learned arm in that run.
    """

    e_value: float
    rate: float
    other: float
    bookings: float


class _Week:
    """E-processes begun on the days of a week, and the rates that each rests on."""

    def __init__(self) -> None:
        self._log_e = np.zeros((DAYS, len(LOG_ODDS)))  # a day still to come has evidence 1
        self._bad = np.zeros((DAYS, 2))  # other arm, learned arm; since that day
        self._of = np.zeros((DAYS, 2))
        self._begun = 1

    def add(self, day: int, gain: FloatArray, bad: FloatArray, of: FloatArray) -> None:
        """Take in one block, on a day (0..6): gains ``(3,)``, counts of both arms ``(2,)``."""
        self._begun = max(self._begun, day + 1)
        self._log_e[: day + 1] += gain
        self._bad[: day + 1] += bad
        self._of[: day + 1] += of

    def finding(self) -> tuple[float, FloatArray, float]:
        """The week's e-value; the two rates and the learned arm's count since the telling day."""
        values = START_WEIGHTS * np.exp(np.minimum(self._log_e, 600.0)).mean(axis=1)
        best = int(values[: self._begun].argmax())
        rates = self._bad[best] / np.maximum(1.0, self._of[best])
        return float(values.sum()), rates, float(self._of[best, 1])


class ArmComparison:
    """Is one kind of bad outcome more frequent in the learned arm than in the other?

    For units that close (bookings, switchback blocks): each is weighed once, when it closes.
    """

    def __init__(self) -> None:
        self._week = _Week()
        self._bad, self._of = _PRIOR_BOOKINGS * _PRIOR_RATE, _PRIOR_BOOKINGS
        self._square, self._variance = 1.0, 1.0

    def begin_week(self) -> None:
        """Start the evidence afresh; what outcomes usually look like is kept."""
        self._week = _Week()

    def weigh(self, units: Sequence[UnitTotal], day: int) -> None:
        """Take in the units that closed in one block, on a day (0..6) of the week."""
        if not units:
            return
        bad = np.array([u.bad for u in units])
        of = np.array([u.bookings for u in units])
        share = np.array([u.share for u in units])
        learned = np.array([float(u.learned) for u in units])
        usual = self._bad / self._of
        # The block's own rate enters the expectation: a bad hour is bad for both arms.
        rate = (usual * _PRIOR_BOOKINGS + bad.sum()) / (_PRIOR_BOOKINGS + of.sum())
        rate = min(max(rate, _LOWEST_RATE), 1.0 - _LOWEST_RATE)
        residual = bad - rate * of
        dispersion = max(1.0, self._square / self._variance)
        gain = _log_factors(residual, learned, share, LOG_ODDS / dispersion).sum(axis=1)
        by_arm = np.stack([1.0 - learned, learned])
        self._week.add(day, gain, by_arm @ bad, by_arm @ of)
        self._bad += float(bad.sum())
        self._of += float(of.sum())
        self._square += float((residual**2).sum())
        self._variance += float((of * rate * (1.0 - rate)).sum())

    def finding(self) -> Finding:
        """The evidence now."""
        e_value, rates, count = self._week.finding()
        return Finding(e_value, float(rates[1]), float(rates[0]), count)


def _log_factors(
    residual: FloatArray, learned: FloatArray, share: FloatArray, log_odds: FloatArray
) -> FloatArray:
    """Logarithms of the factors, ``(len(log_odds), U)``; 0 for a unit that was not drawn."""
    drawn = (share > 0.0) & (share < 1.0)
    r, a, q = residual[drawn], learned[drawn], share[drawn]
    tilt = log_odds[:, None] * r
    mean = np.logaddexp(np.log(q) + tilt * (1.0 - q), np.log1p(-q) - tilt * q)
    return np.asarray(tilt * (a - q) - mean)


def standing_evidence(units: Sequence[UnitTotal]) -> Finding:
    """Evidence from units that never close (companies), for one look at given times.

    The e-value of one look: of K looks, each is held against K/α.
    """
    bad = np.array([u.bad for u in units])
    of = np.array([u.bookings for u in units])
    share = np.array([u.share for u in units])
    learned = np.array([u.learned for u in units], dtype=bool)
    if not of.sum():
        return Finding(1.0, 0.0, 0.0, 0.0)
    rate = min(max(bad.sum() / of.sum(), _LOWEST_RATE), 1.0 - _LOWEST_RATE)
    residual = bad - rate * of
    dispersion = max(1.0, float((residual**2).sum() / (of * rate * (1.0 - rate)).sum()))
    gains = _log_factors(residual, learned.astype(float), share, LOG_ODDS / dispersion)
    e_value = float(np.exp(np.minimum(gains.sum(axis=1), 600.0)).mean())
    # Even where chance gave all companies one arm, the e-value stands: its mean is over all draws.
    rates = [float(bad[g].sum() / max(1.0, of[g].sum())) for g in (learned, ~learned)]
    return Finding(e_value, rates[0], rates[1], float(of[learned].sum()))


class RateCeiling:
    """Is the expected share of bad events in a block above a ceiling?"""

    def __init__(self, ceiling: float) -> None:
        self.ceiling = ceiling
        self._week = _Week()

    def begin_week(self) -> None:
        """Start the evidence afresh."""
        self._week = _Week()

    def weigh(self, bad: float, of: float, day: int) -> None:
        """Take in one block with ``bad`` of ``of`` events, on a day (0..6) of the week."""
        if not of:
            return
        gain = np.log1p(STAKES / self.ceiling * (bad / of - self.ceiling))
        self._week.add(day, gain, np.array([0.0, bad]), np.array([0.0, of]))

    def finding(self) -> Finding:
        """The evidence now; ``other`` is the ceiling."""
        e_value, rates, count = self._week.finding()
        return Finding(e_value, float(rates[1]), self.ceiling, count)
