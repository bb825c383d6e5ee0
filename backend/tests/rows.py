"""Rows for tests that need some of everything."""

from datetime import datetime, time
from typing import Any

from sqlalchemy.orm import Session

from models import Assignment, Booking, Commitment, Decision, Driver, FleetSnapshot


def host_rows(work: Session, now: datetime) -> int:
    """A driver, a booking and its assignment, all with id 1; returns the assignment's."""
    work.add(Driver(id=1, company_id=1, shift_start=time(8), shift_end=time(16)))
    work.add(
        Booking(
            id=1,
            company_id=1,
            pickup_lat=46.2,
            pickup_lon=6.14,
            dropoff_lat=46.19,
            dropoff_lon=6.15,
            scheduled_time=now,
            created_at=now,
        )
    )
    work.flush()
    work.add(Assignment(id=1, booking_id=1, driver_id=1, assigned_at=now))
    work.flush()
    return 1


def a_commitment(assignment_id: int, now: datetime, **changes: Any) -> Commitment:
    values = {
        "booking_id": 1, "company_id": 1, "driver_id": 1, "assignment_id": assignment_id,
        "slot": 0, "order_no": 0, "planned_depart_at": now, "planned_pickup_at": now,
        "planned_dropoff_at": now, "created_at": now, **changes,
    }  # fmt: skip
    return Commitment(**values)


def a_snapshot(at: datetime, **changes: Any) -> FleetSnapshot:
    values = {
        "company_id": 1, "epoch_at": at, "now_min": 60.0, "day": at.date(), "layout": 1,
        "scenario_hash": "0" * 64, "schema": 1, "num_drivers": 1, "num_bookings": 1,
        "payload": b"", **changes,
    }  # fmt: skip
    return FleetSnapshot(**values)


def a_decision(decision_id: str, at: datetime, snapshot_id: int | None, **changes: Any) -> Decision:
    values = {
        "id": decision_id, "snapshot_id": snapshot_id, "seq": 0, "company_id": 1, "booking_id": 1,
        "driver_id": 1, "action": "assign", "arm": "rl", "unit": "b:1", "layout": 1,
        "latency_ms": 0.5, "decided_at": at, **changes,
    }  # fmt: skip
    return Decision(**values)
