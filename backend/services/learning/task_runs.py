"""Runs of tasks in the database: each period is done once, whoever comes, and however often.

A beat that runs twice, a message that is delivered twice, a worker that is killed: whoever wants to
do a task begins a run of its period here, and only one does. A run gives signs of life; one that
stops giving them is taken over under a higher token, and what its first holder says then counts no
more. After so many beginnings it becomes a dead letter, which a person closes or sends again.

Two clocks: the application's tells when something was begun and done; the machine's tells who is
alive, also where a twin lives a day in a minute.
"""

import logging
import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, delete, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from clock import Clock, SystemClock
from extensions import Database
from models.database_url import reason
from models.learning import DeadLetter, TaskRun
from services.rl.errors import AtmrError, UsageError

logger = logging.getLogger("atmr.tasks")

LOST: Final = "its worker was lost"
"""Begins the error of a run that was never told to have ended."""

AHEAD: Final = timedelta(minutes=5)
"""By so much the clocks of two machines may differ: a sign of life from further ahead was given by
a clock that has been set right since, and says nothing."""

_CREDENTIALS = re.compile(r"://[^/@\s]*@")
_LONGEST: Final = 2_000


class NotNowError(Exception):
    """It cannot be done now, through no fault of its own: it is given back, and not counted."""


@dataclass
class Run:
    """A run that this process has begun.

    Attributes:
        database: Where it is kept.
        clock: The present moment.
        machine: The machine's time, of signs of life.
        task: Its name.
        period_key: Of its period.
        token: Fences: a higher one has taken it over.
        attempt: This beginning's number, from 1.
        most_attempts: Beginnings before it is given up.
        lease: Without a sign of life for so long it may be taken over.
        scope: Runs whose keys begin so share a dead letter; None: each has its own.
        arguments: For the dead letter.
        lost: Set when another has taken it over.
    """

    database: Database
    clock: Clock
    machine: Clock
    task: str
    period_key: str
    token: int
    attempt: int
    most_attempts: int
    lease: timedelta
    scope: str | None
    arguments: dict[str, Any]
    lost: threading.Event = field(default_factory=threading.Event)


def begin(
    database: Database,
    clock: Clock,
    task: str,
    period_key: str,
    *,
    most_attempts: int,
    lease: timedelta,
    arguments: Mapping[str, Any] | None = None,
    alone_among: str | None = None,
    machine: Clock | None = None,
) -> Run | None:
    """Begin a task's run for a period, or take one over whose holder is gone.

    Args:
        database: Where runs are kept.
        clock: The present moment.
        task: Its name.
        period_key: Of its period.
        most_attempts: Beginnings before it is given up.
        lease: Without a sign of life for so long a run is taken over.
        arguments: What it takes to do it again; no secrets.
        alone_among: Not while another run of the task whose key begins so is at work; they share a
            dead letter.
        machine: The machine's clock.

    Returns:
        The run; None if it is done, given up, or at work elsewhere.
    """
    machine = machine or SystemClock()
    now, alive_at = clock.now(), machine.now()
    kept = dict(arguments or {})
    with database.writing() as session:
        _one_at_a_time(session, task, period_key if alone_among is None else alone_among)
        row = _row(session, task, period_key)
        if row is not None and row.state in ("done", "dead"):
            return None
        if row is not None and row.state == "running" and alive(row.heartbeat_at, alive_at, lease):
            return None
        if alone_among is not None and _others_at_work(
            session, task, period_key, alone_among, alive_at, lease
        ):
            return None
        if row is None:
            row = TaskRun(task=task, period_key=period_key, attempts=0, token=0)
            session.add(row)
        elif row.attempts >= most_attempts:
            _bury(session, row, now, kept, alone_among, f"{LOST} {row.attempts} times")
            return None
        elif row.state == "running":
            logger.warning("run %s %s is taken over: %s", task, period_key, LOST)
        row.state, row.attempts, row.token = "running", row.attempts + 1, row.token + 1
        row.started_at, row.heartbeat_at, row.finished_at = now, alive_at, None
        session.flush()
        return Run(
            database, clock, machine, task, period_key, row.token, row.attempts, most_attempts,
            lease, alone_among, kept,
        )  # fmt: skip


def alive(heartbeat_at: datetime, at: datetime, lease: timedelta) -> bool:
    """Whether a run's last sign of life still counts."""
    return at - lease < heartbeat_at <= at + AHEAD


def heartbeat(run: Run) -> bool:
    """Give a sign of life; False (and `Run.lost` is set) if another has taken the run over."""
    held = _change(run, heartbeat_at=run.machine.now())
    if not held:
        run.lost.set()
    return held


def finish(run: Run, result: Mapping[str, Any] | None = None) -> bool:
    """It is done; False if another has taken it over, whose end will count."""
    return _end(run, state="done", result=dict(result or {}), error=None)


def fail(run: Run, error: BaseException | str) -> bool:
    """It has failed: to be tried again, or a dead letter after the last attempt.

    Returns:
        Whether it is given up.
    """
    told = error if isinstance(error, str) else sentence(error)
    logger.error("run %s %s failed, attempt %d: %s", run.task, run.period_key, run.attempt, told)
    if run.attempt < run.most_attempts:
        _end(run, state="failed", error=told)
        return False
    with run.database.writing() as session:
        row = _row(session, run.task, run.period_key)
        if row is None or row.token != run.token or row.state != "running":
            run.lost.set()
            return False
        _bury(session, row, run.clock.now(), run.arguments, run.scope, told)
    return True


def release(run: Run, why: str) -> bool:
    """Give a run back that cannot be done now: to be begun again, and not counted."""
    return _end(run, state="failed", attempts=max(0, run.attempt - 1), error=why)


def skip(
    database: Database,
    clock: Clock,
    task: str,
    period_key: str,
    why: str,
    *,
    lease: timedelta,
    arguments: Mapping[str, Any] | None = None,
    scope: str | None = None,
    machine: Clock | None = None,
) -> bool:
    """Do a period no more: it is over. A run of it that failed or was lost becomes a dead letter.

    Returns:
        Whether this call did it.
    """
    now, alive_at = clock.now(), (machine or SystemClock()).now()
    with database.writing() as session:
        _one_at_a_time(session, task, period_key if scope is None else scope)
        row = _row(session, task, period_key)
        if row is None:
            session.add(
                TaskRun(
                    task=task, period_key=period_key, state="done", attempts=0, token=1,
                    started_at=now, heartbeat_at=alive_at, finished_at=now,
                    result={"skipped": why}, error=f"skipped: {why}",
                )
            )  # fmt: skip
            return True
        if row.state == "failed":
            _bury(session, row, now, dict(arguments or {}), scope, row.error or why)
            return True
        if row.state == "running" and not alive(row.heartbeat_at, alive_at, lease):
            _bury(session, row, now, dict(arguments or {}), scope, f"{LOST}; {why}")
            return True
    return False


@contextmanager
def heartbeating(run: Run) -> Iterator[Run]:
    """Signs of life from a thread, three within each lease, while the context lasts.

    A database that does not answer stops no work: the thread goes on trying, and if another takes
    the run over meanwhile, `Run.lost` is set at the next answer.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(run.lease.total_seconds() / 3.0):
            try:
                if not heartbeat(run):
                    logger.warning("run %s %s was taken over", run.task, run.period_key)
                    return
            except SQLAlchemyError as error:
                logger.warning("no sign of life for %s: %s", run.task, reason(error))

    thread = threading.Thread(target=renew, name=f"alive-{run.task}", daemon=True)
    thread.start()
    try:
        yield run
    finally:
        ended.set()
        thread.join(5.0)


# --- for people --------------------------------------------------------------------------------


def open_letters(session: Session, limit: int = 1_000) -> list[DeadLetter]:
    """Dead letters that nobody has seen to, the latest first."""
    found = session.scalars(
        select(DeadLetter)
        .where(DeadLetter.closed_at.is_(None))
        .order_by(DeadLetter.at.desc(), DeadLetter.id.desc())
        .limit(limit)
    )
    return list(found)


def close_letter(
    database: Database, clock: Clock, letter_id: int, *, who: str, why: str, again: bool = False
) -> DeadLetter:
    """A person has seen to a dead letter; its task is tried again if they say so.

    Args:
        database: Rows.
        clock: The present moment.
        letter_id: Which.
        who: Closes it.
        why: Kept with its arguments.
        again: Let the run be begun as often as a new one.

    Raises:
        UsageError: If there is no such letter, or it is closed.
    """
    with database.writing() as session:
        letter = session.get(DeadLetter, letter_id)
        if letter is None:
            raise UsageError(f"there is no dead letter {letter_id}")
        if letter.closed_at is not None:
            raise UsageError(f"dead letter {letter_id} was closed by {letter.closed_by}")
        now = clock.now()
        letter.closed_at, letter.closed_by = now, who[:80]
        letter.arguments = {**letter.arguments, "closed": {"why": why, "again": again}}
        row = _row(session, letter.task, letter.period_key)
        if again and row is not None and row.state == "dead":
            row.state, row.attempts, row.started_at = "failed", 0, now
        return letter


def purge_runs(database: Database, before: datetime) -> int:
    """Delete what ended before an instant (dead runs and their letters stay); returns rows."""
    with database.writing() as session:
        done = session.execute(
            delete(TaskRun).where(TaskRun.state == "done", TaskRun.started_at < before)
        )
        return cast("CursorResult[Any]", done).rowcount


def sentence(error: BaseException) -> str:
    """What went wrong, for a row that people read: no password, no values of rows."""
    if isinstance(error, SQLAlchemyError):
        told = f"the database refuses: {reason(error)}"
    elif isinstance(error, AtmrError):
        told = str(error)
    else:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = ", ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
        told = f"{type(error).__name__}: {error}" + (f" ({where})" if where else "")
    return _CREDENTIALS.sub("://...@", told)[:_LONGEST]


# --- rows --------------------------------------------------------------------------------------


def _row(session: Session, task: str, period_key: str) -> TaskRun | None:
    """Locked: between looking and changing it, nobody ends it."""
    return session.get(TaskRun, (task, period_key), with_for_update=True, populate_existing=True)


def _one_at_a_time(session: Session, task: str, name: str) -> None:
    """Of two that begin the same, one waits; on SQLite the transaction itself does that."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 7240110519))"),
            {"name": f"{task} {name}"},
        )


def _others_at_work(
    session: Session,
    task: str,
    period_key: str,
    prefix: str,
    alive_at: datetime,
    lease: timedelta,
) -> bool:
    found = session.scalar(
        select(func.count())
        .select_from(TaskRun)
        .where(
            TaskRun.task == task,
            TaskRun.period_key != period_key,
            TaskRun.period_key.startswith(prefix, autoescape=True),
            TaskRun.state == "running",
            TaskRun.heartbeat_at > alive_at - lease,
            TaskRun.heartbeat_at <= alive_at + AHEAD,
        )
    )
    return bool(found)


def _change(run: Run, **values: Any) -> bool:
    """Change the run's row if this process still holds it."""
    with run.database.writing() as session:
        changed = session.execute(
            update(TaskRun)
            .where(
                TaskRun.task == run.task,
                TaskRun.period_key == run.period_key,
                TaskRun.token == run.token,
                TaskRun.state == "running",
            )
            .values(**values)
        )
    return cast("CursorResult[Any]", changed).rowcount == 1


def _end(run: Run, **values: Any) -> bool:
    held = _change(run, finished_at=run.clock.now(), **values)
    if not held:
        run.lost.set()
        logger.warning("run %s %s ended after it was taken over", run.task, run.period_key)
    return held


def _bury(
    session: Session,
    row: TaskRun,
    now: datetime,
    arguments: dict[str, Any],
    scope: str | None,
    error: str,
) -> None:
    row.state, row.error, row.finished_at = "dead", error, now
    logger.error("run %s %s is given up: %s", row.task, row.period_key, error)
    known = None
    if (
        scope is not None
    ):  # a company that fails at every epoch is one letter, not three hundred a day
        known = session.scalar(
            select(DeadLetter)
            .where(
                DeadLetter.task == row.task,
                DeadLetter.closed_at.is_(None),
                DeadLetter.period_key.startswith(scope, autoescape=True),
            )
            .limit(1)
        )
    if known is None:
        session.add(
            DeadLetter(
                task=row.task, period_key=row.period_key, arguments=arguments,
                attempts=row.attempts, error=error, at=now,
            )
        )  # fmt: skip
        return
    known.attempts += row.attempts
    known.error, known.at, known.period_key = error, now, row.period_key
    known.arguments = arguments
