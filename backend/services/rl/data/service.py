"""What became of the bookings of a history: on time, late, not served, called off."""

from dataclasses import dataclass

import numpy as np

from services.rl.simulation.scenarios import Rules
from services.rl.simulation.types import BoolArray

from .dataset import HistoryDays


@dataclass(frozen=True)
class Service:
    """Masks over all bookings of a data set; the four exclude each other and leave none out.

    Attributes:
        on_time: Picked up at most ``on_time_min`` after the promised time.
        late: Picked up later.
        unserved: Due, but never picked up.
        called_off: The patient called it off and was not picked up.
        recorded: Whether the history tells of actual pickups at all; if not, "unserved" means
            unknown.
    """

    on_time: BoolArray
    late: BoolArray
    unserved: BoolArray
    called_off: BoolArray
    recorded: bool

    def shares_of_due(self) -> dict[str, float] | None:
        """Shares of the bookings due (called off ones are not); None if not recorded."""
        due = int((~self.called_off).sum())
        if not self.recorded or due == 0:
            return None
        return {
            name: float(getattr(self, name).sum()) / due for name in ("on_time", "late", "unserved")
        }


def service_of(history: HistoryDays, on_time_min: float = Rules().on_time_min) -> Service:
    """Classify every booking of a data set."""
    pickup = history.outcomes["pickup_min"]
    served = ~np.isnan(pickup)
    with np.errstate(invalid="ignore"):
        prompt = served & (pickup - history.bookings["promised_min"] <= on_time_min)
    called_off = ~served & np.isfinite(history.bookings["cancelled_min"])
    return Service(
        on_time=prompt,
        late=served & ~prompt,
        unserved=~served & ~called_off,
        called_off=called_off,
        recorded=bool(served.any()),
    )
