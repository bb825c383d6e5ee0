"""Write what was decided: the state, the log, assignments and commitments, in one transaction.

The transaction checks that nothing the decision rests on has changed. Two keys of the table
``commitment`` stand behind that check: one row per booking, one per place of a driver.
"""

import hashlib
import uuid
import zlib
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import numpy as np
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from models import Assignment, Booking, Commitment, Decision, FleetSnapshot
from routes.statuses import ASSIGNED, PENDING
from services.rl.ab_dispatcher import RoutedEpoch
from services.rl.experiments.routed import Routed
from services.rl.simulation.observation import LAYOUT_VERSION
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import STATE_SCHEMA

from .fates import ConflictError, Epoch, Fate, Limit
from .fleet import Fleet
from .pins import Pinned
from .schedule import Planned, Schedule
from .situation import latest_departures

# Built once, and written as plain rows: they run at every decision.
_INSERT_SNAPSHOT = insert(FleetSnapshot.__table__).returning(FleetSnapshot.id)  # type: ignore[arg-type]
_INSERT_DECISION = insert(Decision.__table__)  # type: ignore[arg-type]
_INSERT_ASSIGNMENT = insert(Assignment.__table__).returning(Assignment.id)  # type: ignore[arg-type]
_INSERT_COMMITMENT = insert(Commitment.__table__)  # type: ignore[arg-type]
_SET_STATUS = (
    update(Booking.__table__)  # type: ignore[arg-type]
    .where(Booking.id == bindparam("booking"))
    .values(status=bindparam("now"))
)
# What a plan rests on: a booking that was edited meanwhile is not the one that was decided.
_PLANNED_BY = (
    "id", "scheduled_time", "pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon",
    "wheelchair_need",
)  # fmt: skip
_planned_by = attrgetter(*_PLANNED_BY)
_STILL_OPEN = (
    select(*(Booking.__table__.c[name] for name in _PLANNED_BY))
    .where(Booking.id.in_(bindparam("bookings", expanding=True)), Booking.status == PENDING)
    .order_by(Booking.id)
    .with_for_update()
)
_JOBS_OF = select(
    Commitment.driver_id, Commitment.booking_id, Commitment.order_no, Commitment.state
).where(Commitment.driver_id.in_(bindparam("drivers", expanding=True)))


class Ledger:
    """Writes epochs.

    Args:
        scenario: Rules.
        tables: Travel times.
    """

    def __init__(self, scenario: Scenario, tables: TravelTables) -> None:
        self._scenario = scenario
        self._tables = tables

    def commit(
        self,
        session: Session,
        company_id: int,
        fleet: Fleet,
        decided: RoutedEpoch,
        pinned: Sequence[Pinned],
        at: datetime,
    ) -> Epoch:
        """Write an epoch; the session is rolled back by what is raised.

        Args:
            session: Writing.
            company_id: Whose.
            fleet: As the policies saw it.
            decided: By the arms.
            pinned: By people.
            at: The epoch's moment.

        Raises:
            ConflictError: If a booking or a driver has changed since the fleet was read.
        """
        row_of_booking = {name: i for i, name in enumerate(fleet.state.booking_ids)}
        row_of_driver = {name: i for i, name in enumerate(fleet.state.driver_ids)}
        assigned = decided.assignments
        kept = [pin for pin in pinned if pin.due]
        self._check_unchanged(
            session,
            fleet,
            [
                (fleet.bookings[row_of_booking[r.booking_id]], int(r.driver_id))
                for r in assigned
                if r.driver_id is not None
            ]
            + [(pin.booking, pin.driver_id) for pin in kept],
        )
        snapshot_id = self.snapshot(session, company_id, fleet, at)
        schedule = Schedule(fleet, self._tables)
        plan_hash = _hash(decided.plan)
        again = fleet.day.instant(fleet.state.now_min + self._scenario.rules.epoch_min)
        limits = self.limits(fleet)
        places = _Places(fleet)
        fates: list[Fate] = []
        decisions: list[dict[str, Any]] = []
        for pin in pinned:
            fates.append(self._keep_pin(session, fleet, snapshot_id, len(fates), pin, places, at))
        for seq, routed in enumerate([*decided.decisions, *decided.shadow], start=len(fates)):
            row = row_of_booking[routed.booking_id]
            booking = fleet.bookings[row]
            decision_id = uuid.uuid4().hex
            job = None
            driver_row = None if routed.driver_id is None else row_of_driver[routed.driver_id]
            if driver_row is not None:
                job = schedule.planned(driver_row, row)
            assigns = driver_row is not None
            decisions.append(
                {
                    "id": decision_id,
                    "snapshot_id": snapshot_id,
                    "seq": seq,
                    "company_id": company_id,
                    "booking_id": booking.id,
                    "driver_id": None if routed.driver_id is None else int(routed.driver_id),
                    "action": "assign" if assigns else "defer",
                    "k": routed.k,
                    "propensity": routed.propensity,
                    "arm": routed.arm,
                    "unit": routed.unit,
                    "model": routed.model or None,
                    "layout": LAYOUT_VERSION,
                    "score": _finite(routed.decision.score),
                    "features": _features(routed, job),
                    "latency_ms": routed.latency_ms,
                    "fallback_reason": routed.fallback_reason,
                    "plan_hash": plan_hash,
                    "decided_at": at,
                    "decide_again_at": None if assigns else again,
                    "must_decide_by": limits[row][0],
                    "shadow": routed.shadow,
                }
            )
            if routed.shadow:
                continue
            assignment = None
            if driver_row is not None:
                job = schedule.add(driver_row, row)
                driver_id = fleet.drivers[driver_row].id
                assignment = self._assign(
                    session, fleet, booking, driver_id, places, decision_id, job, at
                )
            fates.append(
                Fate.of(
                    fleet, booking.id, routed, job, limits[row], again,
                    decision_id=decision_id,
                    assignment_id=assignment,
                )
            )  # fmt: skip
        if decisions:
            session.connection().execute(_INSERT_DECISION, decisions)
        return Epoch(company_id, at, tuple(fates), snapshot_id)

    def _check_unchanged(
        self, session: Session, fleet: Fleet, assigned: Sequence[tuple[Any, int]]
    ) -> None:
        """The bookings assigned are open and as they were, and their drivers have the same jobs.

        Raises:
            ConflictError: Otherwise.
        """
        if not assigned:
            return
        bookings = sorted(_planned_by(booking) for booking, _ in assigned)
        connection = session.connection()
        open_ = connection.execute(_STILL_OPEN, {"bookings": [each[0] for each in bookings]})
        if [tuple(row) for row in open_] != bookings:
            raise ConflictError
        drivers = {driver for _, driver in assigned}
        now: dict[int, set[tuple[int, int, str]]] = {driver: set() for driver in drivers}
        for row in connection.execute(_JOBS_OF, {"drivers": sorted(drivers)}):
            now[row.driver_id].add((row.booking_id, row.order_no, row.state))
        for driver in drivers:
            before = {(c.booking_id, c.order_no, c.state) for c in fleet.commitments[driver]}
            if before != now[driver]:
                raise ConflictError

    def _assign(
        self,
        session: Session,
        fleet: Fleet,
        booking: Any,
        driver_id: int,
        places: "_Places",
        decision_id: str,
        job: Planned,
        at: datetime,
    ) -> int:
        write = session.connection().execute
        taken = {
            "booking_id": booking.id, "driver_id": driver_id, "assigned_at": at,
            "status": ASSIGNED,
        }  # fmt: skip
        assignment_id = int(write(_INSERT_ASSIGNMENT, taken).scalar_one())
        write(_SET_STATUS, {"booking": booking.id, "now": ASSIGNED})
        slot, order_no = places.next(driver_id)
        write(
            _INSERT_COMMITMENT,
            {
                "booking_id": booking.id,
                "company_id": booking.company_id,
                "driver_id": driver_id,
                "assignment_id": assignment_id,
                "slot": slot,
                "order_no": order_no,
                "decision_id": decision_id,
                "planned_depart_at": fleet.day.instant(job.depart_min),
                "planned_pickup_at": fleet.day.instant(job.pickup_min),
                "planned_dropoff_at": fleet.day.instant(job.dropoff_min),
                "state": "queued",
                "created_at": at,
            },
        )
        return assignment_id

    def assign(
        self,
        session: Session,
        fleet: Fleet,
        booking: Booking,
        driver_id: int,
        decision_id: str,
        job: Planned,
        at: datetime,
    ) -> int:
        """Commit a booking to a driver behind what the driver has; the assignment's id."""
        session.flush()
        assignment_id = self._assign(
            session, fleet, booking, driver_id, _Places(fleet), decision_id, job, at
        )
        session.refresh(booking)
        return assignment_id

    def _keep_pin(
        self,
        session: Session,
        fleet: Fleet,
        snapshot_id: int,
        seq: int,
        pin: Pinned,
        places: "_Places",
        at: datetime,
    ) -> Fate:
        decision_id = uuid.uuid4().hex
        again = fleet.day.instant(fleet.state.now_min + self._scenario.rules.epoch_min)
        session.connection().execute(
            _INSERT_DECISION,
            {
                "id": decision_id,
                "snapshot_id": snapshot_id,
                "seq": seq,
                "company_id": pin.booking.company_id,
                "booking_id": pin.booking.id,
                "driver_id": pin.driver_id if pin.due else None,
                "action": "assign" if pin.due else "defer",
                "arm": "human",
                "unit": "",
                "layout": LAYOUT_VERSION,
                "features": _features(pin.routed(), pin.job),
                "latency_ms": 0.0,
                "decided_at": at,
                "decide_again_at": None if pin.due else again,
                "source": "human",
            },
        )
        assignment = None
        if pin.due:
            assignment = self._assign(
                session, fleet, pin.booking, pin.driver_id, places, decision_id, pin.job, at
            )
        return pin.fate(
            fleet, again,
            decision_id=decision_id,
            assignment_id=assignment,
        )  # fmt: skip

    def snapshot(self, session: Session, company_id: int, fleet: Fleet, at: datetime) -> int:
        """Log what is known of a fleet at a moment; the snapshot's id."""
        state = fleet.state
        row = {
            "company_id": company_id,
            "epoch_at": at,
            "now_min": state.now_min,
            "day": fleet.day.date,
            "scenario_hash": state.scenario_hash,
            "layout": LAYOUT_VERSION,
            "schema": STATE_SCHEMA,
            "num_drivers": len(state.driver_ids),
            "num_bookings": len(state.booking_ids),
            "payload": zlib.compress(state.to_json().encode()),
        }
        return int(session.connection().execute(_INSERT_SNAPSHOT, row).scalar_one())

    def limits(self, fleet: Fleet) -> list[Limit]:
        """For each booking: until when it must be decided, and whether some vehicle fits."""
        latest, fits = latest_departures(fleet, self._scenario, self._tables)
        return [
            (
                fleet.day.instant(float(minute))
                if np.isfinite(minute) and booking.id not in fleet.stretched
                else None,
                bool(fit),
            )
            for booking, minute, fit in zip(fleet.bookings, latest, fits, strict=True)
        ]


class _Places:
    """Free places in drivers' queues, and the order of work."""

    def __init__(self, fleet: Fleet) -> None:
        self._taken = {d: {c.slot for c in rows} for d, rows in fleet.commitments.items()}
        self._last = {
            d: max((c.order_no for c in rows), default=0) for d, rows in fleet.commitments.items()
        }

    def next(self, driver_id: int) -> tuple[int, int]:
        """The lowest free slot, and the number behind all others; both are taken now."""
        taken = self._taken[driver_id]
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        taken.add(slot)
        self._last[driver_id] += 1
        return slot, self._last[driver_id]


def _features(routed: Routed, job: Planned | None) -> dict[str, float]:
    shown = {name: _finite(value) for name, value in routed.decision.features.items()}
    return (
        {name: round(float(value), 3) for name, value in shown.items() if value is not None}
        | ({} if job is None else plan_features(job))
        | ({"explored": 1.0} if routed.explored else {})
        | ({"conflict": 1.0} if routed.conflict else {})
    )


def plan_features(job: Planned) -> dict[str, float]:
    """What the log says of a job as planned."""
    return {
        name: round(float(getattr(job, name)), 3)
        for name in (
            "depart_min", "pickup_min", "late_min", "wait_min", "deadhead_km", "drive_min",
        )
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _hash(plan: Any) -> str:
    return hashlib.sha256(repr(plan).encode()).hexdigest()[:16]
