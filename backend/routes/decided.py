"""What a decision looks like in an answer."""

from typing import Any, Literal

from pydantic import Field

from services.dispatching.fates import Fate

from .schema import Answer, Instant

Action = Literal["assign", "defer"]


class Decided(Answer):
    """What was decided about one booking."""

    booking_id: int
    action: Action
    driver_id: int | None = Field(description="who takes it; null: deferred")
    planned_pickup_at: Instant | None
    minutes_away: float | None = Field(description="empty drive to the pickup")
    late_min: float | None = Field(description="planned, after the window's end")
    deadhead_km: float | None
    decide_again_at: Instant | None = Field(description="deferred: ask again then")
    must_decide_by: Instant | None = Field(
        description="after that nobody can be there within the window; null: it has passed"
    )
    overdue: bool = Field(description="nobody can be there within the grace: tell the patient")
    serviceable: bool = Field(description="some vehicle of the company fits")
    arm: str
    unit: str
    policy: str = Field(description="who answered")
    model: str | None
    fallback_reason: str | None
    score: float | None
    propensity: float
    latency_ms: float


def shown(fate: Fate) -> dict[str, Any]:
    """The fields of `Decided`."""
    routed, job = fate.routed, fate.planned
    return {
        "booking_id": fate.booking_id,
        "action": "defer" if fate.driver_id is None else "assign",
        "driver_id": fate.driver_id,
        "planned_pickup_at": fate.planned_pickup_at,
        "minutes_away": None if job is None else round(job.drive_min, 2),
        "late_min": None if job is None else round(job.late_min, 2),
        "deadhead_km": None if job is None else round(job.deadhead_km, 3),
        "decide_again_at": fate.decide_again_at,
        "must_decide_by": fate.must_decide_by,
        "overdue": fate.overdue,
        "serviceable": fate.serviceable,
        "arm": routed.arm,
        "unit": routed.unit,
        "policy": routed.policy,
        "model": routed.model or None,
        "fallback_reason": routed.fallback_reason,
        "score": round(routed.decision.score, 4),
        "propensity": routed.propensity,
        "latency_ms": round(routed.latency_ms, 3),
    }
