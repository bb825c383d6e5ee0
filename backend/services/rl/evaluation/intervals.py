"""Intervals of shares: Wilson's for one share, and how many outcomes make an interval worth it."""

import math
from dataclasses import dataclass
from typing import Final

Z95: Final = 1.959964
ENOUGH: Final = 20
"""Fewer outcomes give no interval worth showing."""


@dataclass(frozen=True)
class Interval:
    """A share with its 95 % interval."""

    share: float
    low: float
    high: float


def wilson(count: int, of: int) -> Interval | None:
    """Wilson's score interval (1927) of ``count`` of ``of``; None where there are too few."""
    if of < ENOUGH:
        return None
    p, z2 = count / of, Z95**2
    centre = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * math.sqrt(p * (1 - p) / of + z2 / (4 * of**2))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))
