"""How far a company's log is collected: a mark that no killed or doubled run can move too far.

A run says in the mark's row that it is under way, and takes that back when it ends. Only a run
that had no other beside it moves the mark; a run that never ends was killed, and does not count
after `LEASE`.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models import CollectionMark
from services.rl.simulation.engine import travel_tables

from .collection_report import CollectionError, CollectionReport
from .log_rows import first_logged
from .loop import Loop
from .reconstruction import History

LEASE: Final = timedelta(hours=1)
"""A run that has not told of itself for so long was killed."""


@dataclass(frozen=True)
class Mark:
    """The company's mark as a run found it."""

    decided_before: datetime
    changes_before: datetime
    kept: int  # in the store when the mark was set
    alone: bool  # no other run was under way
    generation: int
    log_from: datetime | None  # the first moment that was ever logged


class MarkedRun:
    """One run in the company's mark.

    Args:
        loop: Database and clock.
        company_id: Whose.
        now: The moment at which outcomes are read.
    """

    def __init__(self, loop: Loop, company_id: int, now: datetime) -> None:
        self._loop = loop
        self._company_id = company_id
        self._now = now
        self._token = uuid.uuid4().hex
        self._renewed = loop.clock.now()

    def begin(self, anew: bool) -> Mark:
        """Read the mark, and say that this run is under way."""
        try:
            return self._begun(anew)
        except IntegrityError:  # another run has made the first mark meanwhile
            return self._begun(anew)

    def _begun(self, anew: bool) -> Mark:
        with self._loop.database.writing() as session:
            row = self._row(session)
            logged = first_logged(session, self._company_id)
            first = self._now
            if row is None or anew:
                history = History(
                    self._loop.scenario, travel_tables(self._loop.scenario), self._company_id,
                    self._loop.config.zone, logged,
                )  # fmt: skip
                firsts = (m for m in (logged, history.first(session)) if m is not None)
                first = min(firsts, default=self._now)
            if row is None:
                row = CollectionMark(
                    company_id=self._company_id, decided_before=first, changes_before=first,
                    counts={}, updated_at=self._now,
                )  # fmt: skip
                session.add(row)
            counts = dict(row.counts)
            if anew:  # killed before it ends, the next run does it again
                row.decided_before = min(first, row.decided_before)
                row.changes_before = min(first, row.changes_before)
                counts["kept"] = 0
            others = {
                token: moment
                for token, moment in counts.get("open", {}).items()
                if abs(self._renewed - datetime.fromisoformat(moment)) <= LEASE
            }
            counts["open"] = {**others, self._token: self._renewed.isoformat()}
            counts["generation"] = int(counts.get("generation", 0)) + 1
            row.counts = counts
            row.updated_at = self._renewed
            return Mark(
                row.decided_before, row.changes_before, int(counts.get("kept", 0)), not others,
                counts["generation"], log_from_of(row),
            )  # fmt: skip

    def renew(self) -> None:
        """Say, from time to time, that this run is still under way.

        Raises:
            CollectionError: If another run has taken it for dead.
        """
        now = self._loop.clock.now()
        if now - self._renewed <= LEASE / 4:
            return
        with self._loop.database.writing() as session:
            row = self._row(session)
            if row is None or self._token not in row.counts.get("open", {}):
                raise CollectionError(
                    f"collecting company {self._company_id} stood still for more than {LEASE}: "
                    "another run has taken over"
                )
            open_ = {**row.counts["open"], self._token: now.isoformat()}
            row.counts = {**row.counts, "open": open_}
        self._renewed = now

    def give_up(self) -> None:
        """Say that this run is over, without effect."""
        with self._loop.database.writing() as session:
            row = self._row(session)
            if row is not None:
                row.counts = self._without_us(row)

    def finish(
        self,
        mark: Mark,
        report: CollectionReport,
        first_provisional: datetime | None,
        log_from: datetime | None,
    ) -> None:
        """Say that this run is over, keep its counts, and move the mark if it was the only one.

        Args:
            mark: As the run found it.
            report: Of the run; learns whether the mark moved.
            first_provisional: The earliest moment of which something is not known yet.
            log_from: The first moment that was ever logged.
        """
        with self._loop.database.writing() as session:
            row = self._row(session)
            if row is None:
                return
            counts = self._without_us(row)
            report.advanced = mark.alone and counts.get("generation") == mark.generation
            if report.advanced:
                row.decided_before = min(self._now, first_provisional or self._now)
                row.changes_before = self._now
                counts["kept"] = report.kept
            if log_from is not None:
                counts["log_from"] = log_from.isoformat()
            counts["report"] = report.as_json()
            row.counts = counts
            row.updated_at = self._loop.clock.now()

    def _without_us(self, row: CollectionMark) -> dict[str, Any]:
        counts = dict(row.counts)
        counts["open"] = {t: m for t, m in counts.get("open", {}).items() if t != self._token}
        return counts

    def _row(self, session: Session) -> CollectionMark | None:
        return session.scalars(
            select(CollectionMark)
            .where(CollectionMark.company_id == self._company_id)
            .with_for_update()
        ).one_or_none()


def log_from_of(mark: CollectionMark | None) -> datetime | None:
    """The first moment that the company ever logged, as a mark remembers it beyond a purge."""
    found = None if mark is None else mark.counts.get("log_from")
    return None if found is None else datetime.fromisoformat(found)
