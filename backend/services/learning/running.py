"""What is due, and doing it: the one way by which workers, `make loop` and the tick do tasks."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from models.database_url import reason
from models.learning import TaskRun
from services.rl.errors import AtmrError

from . import task_runs
from .periods import Entry, Job, job_of, jobs_now
from .workplace import Workplace

logger = logging.getLogger("atmr.tasks")

Body = Callable[[Workplace, Job], Mapping[str, Any]]
"""What a task does; its result goes into the run's row."""

_LOOK_BACK: Final = timedelta(days=3)
"""Runs that failed or were lost earlier wait for a person."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: Which.
        state: ``elsewhere``: done, given up or at work with another; ``dead``: given up now.
        result: Of the body.
        error: Why not, in a sentence.
    """

    job: Job
    state: Literal["done", "failed", "dead", "skipped", "elsewhere"]
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def due(place: Workplace, entry: Entry, company_ids: list[int] | None = None) -> list[Job]:
    """Jobs of an entry that wait to be done now, those of past periods first.

    Args:
        place: This process's.
        entry: Of the schedule.
        company_ids: Default: all companies with an active driver.
    """
    known = place.companies() if company_ids is None and entry.per_company else company_ids or []
    now, alive_at = place.loop.clock.now(), place.machine.now()
    wanted = {job.key: job for job in jobs_now(entry, now, place.calendar, known)}
    with place.loop.database.reading() as session:
        rows = session.execute(
            select(TaskRun.period_key, TaskRun.state, TaskRun.heartbeat_at).where(
                TaskRun.task == entry.name,
                or_(
                    TaskRun.period_key.in_(list(wanted)),
                    TaskRun.state.in_(["running", "failed"])
                    & (TaskRun.started_at > now - _LOOK_BACK),
                ),
            )
        ).all()
    unfinished: list[Job] = []
    for key, state, heartbeat_at in rows:
        job = wanted.pop(key, None)
        if state in ("done", "dead"):
            continue
        if state == "running" and task_runs.alive(heartbeat_at, alive_at, _lease(entry)):
            continue
        try:
            unfinished.append(job or job_of(entry, key, place.calendar))
        except AtmrError as error:  # of another schedule, or made by hand
            logger.warning("run %s %s is left alone: %s", entry.name, key, error)
    unfinished.sort(key=lambda job: (job.period.begin, job.company_id or 0))
    return unfinished + list(wanted.values())


def carry_out(place: Workplace, job: Job, body: Body) -> Outcome:
    """Do a job, unless it is done or at work elsewhere; its row says how it ended.

    A failure is told, never raised: whoever does other companies' jobs goes on.

    Raises:
        SQLAlchemyError: If the database does not let it begin; it is still due then.
    """
    entry, loop = job.entry, place.loop
    if entry.skip_late and loop.clock.now() >= job.period.end:
        told = "its period was over before it began"
        mine = task_runs.skip(
            loop.database, loop.clock, entry.name, job.key, told, lease=_lease(entry),
            arguments=job.arguments, scope=job.scope if entry.alone else None,
            machine=place.machine,
        )  # fmt: skip
        return Outcome(job, "skipped" if mine else "elsewhere", error=told)
    run = task_runs.begin(
        loop.database,
        loop.clock,
        entry.name,
        job.key,
        most_attempts=entry.most_attempts,
        lease=_lease(entry),
        arguments=job.arguments,
        alone_among=job.scope if entry.alone else None,
        machine=place.machine,
    )
    if run is None:
        return Outcome(job, "elsewhere")
    try:
        with task_runs.heartbeating(run):
            result = dict(body(place, job))
    except task_runs.NotNowError as error:
        _release(run, str(error))
        return Outcome(job, "failed", error=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is: the row says so, others go on
        return _failed(run, job, error)
    except BaseException:
        _release(run, "stopped by a person")
        raise
    try:
        mine = task_runs.finish(run, result)
    except SQLAlchemyError as error:  # it will be taken over, and done again: bodies allow that
        return Outcome(job, "failed", result, f"its end was not written: {reason(error)}")
    return Outcome(job, "done" if mine else "elsewhere", result)


def _failed(run: task_runs.Run, job: Job, error: Exception) -> Outcome:
    told = task_runs.sentence(error)
    try:
        given_up = task_runs.fail(run, error)
    except SQLAlchemyError as refused:  # without a sign of life it will be taken over
        logger.error("failure of %s %s not written: %s", run.task, job.key, reason(refused))
        given_up = False
    return Outcome(job, "dead" if given_up else "failed", error=told)


def _release(run: task_runs.Run, why: str) -> None:
    try:
        task_runs.release(run, why)
    except SQLAlchemyError as error:
        logger.warning("run %s not given back: %s", run.task, reason(error))


def _lease(entry: Entry) -> timedelta:
    return timedelta(seconds=entry.lease_s)
