"""Days of the simulator as a company's rows and log: what really happened is known exactly."""

import uuid
import zlib
from dataclasses import replace
from datetime import datetime

import numpy as np
from sqlalchemy.orm import Session

from models import Assignment, Booking, Decision, Driver, FleetSnapshot
from services.dispatching.operating_day import OperatingDay
from services.rl.policies.registry import make_policy
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import STATE_SCHEMA, BookingStatus
from tests.dispatching.mirrored_days import ZONE, clock_time

COMPANY = 7
STATUS = {
    BookingStatus.COMPLETED: "COMPLETED",
    BookingStatus.UNSERVED: "UNASSIGNED",
    BookingStatus.NO_SHOW: "NO_SHOW",
    BookingStatus.CALLED_OFF: "CANCELED",
}
ZONE_OF_TESTS = ZONE


def hire(session: Session, scenario: Scenario, day: OperatingDay, company: int = COMPANY) -> None:
    """The drivers of every day."""
    engine = Engine(scenario, 1)
    engine.start(np.array([1]))
    for d, row in enumerate(engine.day(0).drivers):
        session.add(
            Driver(
                id=1000 * company + d, company_id=company, is_active=True,
                driver_type="EMERGENCY" if row["emergency"] else "REGULAR",
                wheelchair_vehicle=bool(row["wheelchair"]),
                shift_start=clock_time(day, float(row["shift_start_min"])),
                shift_end=clock_time(day, float(row["shift_end_min"])),
                home_lat=float(row["lat"]), home_lon=float(row["lon"]),
            )
        )  # fmt: skip
    session.flush()


def log_day(
    session: Session,
    scenario: Scenario,
    seed: int,
    day: OperatingDay,
    *,
    company: int = COMPANY,
    first_id: int = 1,
    policy: str = "matching",
    logged: bool = True,
) -> dict[str, float]:
    """Play a day, write what a company would have of it; the simulator's reward terms."""
    engine = Engine(scenario, 1)
    engine.start(np.array([seed]))
    deciding = make_policy(policy, scenario)
    made: list[tuple[int, int, float]] = []
    while not engine.ended(0):
        made += _epoch(session, engine, deciding, day, company, first_id, logged)
        engine.wait(0)
    _outcomes(session, engine, day, company, first_id, made)
    return engine.reward_terms(0)


def _epoch(session, engine, deciding, day, company, first_id, logged):
    state, rows, w = engine.state(0), engine.open_rows(0), engine.world
    if not rows.size:
        return []
    now, at = state.now_min, day.instant(state.now_min)
    named = replace(
        state,
        driver_ids=tuple(str(1000 * company + d) for d in range(len(state.drivers))),
        booking_ids=tuple(str(first_id + int(b)) for b in rows),
        extra={"stretched": [], "own_priority": {}, "own_window_end_min": {}},
    )
    decisions = []
    made = []
    chosen = {}
    for each in deciding.decide(state).decisions:
        if each.driver is not None and engine.commit(0, each.driver, int(rows[each.booking])):
            chosen[each.booking] = each.driver
    order = [*chosen, *(b for b in range(rows.size) if b not in chosen)]
    for seq, b in enumerate(order):
        driver = chosen.get(b)
        features = None
        if driver is not None:
            made.append((int(rows[b]), driver, now))
            job = w.bookings[0, rows[b]]
            features = {
                "depart_min": float(job[world.DEPART]),
                "pickup_min": float(job[world.PLAN_PICKUP]),
                "late_min": float(job[world.PLAN_LATE]),
                "wait_min": float(job[world.PLAN_PICKUP] - job[world.PROMISED]),
                "deadhead_km": float(job[world.PLAN_DEADHEAD]),
                "drive_min": float(job[world.ARRIVE] - job[world.DEPART]),
            }
        decisions.append(
            {
                "id": uuid.uuid4().hex, "seq": seq, "company_id": company,
                "booking_id": first_id + int(rows[b]),
                "driver_id": None if driver is None else 1000 * company + driver,
                "action": "defer" if driver is None else "assign", "k": 1, "propensity": 1.0,
                "arm": "heuristic", "unit": "", "layout": 1, "features": features,
                "latency_ms": 0.1, "decided_at": at, "shadow": False, "source": "policy",
            }
        )  # fmt: skip
    if logged:
        snapshot = FleetSnapshot(
            company_id=company, epoch_at=at, now_min=now, day=day.date,
            scenario_hash=state.scenario_hash, layout=1, schema=STATE_SCHEMA,
            num_drivers=len(state.drivers), num_bookings=len(rows),
            payload=zlib.compress(named.to_json().encode()),
        )  # fmt: skip
        session.add(snapshot)
        session.flush()
        session.add_all(Decision(snapshot_id=snapshot.id, **row) for row in decisions)
    return made


def _outcomes(session, engine, day, company, first_id, made):
    w = engine.world
    for b, row in enumerate(engine.history(0)):
        status = BookingStatus(int(row["status"]))
        cancelled = status == BookingStatus.CALLED_OFF
        session.add(
            Booking(
                id=first_id + b, company_id=company, pickup_lat=float(row["pickup_lat"]),
                pickup_lon=float(row["pickup_lon"]), dropoff_lat=float(row["dropoff_lat"]),
                dropoff_lon=float(row["dropoff_lon"]),
                scheduled_time=day.instant(float(row["promised_min"])),
                created_at=day.instant(float(row["created_min"])), status=STATUS[status],
                priority=int(row["priority"]), is_urgent=bool(row["immediate"]),
                wheelchair_need=bool(row["wheelchair"]), is_return=bool(row["is_return"]),
                pickup_service_min=float(row["pickup_service_min"]),
                dropoff_service_min=float(row["dropoff_service_min"]),
                cancelled_at=day.instant(float(row["cancelled_min"])) if cancelled else None,
            )
        )  # fmt: skip
    session.flush()
    for b, d, now in made:
        job, status = w.bookings[0, b], BookingStatus(int(w.booking_ints[0, b, world.STATUS]))
        own = int(w.booking_ints[0, b, world.DRIVER]) == d
        done = own and status == BookingStatus.COMPLETED
        session.add(
            Assignment(
                booking_id=first_id + b, driver_id=1000 * company + d,
                assigned_at=day.instant(now),
                status=STATUS[status] if own else "CANCELED",
                actual_pickup_at=day.instant(float(job[world.PICKUP])) if done else None,
                actual_dropoff_at=day.instant(float(job[world.DROPOFF])) if done else None,
            )
        )  # fmt: skip
    session.flush()


def later(day: OperatingDay, minutes: float) -> datetime:
    return day.instant(minutes)
