"""Tables of the host's backend that dispatch reads and writes."""

from .assignment import Assignment
from .base import DISPLAY_ZONE, Base, UtcDateTime, shown
from .booking import Booking
from .driver import Driver

__all__ = ["DISPLAY_ZONE", "Assignment", "Base", "Booking", "Driver", "UtcDateTime", "shown"]
