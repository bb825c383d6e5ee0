"""What really happens to drivers and patients; the dispatcher only hears of it.

Every driver does its jobs in the order in which they were given, leaves just in time, and waits at
the pickup until the promised time; streets are slower or faster than planned. A job that has begun
goes to its end; one that has not can still be taken away. Draws belong to the booking, not to the
policy: whoever serves it, the patient is there or not.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from services.rl.simulation.travel import TravelTables, arrive_min, depart_min

from ..dispatching.reach import km_between

Place = tuple[float, float]
HappeningKind = Literal["picked_up", "completed", "no_show"]

SPREAD = 0.12
"""Log-normal spread of a drive's time around the plan."""

NO_SHOW_WAIT_MIN = 5.0
"""How long a driver looks for a patient who is not there."""


@dataclass(frozen=True)
class Luck:
    """What the streets and the patient have in store for one booking.

    Attributes:
        deadhead: Factor on the way to the pickup.
        trip: Factor on the way with the patient.
        no_show: Nobody will be there.
    """

    deadhead: float
    trip: float
    no_show: bool


def luck_of(seed: int, booking_id: int, no_show_share: float) -> Luck:
    """The same for whoever serves the booking."""
    random = np.random.default_rng((seed, booking_id))
    spread = random.lognormal(0.0, SPREAD, 2)
    return Luck(float(spread[0]), float(spread[1]), bool(random.random() < no_show_share))


@dataclass(frozen=True)
class Job:
    """A booking given to a driver; minutes of the operating day."""

    booking_id: int
    assignment_id: int
    assigned_min: float
    promised_min: float
    pickup: Place
    dropoff: Place
    pickup_service_min: float
    dropoff_service_min: float
    luck: Luck


@dataclass(frozen=True)
class Happening:
    """Something that happened on the street."""

    at_min: float
    kind: HappeningKind
    driver_id: int
    job: Job
    pickup_min: float
    place: Place


@dataclass
class DriverOnDuty:
    """One driver's day.

    Attributes:
        place: Where the driver is free next.
        free_min: When.
        queue: Jobs that have not begun.
        begun: Bookings that have begun: they cannot be taken away.
    """

    driver_id: int
    place: Place
    free_min: float
    queue: deque[Job] = field(default_factory=deque)
    begun: set[int] = field(default_factory=set)


class Streets:
    """All drivers of a company for one day.

    Args:
        tables: Travel times as planned.
        drivers: On duty.
    """

    def __init__(self, tables: TravelTables, drivers: list[DriverOnDuty]) -> None:
        self._tables = tables
        self.drivers = {driver.driver_id: driver for driver in drivers}
        self._coming: list[Happening] = []

    def give(self, driver_id: int, job: Job) -> None:
        """Put a job behind what the driver has."""
        self.drivers[driver_id].queue.append(job)

    def take_away(self, assignment_id: int) -> bool:
        """Take back a job that has not begun; whether it was there."""
        for driver in self.drivers.values():
            for job in driver.queue:
                if job.assignment_id == assignment_id:
                    driver.queue.remove(job)
                    return True
        return False

    def under_way(self, booking_id: int) -> bool:
        """Whether somebody is on the way to the patient, or has them."""
        return any(booking_id in driver.begun for driver in self.drivers.values())

    def until(self, now_min: float) -> list[Happening]:
        """Let time pass; what has happened by now, in order."""
        for driver in self.drivers.values():
            while driver.queue and self._depart(driver, driver.queue[0]) <= now_min:
                self._begin(driver, driver.queue.popleft())
        due = sorted(
            (h for h in self._coming if h.at_min <= now_min),
            key=lambda h: (h.at_min, h.job.assignment_id, h.kind != "picked_up"),
        )
        self._coming = [h for h in self._coming if h.at_min > now_min]
        return due

    def _depart(self, driver: DriverOnDuty, job: Job) -> float:
        """When the driver leaves for a job: just in time, not before it was given."""
        free = max(driver.free_min, job.assigned_min)
        if job.promised_min <= free:
            return free
        km = km_between(self._tables, driver.place, job.pickup)
        return max(free, depart_min(self._tables, job.promised_min, km, 0, 0))

    def _begin(self, driver: DriverOnDuty, job: Job) -> None:
        depart = self._depart(driver, job)
        km = km_between(self._tables, driver.place, job.pickup)
        way = arrive_min(self._tables, depart, km, 0, 0) - depart
        pickup = max(depart + way * job.luck.deadhead, job.promised_min)
        driver.begun.add(job.booking_id)
        if job.luck.no_show:
            over = pickup + NO_SHOW_WAIT_MIN
            self._coming.append(
                Happening(over, "no_show", driver.driver_id, job, pickup, job.pickup)
            )
            driver.place, driver.free_min = job.pickup, over
            return
        leave = pickup + job.pickup_service_min
        km = km_between(self._tables, job.pickup, job.dropoff)
        ride = arrive_min(self._tables, leave, km, 0, 0) - leave
        dropoff = leave + max(ride * job.luck.trip, 0.5)
        self._coming += [
            Happening(pickup, "picked_up", driver.driver_id, job, pickup, job.pickup),
            Happening(dropoff, "completed", driver.driver_id, job, pickup, job.dropoff),
        ]
        driver.place, driver.free_min = job.dropoff, dropoff + job.dropoff_service_min
