"""What each task of the schedule does: glue between a job and the part of the loop that does it.

Safe to repeat: a job that was done to its end but whose run was lost is done again.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from services.dispatching.fates import DispatchError
from services.dispatching.tick import dispatch_open_bookings

from . import task_runs
from .daily_report import report_day
from .periods import Job
from .purging import purge
from .running import Body
from .workplace import Workplace

logger = logging.getLogger("atmr.tasks")

_RUNS_KEPT: Final = timedelta(days=7)


def tick(place: Workplace, job: Job) -> dict[str, Any]:
    """Decide what is open for a company.

    Raises:
        DispatchError: If it cannot be dispatched.
    """
    counted = dispatch_open_bookings(place.dispatcher(), [_company(job)])
    for why in counted.failed.values():
        raise DispatchError(f"not dispatched: {why}")
    return {
        "assigned": counted.assigned,
        "overdue": counted.overdue,
        "decisions": sum(len(epoch.fates) for epoch in counted.epochs),
        "released": len(counted.released),  # drivers of jobs whose outcome nobody ever told
    }


def watch_guardrails(place: Workplace, _job: Job) -> dict[str, Any]:
    """Weigh what is new of all companies' experiments; a learned arm that does harm is stopped."""
    breaches = place.watches().look(place.companies(), place.loop.clock.now())
    stopped = {
        "the default experiment" if company_id is None else f"company {company_id}": str(breach)
        for company_id, breach in breaches.items()
    }
    for whose, breach in stopped.items():
        logger.warning("%s: the learned arm was stopped: %s", whose, breach)
    return {"stopped": stopped}


def collect(place: Workplace, job: Job) -> dict[str, Any]:
    """Join a company's decisions with what became of them, into the replay store."""
    from .collector import collect as collect_company

    return plain(collect_company(place.loop, _company(job)))


def retrain(place: Workplace, job: Job) -> dict[str, Any]:
    """Improve a company's model on what happened lately; a candidate, never the champion.

    Raises:
        NotNowError: If another trains at the moment.
    """
    from .retraining import RetrainingBusyError
    from .retraining import retrain as retrain_company

    try:
        report = plain(retrain_company(place.loop, _company(job)))
    except RetrainingBusyError as error:
        raise task_runs.NotNowError(str(error)) from error
    made = report.get("registered")
    # The whole report lies under results/retraining; the row says how it ended.
    return {
        "verdict": _verdict_of(report),
        "registered": made,
        "kinds": [
            {name: kind.get(name) for name in ("kind", "go", "gain", "failed", "why")}
            for kind in report.get("kinds", [])
        ],
        **{name: report[name] for name in ("experiences", "notes", "seconds") if name in report},
    }


def roll(place: Workplace, job: Job) -> dict[str, Any]:
    """Promotion, shadow, rollback: what is due for a company's models, where it asks for that."""
    from .rollout import experiment_answer, roll_out

    steps = roll_out(place.loop, _company(job), experiment_answer)
    return {"steps": [step.to_json() for step in steps]} if steps else {}


def _verdict_of(report: Mapping[str, Any]) -> str:
    if report.get("registered"):
        return f"candidate {report['registered']}"
    return "no candidate" if report.get("kinds") else "nothing trained"


def clear_away(place: Workplace, _job: Job) -> dict[str, Any]:
    """Delete what is older than the settings keep, and runs that ended a week ago."""
    loop = place.loop
    now, days = loop.clock.now(), loop.config.purge_after_days
    counts: dict[str, int] = {}
    if days is not None:
        answered = now - timedelta(hours=loop.config.idempotency_hours)
        counts = purge(loop.database, now - timedelta(days=days), answered)
    return {**counts, "task_run": task_runs.purge_runs(loop.database, now - _RUNS_KEPT)}


BODIES: Final[Mapping[str, Body]] = {
    "tick": tick,
    "guardrails": watch_guardrails,
    "collection": collect,
    "retraining": retrain,
    "rollout": roll,
    "purge": clear_away,
    "report": report_day,
}
"""By the name of the schedule's entry."""


def plain(report: Any) -> dict[str, Any]:
    """A report as JSON can hold it: by its own ``to_json``, else field by field."""
    if hasattr(report, "to_json"):
        report = report.to_json()
    elif dataclasses.is_dataclass(report) and not isinstance(report, type):
        report = dataclasses.asdict(report)
    if isinstance(report, str):
        report = json.loads(report)
    found: dict[str, Any] = _finite(json.loads(json.dumps(report, default=str, allow_nan=True)))
    return found


def _finite(value: Any) -> Any:
    """Without NaN and infinities: PostgreSQL's JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    return value


def _company(job: Job) -> int:
    assert job.company_id is not None, "this entry is for each company"
    return job.company_id
