"""Hourly collection: decisions and what became of them, from SQL into the replay store.

Effectively once. A run reads the company's mark, works out all experiences of its window and of
everything that was changed since, writes them to the store, where writing twice changes nothing,
and moves the mark on last. Killed anywhere, it is as if it had not run: the next one covers the
same and more. The mark never passes what is not known yet, so nothing is settled behind its back.

Two runs at once write the same, except that one may have read before a change that the other has
seen, and write later. So the mark moves only with a run that had no other beside it. A store that
lost what the mark says it has (a Redis without persistence that was restarted) is filled again
from SQL.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models import BookingChange, CollectionMark
from models.database_url import reason
from services.rl.data.experience import Experience
from services.rl.data.replay_store import ReplayStoreError
from services.rl.errors import DataError
from services.rl.simulation.engine import travel_tables

from .chain import NO_SNAPSHOT, Chain, Item, Tally
from .collection_report import CollectionReport
from .log_rows import (
    Span,
    count_decisions,
    count_without_state,
    first_logged,
    ids_without_state,
    merged,
    read_following,
    read_span,
    touched_spans,
)
from .loop import Loop
from .marks import Mark, MarkedRun, log_from_of
from .reconstruction import History
from .settled import Settling

logger = logging.getLogger(__name__)

CHANGES_OVERLAP: Final = timedelta(minutes=10)
"""A change is committed a little after the moment it bears."""

_BATCH: Final = 250
_ATTEMPTS: Final = 3


def collect(loop: Loop, company_id: int, *, until: datetime | None = None) -> CollectionReport:
    """Bring the store up to date with the log and what has become of it.

    Args:
        loop: Database, clock, store.
        company_id: Whose log.
        until: The moment at which outcomes are read; None: now.

    Raises:
        DataError: If the database does not answer; the mark has not moved.
        ReplayStoreError: If the store does not; the mark has not moved.
    """
    with _database_told():
        return _collect(loop, company_id, until or loop.clock.now(), anew=False)


def rebuild(loop: Loop, company_id: int) -> CollectionReport:
    """Forget the company's experiences and fill the store again with all that the log has."""
    with _database_told():
        return _collect(loop, company_id, loop.clock.now(), anew=True)


def expected(loop: Loop, company_id: int, *, until: datetime | None = None) -> Iterator[Experience]:
    """What a store should hold, worked out from SQL alone, in the order of the log.

    A store keeps the newest ``capacity`` of them.
    """
    with _database_told():
        now = until or loop.clock.now()
        with loop.database.reading() as session:
            work = _Work.everything(loop, session, company_id, now)
            for _, experience in work.items(session, Tally()):
                if experience is not None:
                    yield experience


@contextmanager
def _database_told() -> Iterator[None]:
    """Tell in our own words that the database does not answer."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DataError(
            f"the database does not answer ({reason(error)}): the next collection catches up"
        ) from error


# --- what a run works on -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """Which epochs and which days before the log."""

    loop: Loop
    company_id: int
    now: datetime
    since: datetime
    spans: list[Span]
    history: History
    days: list[date]

    @classmethod
    def everything(cls, loop: Loop, session: Session, company_id: int, now: datetime) -> "_Work":
        """The whole log, and what was before it."""
        mark = session.get(CollectionMark, company_id)
        return cls._since(loop, session, company_id, now, None, (), log_from_of(mark))

    @classmethod
    def of_window(
        cls, loop: Loop, session: Session, company_id: int, now: datetime, mark: Mark
    ) -> "_Work":
        """The window behind the mark, and whatever was touched by changes since."""
        overlap = timedelta(hours=loop.config.collect_overlap_hours)
        changed = session.scalars(
            select(BookingChange.booking_id)
            .where(
                BookingChange.company_id == company_id,
                # Never later than now: a clock that ran ahead for a while has moved the mark.
                BookingChange.changed_at >= min(mark.changes_before, now) - CHANGES_OVERLAP,
            )
            .distinct()
        ).all()
        since = min(mark.decided_before, now) - overlap
        return cls._since(loop, session, company_id, now, since, changed, mark.log_from)

    @classmethod
    def _since(
        cls,
        loop: Loop,
        session: Session,
        company_id: int,
        now: datetime,
        since: datetime | None,
        changed: Any,
        log_from: datetime | None,
    ) -> "_Work":
        logged = first_logged(session, company_id)
        log_from = min((m for m in (log_from, logged) if m is not None), default=None)
        tables = travel_tables(loop.scenario)
        history = History(loop.scenario, tables, company_id, loop.config.zone, log_from)
        if since is None:
            firsts = (m for m in (logged, history.first(session)) if m is not None)
            since = min(firsts, default=now)
        end = now + timedelta(days=1)  # of a process whose clock is ahead
        given_up = Settling.at(now, loop.scenario.rules).given_up
        touched = touched_spans(session, company_id, changed, given_up)
        days = set(history.days(since, now)) | history.days_of(session, changed)
        return cls(
            loop, company_id, now, since, merged([Span(since, end), *touched]), history,
            sorted(days),
        )  # fmt: skip

    def items(self, session: Session, tally: Tally) -> Iterator[Item]:
        """Ids, and the experiences they have."""
        loop = self.loop
        chain = Chain(
            loop.scenario, loop.scenario.sha256, self.history.tables, self.company_id, self.now,
            loop.config.zone, tally,
        )  # fmt: skip
        yield from self.history.experiences(session, self.days, chain, self.now, tally)
        for span in self.spans:
            last = None
            for row, facts in read_span(session, self.company_id, span):
                yield from chain.feed(row, facts)
                last = row
            if last is not None:
                yield from chain.end(read_following(session, self.company_id, span.end))
            decisions, shadows = count_without_state(session, self.company_id, span)
            tally.shadow += shadows
            if decisions > shadows:
                tally.left_out[NO_SNAPSHOT] += decisions - shadows
            for id_ in ids_without_state(session, self.company_id, span) if decisions else ():
                yield id_, None


# --- a run ---------------------------------------------------------------------------------------


def _collect(loop: Loop, company_id: int, now: datetime, *, anew: bool) -> CollectionReport:
    began = time.monotonic()
    for attempt in range(_ATTEMPTS):
        report = _Run(loop, company_id, now).go(anew, clear=anew and attempt == 0)
        if report is not None:
            report.rebuilt = anew
            report.seconds = time.monotonic() - began
            return report
        logger.warning(
            "company %d: the replay store has lost experiences; filling it again (%d)",
            company_id,
            attempt + 1,
        )
        # Without clearing: another run may be filling it too.
        anew = True
    raise ReplayStoreError(
        f"the replay store of company {company_id} loses what is written to it: look at its log "
        "and its memory limit"
    )


class _Run:
    """One attempt at one company.

    Args:
        loop: Database, clock, store.
        company_id: Whose.
        now: The moment at which outcomes are read.
    """

    def __init__(self, loop: Loop, company_id: int, now: datetime) -> None:
        self._loop = loop
        self._company_id = company_id
        self._now = now
        self._marked = MarkedRun(loop, company_id, now)

    def go(self, anew: bool, *, clear: bool) -> CollectionReport | None:
        """Run; None: the store has lost experiences.

        Args:
            anew: Over everything that the log has.
            clear: Empty the store first.
        """
        mark = self._marked.begin(anew)
        try:
            report = self._go(mark, anew, clear)
            if report is None:
                self._marked.give_up()
        except BaseException:
            try:
                self._marked.give_up()
            except SQLAlchemyError as error:  # the lease ends it
                logger.warning("company %d: %s", self._company_id, reason(error))
            raise
        return report

    def _go(self, mark: Mark, anew: bool, clear: bool) -> CollectionReport | None:
        loop, company, capacity = self._loop, self._company_id, self._loop.config.replay_capacity
        if clear:
            loop.store.clear(company)
        there = loop.store.ids(company)
        if len(there) < min(mark.kept, capacity):
            return None
        tally = Tally()
        with loop.database.reading() as session:
            work = (
                _Work.everything(loop, session, company, self._now)
                if anew
                else _Work.of_window(loop, session, company, self._now, mark)
            )
            report = CollectionReport(company, work.since, self._now)
            self._write(work.items(session, tally), report, there)
            report.decisions = count_decisions(session, company, work.spans)
        report.take(tally)
        report.check()
        left = loop.store.ids(company)
        report.kept = len(left)
        if there - left and report.kept < capacity:
            return None
        self._marked.finish(mark, report, tally.first_provisional, work.history.before)
        return report

    def _write(self, items: Iterator[Item], report: CollectionReport, there: set[str]) -> None:
        """Write and take out, batch by batch.

        Args:
            items: What is valid, and what is not.
            report: Counts.
            there: Ids that the store holds; kept up to date.
        """
        loop, company = self._loop, self._company_id
        batch: list[Experience] = []
        gone: list[str] = []

        def flush() -> None:
            self._marked.renew()
            if batch:
                loop.store.put(company, batch)
                report.experiences += len(batch)
                if len(there) < loop.config.replay_capacity:
                    there.update(e.id for e in batch)
                batch.clear()
            if gone:
                report.removed += loop.store.remove(company, gone)
                there.difference_update(gone)
                gone.clear()

        for id_, experience in items:
            if experience is not None:
                batch.append(experience)
            elif id_ in there:
                gone.append(id_)
            if len(batch) >= _BATCH or len(gone) >= _BATCH:
                flush()
        flush()
