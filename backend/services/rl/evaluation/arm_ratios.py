"""Ratios of sums over randomised units, and the difference of two arms.

A share on time is a ratio: bookings on time over bookings. Units are what was randomised, so units
are what is counted; their bookings' dependence is in the unit's sums (linearised ratio, Cochran
1977, ch. 6). All that is needed adds up over units, so that an experiment can be judged at each of
its looks from running sums.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from .sequential import boundary, look_alpha, students

_LEAST: Final = 2


@dataclass(frozen=True)
class Moments:
    """Sums over the units of one arm, for one ratio ``sum(y) / sum(d)``.

    Attributes:
        units: How many; those with nothing in the denominator are left out.
        y: Sum of numerators.
        d: Sum of denominators.
        yy: Sum of squared numerators.
        yd: Sum of products.
        dd: Sum of squared denominators.
    """

    units: int
    y: float
    d: float
    yy: float
    yd: float
    dd: float

    @classmethod
    def of(cls, y: npt.ArrayLike, d: npt.ArrayLike) -> "Moments":
        """Of units with these numerators and denominators, each ``(U,)``."""
        over = np.asarray(d, dtype=np.float64)
        up = np.asarray(y, dtype=np.float64)[over > 0]
        over = over[over > 0]
        return cls(
            len(over), float(up.sum()), float(over.sum()),
            float(up @ up), float(up @ over), float(over @ over),
        )  # fmt: skip

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together."""
        return Moments(
            self.units + other.units, self.y + other.y, self.d + other.d,
            self.yy + other.yy, self.yd + other.yd, self.dd + other.dd,
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """The ratio; 0 without a denominator."""
        return self.y / self.d if self.d else 0.0

    @property
    def mean_size(self) -> float:
        """Mean denominator of a unit."""
        return self.d / self.units if self.units else 0.0

    @property
    def size_cv2(self) -> float:
        """Squared coefficient of variation of the units' denominators."""
        if not self.units:
            return 0.0
        return max(0.0, self.dd / self.units / self.mean_size**2 - 1.0)

    @property
    def unit_variance(self) -> float:
        """Variance of a unit's part in the ratio.

        Where all went the same way it would be 0; one unit in all could still go the other way.
        """
        if self.units < _LEAST:
            return math.inf
        r = self.ratio
        squares = self.yy - 2 * r * self.yd + r * r * self.dd
        variance = squares / self.mean_size**2 / (self.units - 1)
        return variance if variance > 1e-12 else 1.0 / self.units

    @property
    def error2(self) -> float:
        """Squared standard error of the ratio."""
        return self.unit_variance / self.units if self.units else math.inf

    def icc(self) -> float:
        """Intra-cluster correlation of a share within units (moments), between 0 and 1.

        From the variance of a unit's part: p (1 − p) / m · (1 + (m (1 + cv²) − 1) ρ).
        """
        p, spread = self.ratio, self.mean_size * (1 + self.size_cv2) - 1
        if self.units < _LEAST or not 0 < p < 1 or spread <= 1e-9:
            return 0.0
        effect = self.unit_variance * self.mean_size / (p * (1 - p))
        return min(1.0, max(0.0, (effect - 1) / spread))


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; the ends are None where there is too little for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def around(cls, value: float, half: float | None) -> "Estimate":
        """With half the interval's width."""
        if half is None or not math.isfinite(half):
            return cls(value)
        return cls(value, value - half, value + half)


def arm_estimate(moments: Moments, least_units: int) -> Estimate | None:
    """An arm's ratio with its 95 % interval (Student's t over units, for one look)."""
    if not moments.d:
        return None
    half = None
    if moments.units >= max(_LEAST, least_units):
        half = -float(special.stdtrit(moments.units - 1, 0.025)) * math.sqrt(moments.error2)
    return Estimate.around(moments.ratio, half)


def freedom(first: Moments, second: Moments) -> float:
    """Degrees of freedom of a difference (Welch 1947)."""
    a, b = first.error2, second.error2
    return (a + b) ** 2 / (a**2 / (first.units - 1) + b**2 / (second.units - 1))


def half_width(
    first: Moments, second: Moments, *, alpha: float = 0.05, look: int | None = None
) -> float:
    """Half the width of the always-valid interval of the difference of two ratios.

    Args:
        first: One arm.
        second: The other.
        alpha: Probability of ever missing the truth.
        look: Of units that stay: which look this is; None: units arrive.
    """
    if min(first.units, second.units) < _LEAST:
        return math.inf
    error = math.sqrt(first.error2 + second.error2)
    degrees = freedom(first, second)
    if look is not None:
        return -float(special.stdtrit(degrees, look_alpha(look, alpha=alpha) / 2)) * error
    return students(boundary(first.units + second.units, alpha=alpha), degrees) * error
