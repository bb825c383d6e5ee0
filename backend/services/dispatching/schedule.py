"""When a driver would do a job: the simulator's clock for commitments about to be made."""

from dataclasses import dataclass
from typing import Any

from services.rl.simulation.travel import TravelTables, arrive_min, depart_min
from services.rl.simulation.types import DispatchState

from .fleet import Fleet
from .reach import km_between


@dataclass(frozen=True)
class Planned:
    """A job as it would be done; minutes of the operating day.

    Attributes:
        depart_min: When the driver leaves for the pickup.
        pickup_min: When boarding begins.
        dropoff_min: When the vehicle is at the destination.
        done_min: When the driver is free again.
        deadhead_km: Empty way.
        drive_min: Of the empty way.
        late_min: After the end of the booking's own window.
        wait_min: After the promised time.
    """

    depart_min: float
    pickup_min: float
    dropoff_min: float
    done_min: float
    deadhead_km: float
    drive_min: float
    late_min: float
    wait_min: float


class Schedule:
    """The fleet with what is committed so far; `add` appends to a driver's queue."""

    def __init__(self, fleet: Fleet, tables: TravelTables) -> None:
        self._begin(fleet.state, tables)

    @classmethod
    def of_state(cls, state: DispatchState, tables: TravelTables) -> "Schedule":
        """From a state alone, such as a logged one."""
        made = cls.__new__(cls)
        made._begin(state, tables)
        return made

    def _begin(self, state: DispatchState, tables: TravelTables) -> None:
        self._drivers: Any = state.drivers.copy()
        self._bookings: Any = state.bookings
        self._now = state.now_min
        self._tables = tables
        own = state.extra.get("own_window_end_min", {})  # of overdue bookings, before stretching
        self._window_end = [
            float(own.get(name, end))
            for name, end in zip(
                state.booking_ids, state.bookings["window_end_min"].tolist(), strict=True
            )
        ]

    def planned(self, driver: int, booking: int) -> Planned:
        """The job if this driver row took this booking row next."""
        d, b, tables = self._drivers[driver], self._bookings[booking], self._tables
        pickup_at = (float(b["pickup_lat"]), float(b["pickup_lon"]))
        dropoff_at = (float(b["dropoff_lat"]), float(b["dropoff_lon"]))
        km = km_between(tables, (float(d["lat"]), float(d["lon"])), pickup_at)
        free = max(self._now, float(d["free_at_min"]))
        promised = float(b["promised_min"])
        depart = free
        if promised > free:
            depart = max(free, depart_min(tables, promised, km, 0, 0))
        arrive = arrive_min(tables, depart, km, 0, 0)
        pickup = max(arrive, promised)
        leave = pickup + float(b["pickup_service_min"])
        dropoff = arrive_min(tables, leave, km_between(tables, pickup_at, dropoff_at), 0, 0)
        return Planned(
            depart_min=depart,
            pickup_min=pickup,
            dropoff_min=dropoff,
            done_min=dropoff + float(b["dropoff_service_min"]),
            deadhead_km=km,
            drive_min=arrive - depart,
            late_min=max(0.0, pickup - self._window_end[booking]),
            wait_min=pickup - promised,
        )

    def add(self, driver: int, booking: int) -> Planned:
        """Append the job to the driver's queue."""
        job = self.planned(driver, booking)
        row, b = self._drivers[driver], self._bookings[booking]
        row["lat"], row["lon"] = b["dropoff_lat"], b["dropoff_lon"]
        row["free_at_min"] = job.done_min
        row["committed"] += 1
        return job

    def committed(self, driver: int) -> int:
        """Jobs in progress or queued."""
        return int(self._drivers[driver]["committed"])

    def drivers(self) -> Any:
        """Rows of the drivers as they are with everything added."""
        return self._drivers.copy()
