"""What comes before every policy: a person's word (pins), and patients who are overdue.

A policy weighs a booking against others, and may put one that is overdue off at every epoch: its
window is stretched to what can still be met, and it can be met later just as well. So whoever can
be there first is sent, at once.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from models import Booking
from services.rl.experiments.routed import Routed
from services.rl.policies.base import Decision as PolicyDecision
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables

from .fates import Fate
from .fleet import Fleet, may_serve
from .schedule import Planned, Schedule


@dataclass(frozen=True)
class Preceding:
    """A booking that no policy decides at this epoch.

    Attributes:
        booking: The booking.
        driver_id: Who takes it.
        job: As the driver would do it; committed now if it is due.
        due: It is committed now; else it waits for its time or a place.
        by: A person, or the rule about overdue patients.
    """

    booking: Booking
    driver_id: int
    job: Planned
    due: bool
    by: Literal["human", "overdue"]

    def routed(self, arm: str, unit: str) -> Routed:
        """As if an arm had decided it.

        Args:
            arm: Who answers for it.
            unit: Of the experiment.
        """
        return Routed(
            booking_id=str(self.booking.id),
            driver_id=str(self.driver_id) if self.due else None,
            arm=arm,
            unit=unit,
            policy=self.by,
            model="",
            fallback_reason=None,
            latency_ms=0.0,
            decision=PolicyDecision(-1, None),
        )

    def fate(
        self,
        fleet: Fleet,
        routed: Routed,
        again: datetime,
        *,
        decision_id: str = "",
        assignment_id: int | None = None,
    ) -> Fate:
        """What becomes of it at this epoch; see `Fate.of`."""
        return Fate.of(
            fleet,
            self.booking.id,
            routed,
            self.job if self.due else None,
            (fleet.day.instant(self.job.depart_min), True),
            again,
            decision_id=decision_id,
            assignment_id=assignment_id,
        )


def set_aside(
    fleet: Fleet, scenario: Scenario, tables: TravelTables
) -> tuple[Fleet, tuple[Preceding, ...]]:
    """The fleet as policies may see it, and what they do not decide.

    A pin that cannot be kept (the driver is not active, out of service, or has the wrong vehicle)
    does not count: the patient is not to wait for it. Where the driver's queue is full the booking
    waits for a place. An overdue booking for which nobody has a place before the end of their work
    stays with the policies. What is due is in its driver's work already.
    """
    if not any(b.id in fleet.pins or b.id in fleet.stretched for b in fleet.bookings):
        return fleet, ()
    state = fleet.state
    row_of = {driver.id: d for d, driver in enumerate(fleet.drivers)}
    fits = may_serve(state.bookings, state.drivers, scenario)
    schedule = Schedule(fleet, tables)
    capacity = 1 + scenario.rules.queue
    found: dict[int, Preceding] = {}
    for b in _by_need(fleet):
        booking = fleet.bookings[b]
        driver_id = fleet.pins.get(booking.id)
        d = None if driver_id is None else row_of.get(driver_id)
        if driver_id is not None and d is not None and fits[d, b]:
            job = schedule.planned(d, b)
            due = job.depart_min < state.now_min + scenario.rules.epoch_min
            due = due and schedule.committed(d) < capacity
            job = schedule.add(d, b) if due else job
            found[b] = Preceding(booking, driver_id, job, due, "human")
        elif booking.id in fleet.stretched:
            first = _first_there(fleet, scenario, schedule, fits, b)
            if first is not None:
                job = schedule.add(first, b)
                found[b] = Preceding(booking, fleet.drivers[first].id, job, True, "overdue")
    kept = [b for b in range(len(fleet.bookings)) if b not in found]
    seen = replace(
        state,
        drivers=schedule.drivers(),
        bookings=state.bookings[np.array(kept, dtype=np.int64)],
        booking_ids=tuple(state.booking_ids[b] for b in kept),
    )
    reduced = replace(fleet, state=seen, bookings=tuple(fleet.bookings[b] for b in kept))
    return reduced, tuple(found.values())


def _by_need(fleet: Fleet) -> list[int]:
    """Rows of bookings: the overdue first, the most urgent and longest waiting before others."""
    rows = fleet.state.bookings
    return sorted(
        range(len(fleet.bookings)),
        key=lambda b: (
            fleet.bookings[b].id not in fleet.stretched,
            -int(rows["priority"][b]),
            float(rows["promised_min"][b]),
        ),
    )


def _first_there(
    fleet: Fleet, scenario: Scenario, schedule: Schedule, fits: np.ndarray, booking: int
) -> int | None:
    """Row of the driver with a place who picks up first, the nearest of equals."""
    best: tuple[float, float, int] | None = None
    for d in np.flatnonzero(fits[:, booking]).tolist():
        if schedule.committed(d) > scenario.rules.queue:
            continue
        job = schedule.planned(d, booking)
        end = float(fleet.state.drivers["shift_end_min"][d]) + scenario.rules.overtime_min
        if job.done_min <= end:
            best = min(best or (np.inf, 0.0, 0), (job.pickup_min, job.deadhead_km, d))
    return None if best is None else best[2]
