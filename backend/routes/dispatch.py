"""Who takes which booking: now, for one or for all; and a person's word against it."""

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import and_, bindparam, select
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import Booking, BookingPin, Commitment, Decision, Driver, IdempotencyRecord, complete
from models.reasons import ReasonCode
from services.dispatching.fates import Epoch, Fate, NotOpenError
from services.dispatching.overrides import override
from services.dispatching.part import dispatcher
from services.dispatching.suggestions import Suggestion, suggest

from .bookings import own_booking
from .decided import Action, Decided, shown
from .idempotency import Once
from .operation import ApiBlueprint
from .problems import Problem, not_found
from .schema import Answer, Body, Id, Instant, Query
from .statuses import OVER, PENDING

dispatch = ApiBlueprint("dispatch", tag="Dispatch")

_MOST = 500
_GLANCE = (
    select(
        Booking.status,
        Commitment.booking_id.label("taken"),
        IdempotencyRecord.key,
    )
    .outerjoin(Commitment, Commitment.booking_id == Booking.id)
    .outerjoin(
        IdempotencyRecord,
        and_(
            IdempotencyRecord.company_id == Booking.company_id,
            IdempotencyRecord.key == bindparam("at"),
        ),
    )
    .where(
        Booking.id == bindparam("booking"), Booking.company_id == bindparam("company"), complete()
    )
)
"""Whether a request is new, for an open booking of the caller's, in one look."""


class DispatchIn(Body):
    """Which booking."""

    booking_id: Id


class BatchIn(Body):
    """Which bookings; none given: all that are open."""

    booking_ids: Annotated[list[Id], Field(min_length=1, max_length=_MOST)] | None = None


class DecisionOut(Decided):
    """What was decided and logged about one booking."""

    decision_id: str = Field(description="of the log; for an override")
    assignment_id: int | None


class BatchOut(Answer):
    """What was decided about each booking."""

    decisions: list[DecisionOut]


@dispatch.operation("POST", "/dispatch", scope="dispatch", body=DispatchIn, answer=DecisionOut,
                    idempotent=True, problems=(404, 409))  # fmt: skip
def dispatch_booking(caller: Caller, body: DispatchIn, once: Once) -> DecisionOut:
    """Decide who takes a booking: a driver, or nobody yet.

    `assign` commits the driver. `defer` means that waiting is better: ask again at
    `decide_again_at`, or let the tick do it. A booking that has a driver is answered with that.
    """
    known = _known(caller, body.booking_id, once)
    if known is not None:
        return known
    answers: list[DecisionOut] = []

    def after(session: Session, epoch: Epoch) -> None:
        answers.clear()  # of an attempt whose commit failed
        answers.extend(_shown(fate) for fate in epoch.fates)
        once.keep(session, 200, answers[0].model_dump(mode="json"))

    try:
        epoch = dispatcher().dispatch(
            caller.company_id, only=[body.booking_id], before=once.claim, after=after
        )
    except NotOpenError:  # another request was faster, perhaps: then its answer is the answer
        known = _known(caller, body.booking_id, once)
        if known is None:
            raise
        return known
    _count(epoch)
    return answers[0]


@dispatch.operation("POST", "/dispatch/batch", scope="dispatch", body=BatchIn, answer=BatchOut,
                    idempotent=True, problems=(404, 409))  # fmt: skip
def dispatch_batch(caller: Caller, body: BatchIn, once: Once) -> BatchOut:
    """Decide several bookings in one go, or all that are open: one epoch."""
    with services().database.reading() as session:
        once.look(session)
        for i, booking_id in enumerate(body.booking_ids or []):
            booking = own_booking(session, caller, booking_id, field=f"body.booking_ids.{i}")
            if booking.status != PENDING:
                raise Problem(409, "the booking is not open", field=f"body.booking_ids.{i}")
    found = BatchOut(decisions=[])

    def after(session: Session, epoch: Epoch) -> None:
        found.decisions.clear()  # of an attempt whose commit failed
        found.decisions.extend(_shown(fate) for fate in epoch.fates)
        once.keep(session, 200, found.model_dump(mode="json"))

    epoch = dispatcher().dispatch(
        caller.company_id, only=body.booking_ids, before=once.claim, after=after
    )
    _count(epoch)
    return found


# --- suggestions -------------------------------------------------------------------------------


class SuggestionsQuery(Query):
    """For which booking, and how many drivers."""

    booking_id: Annotated[int, Field(ge=1, le=2**31 - 1)]
    limit: Annotated[int, Field(ge=1, le=20)] = 5
    language: Literal["fr", "en"] = "fr"


class DriverSuggestion(Answer):
    """One driver, and why."""

    rank: int
    driver_id: int
    chosen: bool = Field(description="whom the policy would send now")
    minutes_away: float
    planned_pickup_at: Instant
    late_min: float
    deadhead_km: float
    gain: float = Field(description="worth of this choice minus that of the heuristic's, in reward")
    confidence: float = Field(description="share of repeated plans that choose this driver, 0 to 1")
    explanation: list[str] = Field(description="in plain words")


class SuggestionsOut(Answer):
    """Drivers for one booking, the best first. Nothing is committed."""

    booking_id: int
    action: Action = Field(description="what the policy would do now")
    policy: str
    heuristic_driver_id: int | None
    must_decide_by: Instant | None
    suggestions: list[DriverSuggestion]


@dispatch.operation("GET", "/suggestions", scope="read", query=SuggestionsQuery,
                    answer=SuggestionsOut, problems=(404, 409))  # fmt: skip
def suggestions(caller: Caller, query: SuggestionsQuery) -> SuggestionsOut:
    """Rank the drivers for a booking, with reasons; commits nothing."""
    with services().database.reading() as session:
        booking = own_booking(session, caller, query.booking_id, field="query.booking_id")
        if booking.status != PENDING:
            raise Problem(409, "the booking is not open", field="query.booking_id")
    found = suggest(dispatcher(), caller.company_id, query.booking_id, query.limit, query.language)
    return SuggestionsOut(
        booking_id=query.booking_id,
        action=found.action,
        policy=found.policy,
        heuristic_driver_id=found.heuristic_driver_id,
        must_decide_by=found.must_decide_by,
        suggestions=[_suggestion(i, each) for i, each in enumerate(found.drivers)],
    )


def _suggestion(i: int, each: Suggestion) -> DriverSuggestion:
    return DriverSuggestion(
        rank=i + 1,
        driver_id=each.driver_id,
        chosen=each.chosen,
        minutes_away=round(each.minutes_away, 1),
        planned_pickup_at=each.planned_pickup_at,
        late_min=round(each.late_min, 1),
        deadhead_km=round(each.deadhead_km, 2),
        gain=round(each.gain, 2),
        confidence=round(each.confidence, 2),
        explanation=list(each.explanation),
    )


# --- a person's word ---------------------------------------------------------------------------


class OverrideIn(Body):
    """Whom to send instead; null: nobody yet."""

    driver_id: Id | None
    reason_code: ReasonCode


@dispatch.operation("POST", "/decisions/<code:decision_id>/override", scope="dispatch",
                    body=OverrideIn, answer=DecisionOut, idempotent=True, work="write",
                    problems=(404, 409))  # fmt: skip
def override_decision(
    work: Session, caller: Caller, decision_id: str, body: OverrideIn
) -> DecisionOut:
    """Replace the latest decision about a booking by a person's, with a reason.

    An earlier one is refused (409, which names the latest): whoever decides must have seen it.
    The arm of the booking stays what it was (intention to treat); the log names the person's key
    as source `human`.
    """
    decision = work.get(Decision, decision_id)
    if decision is None or decision.company_id != caller.company_id:
        raise not_found("decision", "path.decision_id")
    booking = own_booking(work, caller, decision.booking_id, lock=True)
    if body.driver_id is not None:
        _own_driver(work, caller, body.driver_id, "body.driver_id")
    fate = override(dispatcher(), work, decision, booking, body.driver_id, body.reason_code)
    return _of_row(work, fate)


class PinIn(Body):
    """Which driver, and why."""

    driver_id: Id
    reason_code: ReasonCode


class PinOut(Answer):
    """Who is to take this booking, whatever the policy thinks."""

    booking_id: int
    driver_id: int | None
    reason_code: ReasonCode | None


@dispatch.operation("PUT", "/bookings/<id:booking_id>/pin", scope="dispatch", body=PinIn,
                    answer=PinOut, work="write", problems=(404, 409))  # fmt: skip
def pin_booking(work: Session, caller: Caller, booking_id: Id, body: PinIn) -> PinOut:
    """Pin a booking to a driver: when it is time, this driver gets it, and no other."""
    booking = own_booking(work, caller, booking_id, lock=True)
    if booking.status != PENDING:
        raise Problem(409, "the booking is not open", field="path.booking_id")
    _own_driver(work, caller, body.driver_id, "body.driver_id")
    pin = work.get(BookingPin, booking_id)
    if pin is None:
        pin = BookingPin(booking_id=booking_id)
        work.add(pin)
    pin.driver_id, pin.company_id = body.driver_id, caller.company_id
    pin.pinned_by, pin.reason_code = caller.name, body.reason_code
    pin.pinned_at = services().clock.now()
    work.flush()
    return PinOut(booking_id=booking_id, driver_id=body.driver_id, reason_code=body.reason_code)


@dispatch.operation("DELETE", "/bookings/<id:booking_id>/pin", scope="dispatch", answer=PinOut,
                    work="write", problems=(404,))  # fmt: skip
def unpin_booking(work: Session, caller: Caller, booking_id: Id) -> PinOut:
    """Take a pin away; doing it twice changes nothing."""
    own_booking(work, caller, booking_id)
    pin = work.get(BookingPin, booking_id)
    if pin is not None:
        work.delete(pin)
    return PinOut(booking_id=booking_id, driver_id=None, reason_code=None)


# --- shown -------------------------------------------------------------------------------------


def _own_driver(work: Session, caller: Caller, driver_id: int, field: str) -> Driver:
    driver = work.get(Driver, driver_id)
    if driver is None or driver.company_id != caller.company_id:
        raise not_found("driver", field)
    return driver


def _shown(fate: Fate) -> DecisionOut:
    return DecisionOut(
        decision_id=fate.decision_id, assignment_id=fate.assignment_id, **shown(fate)
    )


def _known(caller: Caller, booking_id: int, once: Once) -> DecisionOut | None:
    """The answer for a booking that was dispatched before; None if it is open.

    Raises:
        AlreadyAnswered: If this very request was carried out before.
        Problem: 404 if there is no such booking, 409 if it is over.
    """
    with services().database.reading() as session:
        asked = {"booking": booking_id, "company": caller.company_id, "at": once.key or ""}
        row = session.connection().execute(_GLANCE, asked).one_or_none()
        if row is not None and row.status == PENDING and row.taken is None and row.key is None:
            return None  # most of the time, and the end of it
        once.look(session)
        booking = own_booking(session, caller, booking_id, field="body.booking_id")
        return _already(session, booking)


def _already(session: Session, booking: Booking) -> DecisionOut | None:
    """The answer for a booking that has a driver; None if it is open.

    Raises:
        Problem: 409 if it is over.
    """
    if booking.status in OVER:
        raise Problem(409, f"the booking is {booking.status}", field="body.booking_id")
    commitment = session.get(Commitment, booking.id)
    if commitment is None:
        return None
    decision = (
        None if commitment.decision_id is None else session.get(Decision, commitment.decision_id)
    )
    if decision is None:
        raise Problem(409, "the booking was assigned elsewhere", field="body.booking_id")
    return _of_row(session, decision, commitment)


def _of_row(
    session: Session, decision: Decision, commitment: Commitment | None = None
) -> DecisionOut:
    if commitment is None and decision.driver_id is not None:
        commitment = session.get(Commitment, decision.booking_id)
    features = decision.features or {}
    assigned = decision.driver_id is not None and commitment is not None
    return DecisionOut(
        decision_id=decision.id,
        booking_id=decision.booking_id,
        action="assign" if decision.driver_id is not None else "defer",
        driver_id=decision.driver_id,
        assignment_id=commitment.assignment_id if assigned and commitment else None,
        planned_pickup_at=commitment.planned_pickup_at if assigned and commitment else None,
        minutes_away=features.get("drive_min"),
        late_min=features.get("late_min"),
        deadhead_km=features.get("deadhead_km"),
        decide_again_at=decision.decide_again_at,
        must_decide_by=decision.must_decide_by,
        overdue=False,
        serviceable=True,
        arm=decision.arm,
        unit=decision.unit,
        policy=decision.source if decision.source != "policy" else (decision.model or "heuristic"),
        model=decision.model,
        fallback_reason=decision.fallback_reason,
        score=None if decision.score is None else round(decision.score, 4),
        propensity=decision.propensity,
        latency_ms=round(decision.latency_ms, 3),
    )


def _count(epoch: Epoch) -> None:
    metrics = services().metrics
    for fate in epoch.fates:
        routed = fate.routed
        action = "defer" if fate.driver_id is None else "assign"
        metrics.decisions.labels(routed.policy, routed.arm, action).inc()
    if epoch.fates:
        first = epoch.fates[0].routed
        metrics.decision_seconds.labels(first.policy).observe(first.latency_ms / 1e3)
        reasons = {f.routed.fallback_reason for f in epoch.fates} - {None}
        for reason in reasons:
            metrics.fallbacks.labels(reason).inc()
