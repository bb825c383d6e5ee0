"""Notes that what became of a booking was told, or corrected."""

from datetime import datetime

from sqlalchemy.orm import Session

from models import Booking, BookingChange


def note_change(session: Session, booking: Booking, at: datetime) -> None:
    """Have the experiences of a booking worked out again.

    Called in the transaction of the change, so that neither is kept without the other.

    Args:
        session: Writing.
        booking: That changed.
        at: The present moment.
    """
    session.add(BookingChange(company_id=booking.company_id, booking_id=booking.id, changed_at=at))
