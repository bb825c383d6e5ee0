"""Drivers, each with a vehicle."""

from datetime import time

from sqlalchemy import Time
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base
from .column_types import Flag, Word


class Driver(Base):
    """One driver with a vehicle, a type and a daily shift."""

    __tablename__ = "driver"

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(index=True)
    driver_type: Mapped[str] = mapped_column(Word(20), default="REGULAR")  # or EMERGENCY
    is_active: Mapped[bool] = mapped_column(default=True)
    wheelchair_vehicle: Mapped[bool] = mapped_column(Flag, default=False)
    shift_start: Mapped[time] = mapped_column(Time)  # on the local clock
    shift_end: Mapped[time] = mapped_column(Time)  # at or before shift_start: after midnight
    home_lat: Mapped[float | None]  # where the shift starts, WGS-84 degrees
    home_lon: Mapped[float | None]
