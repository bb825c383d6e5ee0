"""How many days must an experiment run? By the always-valid test's own boundary, or read once.

The variance of a unit's part in an arm's share p is p (1 − p) / m · (1 + (m (1 + cv²) − 1) ρ): m
bookings per unit, cv their spread, ρ the intra-cluster correlation. Of units that arrive the
number needed follows; for the always-valid test it is found by letting Brownian motions with the
effect's drift run against the test's boundary (it may be crossed at any look, which a formula for
one look would not know). Units that stay are a given number: more days only sharpen each one's
share, and past a point add nothing; then no number of days is enough, and that is said.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from scipy import special

from services.rl.errors import UsageError
from services.rl.simulation.types import FloatArray

from .arm_ratios import Moments
from .sequential import ENOUGH_STAYING, ENOUGH_UNITS, boundary, look_alpha, look_day, students

MOST_DAYS: Final = 3650
"""An experiment that takes longer is none."""

_MOST_LOOKS: Final = 8
_PATHS, _STEPS, _PATH_SEED = 2000, 240, 20210303


@dataclass(frozen=True)
class Question:
    """What is to be found out, and on what.

    Attributes:
        rate: Share of the heuristic arm (on time).
        effect: Difference of shares to be found (0.03: three points), of either sign.
        bookings_per_day: With an outcome, both arms together.
        bookings_per_unit: Mean of a unit that arrives (1: bookings are drawn one by one).
        size_cv2: Squared coefficient of variation of the units' bookings.
        icc: Intra-cluster correlation of outcomes within a unit.
        companies: Of units that stay: how many; None: units arrive.
        share: Of units that go to the learned arm.
        alpha: Probability of a false call, at all looks together.
        power: Probability of finding the effect.
    """

    rate: float
    effect: float = 0.03
    bookings_per_day: float = 85.0
    bookings_per_unit: float = 1.0
    size_cv2: float = 0.0
    icc: float = 0.0
    companies: int | None = None
    share: float = 0.5
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        """Check what a person may have typed.

        Raises:
            UsageError: Naming the field that is wrong.
        """
        for name in ("rate", "share", "alpha", "power"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"power: {name} {getattr(self, name)} is not between 0 and 1")
        if not 0 < abs(self.effect) < 1 or not 0 < self.rate + self.effect < 1:
            raise UsageError(
                f"power: effect {self.effect} from a rate of {self.rate} leaves the shares 0 to 1"
            )
        for name, least in (("bookings_per_day", 0.0), ("bookings_per_unit", 0.0)):
            if not getattr(self, name) > least:
                raise UsageError(f"power: {name} {getattr(self, name)} is not above 0")
        if not 0 <= self.icc <= 1 or self.size_cv2 < 0:
            raise UsageError(f"power: icc {self.icc} is not between 0 and 1, or size_cv2 below 0")
        if self.companies is not None and self.companies < 2 * ENOUGH_STAYING:
            raise UsageError(
                f"power: companies {self.companies}: the test wants {ENOUGH_STAYING} in each arm"
            )

    @classmethod
    def from_history(
        cls, history: Moments, days: float, *, stay: bool = False, **fields: float
    ) -> "Question":
        """A question about units like those of a history without (or before) an experiment.

        Args:
            history: Good bookings over bookings, by unit (block; company over all ``days``).
            days: That the history covers.
            stay: Units are companies.
            fields: Effect, share, alpha, power.

        Raises:
            UsageError: If the history says nothing, or leaves no room for the effect.
        """
        if not history.units or not 0 < history.ratio < 1 or not days > 0:
            raise UsageError("power: the history has no bookings, or all went the same way")
        question = cls(
            rate=history.ratio,
            bookings_per_day=history.d / days,
            bookings_per_unit=history.mean_size,
            size_cv2=history.size_cv2,
            icc=history.icc(),
            companies=history.units if stay else None,
            share=fields.get("share", 0.5),
            effect=fields.get("effect", 0.03),
        )
        return replace(
            question,
            alpha=fields.get("alpha", question.alpha),
            power=fields.get("power", question.power),
        )

    def variance(self) -> float:
        """Of the arms' difference, times the number of units (those that arrive)."""
        size = self.bookings_per_unit
        design = 1 + max(0.0, size * (1 + self.size_cv2) - 1) * self.icc
        rates = (self.rate, self.rate + self.effect)
        control, learned = (p * (1 - p) / size * design for p in rates)
        return learned / self.share + control / (1 - self.share)

    @property
    def units_per_day(self) -> float:
        """Of those that arrive."""
        return self.bookings_per_day / self.bookings_per_unit

    @property
    def least_units(self) -> float:
        """Below which the always-valid test says "too early"."""
        return ENOUGH_UNITS / min(self.share, 1 - self.share)


@dataclass(frozen=True)
class DaysNeeded:
    """Days until the effect is found with the power asked for; None: no number of days is enough.

    Attributes:
        always_valid: By the test that may be looked at all the time.
        fixed: By a test that is looked at once, on a day fixed before.
    """

    always_valid: float | None
    fixed: float | None


def days_needed(question: Question) -> DaysNeeded:
    """How many days the experiment takes."""
    if question.companies is not None:
        return DaysNeeded(_staying_looks(question), _staying_fixed(question))
    effect, variance = abs(question.effect), question.variance()
    once = special.ndtri(1 - question.alpha / 2) + special.ndtri(question.power)
    fixed = once**2 * variance / effect**2
    theta = effect / math.sqrt(variance)
    units = units_to_cross(theta, question.least_units, question.power, question.alpha)
    return DaysNeeded(_days(units / question.units_per_day), _days(fixed / question.units_per_day))


def units_to_cross(theta: float, start: float, power: float, alpha: float) -> float:
    """Units until a share ``power`` of experiments has crossed the confidence sequence's boundary.

    Args:
        theta: Effect, in standard deviations of one unit's part in the difference.
        start: Units before which nothing is called.
        power: Between 0 and 1.
        alpha: Of the sequence.
    """
    last = start
    while boundary(last, alpha=alpha) + special.ndtri(power) > theta * math.sqrt(last):
        last *= 1.25
        if last > 1e9:
            return math.inf
    last *= 1.1
    grid = np.geomspace(start, last, _STEPS)
    steps = np.diff(grid, prepend=0.0)
    sums = np.cumsum(_normals() * np.sqrt(steps), axis=1) + theta * grid
    bounds = np.array([boundary(n, alpha=alpha) for n in grid]) * np.sqrt(grid)
    crossed = np.logical_or.accumulate(np.abs(sums) > bounds, axis=1).mean(axis=0)
    return float(grid[min(int(np.searchsorted(crossed, power)), _STEPS - 1)])


@lru_cache(maxsize=1)
def _normals() -> FloatArray:
    """The same noise for every question: answers compare, and do not flicker."""
    return np.random.default_rng(_PATH_SEED).standard_normal((_PATHS, _STEPS))


def _staying_error(question: Question, days: float) -> float:
    """Standard error of the difference between groups of companies after so many days."""
    assert question.companies is not None
    per_company = question.bookings_per_day / question.companies * days
    rates = (question.rate, question.rate + question.effect)
    spread = [p * (1 - p) * (question.icc + (1 - question.icc) / per_company) for p in rates]
    control, learned = spread[0] / (1 - question.share), spread[1] / question.share
    return math.sqrt((control + learned) / question.companies)


def _staying_looks(question: Question) -> float | None:
    """The look at which the effect is found with the power asked for."""
    assert question.companies is not None
    for look in range(1, _MOST_LOOKS + 1):
        days = look_day(look)
        level = look_alpha(look, alpha=question.alpha) / 2
        needed = students(-special.ndtri(level), question.companies - 2)
        if _found(question, days, needed):
            return float(days)
    return None


def _staying_fixed(question: Question) -> float | None:
    assert question.companies is not None
    needed = students(-special.ndtri(question.alpha / 2), question.companies - 2)
    if not _found(question, MOST_DAYS, needed):
        return None
    low, high = 0.0, float(MOST_DAYS)
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (low, middle) if _found(question, middle, needed) else (middle, high)
    return high


def _found(question: Question, days: float, needed: float) -> bool:
    away = abs(question.effect) / _staying_error(question, days)
    return bool(special.ndtr(away - needed) >= question.power)


def _days(value: float) -> float | None:
    return value if value <= MOST_DAYS else None
