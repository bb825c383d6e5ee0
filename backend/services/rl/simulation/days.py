"""Where days come from: sampled by seed, or read from real history."""

from collections.abc import Sequence
from typing import Protocol

from .scenarios import Split
from .types import Day


class DaySource(Protocol):
    """Real days of a scenario, split by calendar."""

    def labels(self, split: Split) -> Sequence[str]:
        """Dates of a split, in order.

        Raises:
            DataError: If the split is kept elsewhere or has no day.
        """
        ...

    def day(self, label: str) -> Day:
        """The bookings and drivers of one date."""
        ...
