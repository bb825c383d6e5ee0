"""Pinned bookings: a person's word comes before every policy."""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from models import Booking
from services.rl.experiments.routed import Routed
from services.rl.policies.base import Decision as PolicyDecision
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables

from .fates import Fate
from .fleet import Fleet
from .reach import may_serve
from .schedule import Planned, Schedule


@dataclass(frozen=True)
class Pinned:
    """A pinned booking at this epoch.

    Attributes:
        booking: The booking.
        driver_id: Whom it is pinned to.
        job: As the driver would do it; committed now if it is due.
        due: The driver must leave before the next epoch.
    """

    booking: Booking
    driver_id: int
    job: Planned
    due: bool

    def routed(self) -> Routed:
        """As if an arm had decided it."""
        return Routed(
            booking_id=str(self.booking.id),
            driver_id=str(self.driver_id) if self.due else None,
            arm="human",
            unit="",
            policy="human",
            model="",
            fallback_reason=None,
            latency_ms=0.0,
            decision=PolicyDecision(-1, None),
        )

    def fate(
        self,
        fleet: Fleet,
        again: datetime,
        *,
        decision_id: str = "",
        assignment_id: int | None = None,
    ) -> Fate:
        """What becomes of it at this epoch; see `Fate.of`."""
        return Fate.of(
            fleet,
            self.booking.id,
            self.routed(),
            self.job if self.due else None,
            (fleet.day.instant(self.job.depart_min), True),
            again,
            decision_id=decision_id,
            assignment_id=assignment_id,
        )


def set_pins_aside(
    fleet: Fleet, scenario: Scenario, tables: TravelTables
) -> tuple[Fleet, tuple[Pinned, ...]]:
    """The fleet as policies may see it, without pinned bookings; and what becomes of those.

    A pin that cannot be kept (the driver is not active, went off shift, is out of service, or has
    the wrong vehicle) does not count: the patient is not to wait for it. Where the driver's queue
    is full the booking waits for a place. A booking that is due is in the driver's work already.
    """
    if not any(booking.id in fleet.pins for booking in fleet.bookings):
        return fleet, ()
    state = fleet.state
    row_of = {driver.id: d for d, driver in enumerate(fleet.drivers)}
    fits = may_serve(state.bookings, state.drivers, scenario)
    kept: list[int] = []
    pinned: list[Pinned] = []
    schedule = Schedule(fleet, tables)
    capacity = 1 + scenario.rules.queue
    for b, booking in enumerate(fleet.bookings):
        driver_id = fleet.pins.get(booking.id)
        d = None if driver_id is None else row_of.get(driver_id)
        if driver_id is None or d is None or driver_id in fleet.off or not fits[d, b]:
            kept.append(b)
            continue
        job = schedule.planned(d, b)
        due = job.depart_min < state.now_min + scenario.rules.epoch_min
        if due and schedule.committed(d) < capacity:
            pinned.append(Pinned(booking, driver_id, schedule.add(d, b), True))
        else:
            pinned.append(Pinned(booking, driver_id, job, False))
    rows = np.array(kept, dtype=np.int64)
    seen = replace(
        state,
        drivers=schedule.drivers(),
        bookings=state.bookings[rows],
        booking_ids=tuple(state.booking_ids[b] for b in kept),
    )
    return replace(fleet, state=seen, bookings=tuple(fleet.bookings[b] for b in kept)), tuple(
        pinned
    )
