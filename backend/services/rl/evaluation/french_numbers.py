"""Numbers and intervals as the French reports of studies and of the protocol write them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def number(value: float | None, digits: int) -> str:
    """A number as French writes it; a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace(",", "\u202f").replace(".", ",")


def interval(shown: Mapping[str, Any], unit: str = "") -> str:
    """A difference with its interval.

    Args:
        shown: ``mean`` and ``ci95`` (two numbers), None where unknown.
        unit: Written after the mean, with the space before it.
    """
    if shown["mean"] is None:
        return "–"
    mean = f"{'+' if shown['mean'] >= 0 else ''}{number(shown['mean'], 2)}{unit}"
    if shown["ci95"] is None:
        return mean
    low, high = shown["ci95"]
    return f"{mean} [{number(low, 2)} ; {number(high, 2)}]"
