"""Experiments: which arm decides. Reading and changing them, every change with its reason."""

import re
import secrets
from typing import Annotated, Any, Literal

from flask import request
from pydantic import AfterValidator, Field, StringConstraints, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import Experiment, ExperimentEvent, ExperimentUnit
from services.dispatching.verdict import judge_experiment
from services.rl.experiments.attribution import RECOMMENDED_BLOCK_MIN
from services.rl.experiments.config import DAY_MIN, Guardrails

from .operation import ApiBlueprint, Reply
from .problems import Problem, not_found
from .schema import Answer, Body, Instant, Share, Slug

experiments = ApiBlueprint("experiments", tag="Experiments")

# In an address, as in our tables: a code.
NAME = r"^[a-z0-9][a-z0-9_-]{0,59}$"
_REPORTED = (
    "answer", "unit", "arms", "differences", "ratio", "outlook", "alpha", "margin", "breaches",
    "notes",
)  # fmt: skip
_SETTINGS = ("mode", "unit", "rl_share", "block_min", "epsilon", "guardrails", "webhook_url")


def _web_address(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"https?://[A-Za-z0-9.\-]+(:\d{1,5})?(/\S*)?", value):
        raise ValueError("must be an http or https address")
    return value


def _known_guardrails(value: dict[str, float]) -> dict[str, float]:
    """What no experiment can be must not be stored: every decision reads it."""
    try:
        Guardrails.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{name}: {first['msg']}" if name in value else first["msg"]) from None
    return value


_BLOCKS = [minutes for minutes in range(5, DAY_MIN + 1) if DAY_MIN % minutes == 0]


def _divides_the_day(value: int) -> int:
    if value not in _BLOCKS:
        raise ValueError("must be at least 5 minutes and divide the day's 1440")
    return value


class ExperimentIn(Body):
    """The settings of an experiment, all of them: what is left out takes its default."""

    mode: Literal["off", "shadow", "ab"] = Field(
        description="off: heuristic only; shadow: the learned policy decides, the heuristic acts"
    )
    unit: Literal["booking", "company", "switchback"] = Field(
        default="switchback", description="booking misleads where arms share drivers"
    )
    rl_share: Share = Field(default=0.5, description="share of units in the arm rl")
    block_min: Annotated[
        int, AfterValidator(_divides_the_day), Field(json_schema_extra={"enum": _BLOCKS})
    ] = Field(
        default=RECOMMENDED_BLOCK_MIN,
        description="length of a switchback block; shorter ones measure the other arm's queues",
    )
    epsilon: Annotated[float, Field(ge=0, le=0.2, description="exploration")] = 0.0
    guardrails: Annotated[
        dict[Slug, float], Field(max_length=20), AfterValidator(_known_guardrails)
    ] = Field(default_factory=dict, description="thresholds by name; empty: the defaults")
    webhook_url: Annotated[
        Annotated[str, StringConstraints(max_length=500)] | None, AfterValidator(_web_address)
    ] = None
    resume: bool = Field(
        default=False, description="start again an experiment that a guardrail has stopped"
    )
    why: Slug


class ExperimentOut(Answer):
    """An experiment; ``version`` goes into ``If-Match`` of the next change."""

    name: str
    is_default: bool = Field(description="the one of all companies without their own; read-only")
    mode: Literal["off", "shadow", "ab"]
    unit: Literal["booking", "company", "switchback"]
    rl_share: float
    block_min: int
    epsilon: float
    guardrails: dict[str, float]
    webhook_url: str | None
    stopped_at: Instant | None
    stop_reason: str | None
    version: int
    created_at: Instant
    updated_at: Instant


class EventOut(Answer):
    """One change of an experiment."""

    id: int
    at: Instant
    kind: str
    who: str
    why: str
    data: dict[str, Any]


class EventsOut(Answer):
    """The latest changes, newest first."""

    events: list[EventOut]


class EstimateOut(Answer):
    """A number with its interval; no ends: too little for one."""

    value: float
    low: float | None
    high: float | None


class ArmOut(Answer):
    """One arm; its KPIs have ordinary 95 % intervals."""

    units: int
    bookings: int
    kpis: dict[str, EstimateOut | None]


class SampleRatioOut(Answer):
    """Whether units went where they should; ``blocked``: no verdict until the fault is found."""

    p: float
    drawn: tuple[int, int] = Field(description="units of heuristic and rl")
    blocked: bool


class OutlookOut(Answer):
    """How much longer; null: not foreseeable, not needed or unknown."""

    more_bookings: int | None
    more_days: float | None
    effect: float = Field(description="the difference that the days below are about")
    days_always_valid: float | None = Field(description="from the start, by this test")
    days_fixed: float | None = Field(description="by a test read once, on a day fixed before")
    power: float
    icc: float
    bookings_per_unit: float
    units_per_day: float | None


class ReportOut(Answer):
    """What an experiment says about the share of bookings on time, and beside it."""

    name: str
    since: Instant
    until: Instant
    cut: bool = Field(description="more bookings than are read: the verdict is on the first ones")
    answer: Literal["no_data", "wrong_split", "too_early", "better", "worse", "undecided", "same"]
    unit: Literal["booking", "company", "switchback"]
    arms: dict[str, ArmOut] = Field(description="heuristic and rl")
    differences: dict[str, EstimateOut | None] = Field(
        description="rl less heuristic; the intervals hold however often they are read"
    )
    ratio: SampleRatioOut
    outlook: OutlookOut
    alpha: float
    margin: float
    breaches: list[str]
    notes: list[Literal["shared_fleet", "carry_over", "few_looks"]]


@experiments.operation("GET", "/experiments/<code:name>", scope="read", answer=ExperimentOut,
                       work="read", problems=(404,))  # fmt: skip
def get_experiment(work: Session, caller: Caller, name: str) -> Reply:
    """The company's experiment of this name, else the default one."""
    return _reply(_visible(work, caller, name), 200)


@experiments.operation("GET", "/experiments/<code:name>/events", scope="read", answer=EventsOut,
                       work="read", problems=(404,))  # fmt: skip
def list_experiment_events(work: Session, caller: Caller, name: str) -> EventsOut:
    """What was changed, by whom and why: the latest hundred."""
    found = _visible(work, caller, name)
    events = work.scalars(
        select(ExperimentEvent)
        .where(ExperimentEvent.experiment_id == found.id)
        .order_by(ExperimentEvent.id.desc())
        .limit(100)
    )
    return EventsOut(events=[EventOut.model_validate(event) for event in events])


@experiments.operation("GET", "/experiments/<code:name>/report", scope="read", answer=ReportOut,
                       work="read", problems=(404,))  # fmt: skip
def get_experiment_report(work: Session, caller: Caller, name: str) -> ReportOut:
    """What each arm came to, whether that is a difference, and how much longer to wait."""
    found, at_work = _visible(work, caller, name), services()
    judged = judge_experiment(
        work, found, caller.company_id, at_work.clock.now(), at_work.scenario.rules,
        at_work.config.zone,
    )  # fmt: skip
    told = {field: getattr(judged.report, field) for field in _REPORTED}
    covers = {"since": judged.since, "until": judged.until, "cut": judged.cut}
    return ReportOut.model_validate({"name": found.name, **covers, **told})


@experiments.operation("PUT", "/experiments/<code:name>", scope="admin", body=ExperimentIn,
                       answer=ExperimentOut, work="write", problems=(409, 412, 428),
                       request_headers=("If-Match",))  # fmt: skip
def put_experiment(work: Session, caller: Caller, name: str, body: ExperimentIn) -> Reply:
    """Create an experiment, or change it.

    A change needs ``If-Match`` with the version that was read: of two people who change it at
    once, the second is told (412).
    """
    statement = select(Experiment).where(
        Experiment.company_id == caller.company_id, Experiment.name == name
    )
    found = work.scalars(statement.with_for_update()).one_or_none()
    _check_version(found)
    now = services().clock.now()
    if found is None:
        found = Experiment(
            company_id=caller.company_id,
            name=name,
            salt=secrets.token_hex(16),
            created_at=now,
            updated_at=now,
            **{setting: getattr(body, setting) for setting in _SETTINGS},
        )
        work.add(found)
        work.flush()
        _log(work, caller, found, "created", body.why, {s: getattr(body, s) for s in _SETTINGS})
        return _reply(found, 201)
    changes = _apply(work, found, body)
    if changes:
        found.updated_at = now
        work.flush()
        kind = "resumed" if "stopped_at" in changes else "changed"
        _log(work, caller, found, kind, body.why, changes)
    return _reply(found, 200)


def _apply(work: Session, found: Experiment, body: ExperimentIn) -> dict[str, Any]:
    if body.unit != found.unit and _units(work, found):
        raise Problem(409, "units have their arms already; take a new name", field="body.unit")
    changes: dict[str, Any] = {}
    for setting in _SETTINGS:
        before, after = getattr(found, setting), getattr(body, setting)
        if before != after:
            changes[setting] = [before, after]
            setattr(found, setting, after)
    if body.resume and found.stopped_at is not None:
        changes["stopped_at"] = [found.stopped_at.isoformat(), None]
        found.stopped_at = found.stop_reason = None
    return changes


def _check_version(found: Experiment | None) -> None:
    given = request.headers.get("If-Match")
    if found is None:
        if given is not None:
            raise Problem(412, "there is no such experiment", field="header.If-Match")
        return
    if given is None:
        raise Problem(
            428, "read the experiment first and send its version", field="header.If-Match"
        )
    if given.strip().removeprefix("W/").strip('"') != str(found.version):
        raise Problem(
            412, "the experiment was changed since; read it again", field="header.If-Match"
        )


def _visible(work: Session, caller: Caller, name: str) -> Experiment:
    rows = work.scalars(
        select(Experiment).where(
            Experiment.name == name,
            (Experiment.company_id == caller.company_id) | Experiment.company_id.is_(None),
        )
    ).all()
    own = [row for row in rows if row.company_id is not None]
    if not rows:
        raise not_found("experiment", "path.name")
    return (own or list(rows))[0]


def _units(work: Session, found: Experiment) -> int:
    return (
        work.scalar(
            select(func.count())
            .select_from(ExperimentUnit)
            .where(ExperimentUnit.experiment_id == found.id)
        )
        or 0
    )


def _log(
    work: Session, caller: Caller, found: Experiment, kind: str, why: str, data: dict[str, Any]
) -> None:
    work.add(
        ExperimentEvent(
            experiment_id=found.id,
            at=services().clock.now(),
            kind=kind,
            who=caller.name,
            why=why,
            data=data,
        )
    )


def _reply(found: Experiment, status: int) -> Reply:
    fields = {
        name: getattr(found, name) for name in ExperimentOut.model_fields if name != "is_default"
    }
    shown = ExperimentOut(**fields, is_default=found.company_id is None)
    return Reply(shown, status, {"ETag": f'"{found.version}"'})
