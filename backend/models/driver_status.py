"""Where a driver is and whether they work right now."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, UtcDateTime


class DriverStatus(Base):
    """The present state of one driver; the plan of their working day stays in `Driver`.

    ``shift_start_at`` and ``shift_end_at`` override the daily shift for today; None: as in
    `Driver`. Not ``on_shift`` with a ``shift_end_at`` of today: went off; without one, nothing was
    said. A row goes with its driver when the host deletes one: our tables never stand in the
    way of the host's.
    """

    __tablename__ = "driver_status"

    driver_id: Mapped[int] = mapped_column(
        ForeignKey("driver.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    company_id: Mapped[int] = mapped_column(index=True)
    lat: Mapped[float | None]  # WGS-84 degrees; None: no position yet
    lon: Mapped[float | None]
    position_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    on_shift: Mapped[bool] = mapped_column(default=False)
    shift_start_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    shift_end_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    down: Mapped[bool] = mapped_column(default=False)  # vehicle out of service right now
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
