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
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from models import BookingChange, CollectionMark
from models.database_url import reason
from services.rl.data.experience import WAIT_PREFIX, Experience
from services.rl.data.replay_store import ReplayStoreError
from services.rl.errors import AtmrError, DataError
from services.rl.simulation.engine import travel_tables

from .chain import NO_SNAPSHOT, Chain, Item, Tally
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
from .reconstruction import History
from .settled import Settling

logger = logging.getLogger(__name__)

CHANGES_OVERLAP: Final = timedelta(minutes=10)
"""A change is committed a little after the moment it bears."""

LEASE: Final = timedelta(hours=1)
"""A run that has not ended by then was killed."""

_BATCH: Final = 1000
_ATTEMPTS: Final = 3


class CollectionError(AtmrError):
    """A collection whose counts do not add up, or that took longer than its lease."""


@dataclass
class CollectionReport:
    """What a run did; `check` holds it to its sum.

    Attributes:
        company_id: Whose.
        since: Begin of the window.
        until: The moment of the run.
        decisions: Rows of the log that were looked at; the sum of the next five.
        assigned: Have an experience.
        folded: Deferrals that are part of their epoch's WAIT.
        provisional: Not known yet what came of them.
        shadow: Not acted on.
        left_out: Without an experience for good, by reason.
        waits: Epochs' ends that have an experience.
        waits_provisional: Not known yet.
        waits_left_out: By reason.
        reconstructed: Assignments from before the log that have an experience.
        reconstruction_provisional: Not known yet.
        not_reconstructed: By reason.
        experiences: Written to the store: assigned, waits and reconstructed.
        removed: Taken out of the store: they were there, and are not valid any more.
        kept: In the store in the end.
        rebuilt: The store had lost experiences, or was to be filled anew.
        advanced: The mark moved on.
        seconds: It took.
    """

    company_id: int
    since: datetime
    until: datetime
    decisions: int = 0
    assigned: int = 0
    folded: int = 0
    provisional: int = 0
    shadow: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    waits: int = 0
    waits_provisional: int = 0
    waits_left_out: dict[str, int] = field(default_factory=dict)
    reconstructed: int = 0
    reconstruction_provisional: int = 0
    not_reconstructed: dict[str, int] = field(default_factory=dict)
    experiences: int = 0
    removed: int = 0
    kept: int = 0
    rebuilt: bool = False
    advanced: bool = False
    seconds: float = 0.0

    def check(self) -> None:
        """Hold the counts to their sums.

        Raises:
            CollectionError: If they do not add up.
        """
        fates = self.assigned + self.folded + self.provisional + self.shadow
        fates += sum(self.left_out.values())
        if fates != self.decisions:
            raise CollectionError(
                f"company {self.company_id}: {self.decisions} decisions were logged, "
                f"{fates} have a fate"
            )
        made = self.assigned + self.waits + self.reconstructed
        if made != self.experiences:
            raise CollectionError(
                f"company {self.company_id}: {made} experiences were made, {self.experiences} "
                "written"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        moments = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return {**asdict(self), **moments}


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


class _DatabaseTold:
    """Tells in our own words that the database does not answer; a context."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SQLAlchemyError):
            raise DataError(
                f"the database does not answer ({reason(error)}): the next collection catches up"
            ) from error


_database_told = _DatabaseTold


# --- what a run works on -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """The company's mark as a run found it."""

    decided_before: datetime
    changes_before: datetime
    kept: int  # in the store when the mark was set
    alone: bool  # no other run was under way
    generation: int
    log_from: datetime | None  # the first moment that was ever logged


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
        return cls._since(loop, session, company_id, now, None, (), _log_from(mark))

    @classmethod
    def of_window(
        cls, loop: Loop, session: Session, company_id: int, now: datetime, mark: _Mark
    ) -> "_Work":
        """The window behind the mark, and whatever was touched by changes since."""
        overlap = timedelta(hours=loop.config.collect_overlap_hours)
        changed = session.scalars(
            select(BookingChange.booking_id)
            .where(
                BookingChange.company_id == company_id,
                BookingChange.changed_at >= mark.changes_before - CHANGES_OVERLAP,
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
        self._token = uuid.uuid4().hex
        self._renewed = loop.clock.now()

    def go(self, anew: bool, *, clear: bool) -> CollectionReport | None:
        """Run; None: the store has lost experiences.

        Args:
            anew: Over everything that the log has.
            clear: Empty the store first.
        """
        loop = self._loop
        mark = self._begin(anew)
        try:
            if clear:
                loop.store.clear(self._company_id)
            there = loop.store.ids(self._company_id)
            if len(there) < min(mark.kept, loop.config.replay_capacity):
                self._end(mark, None, None, None)
                return None
            tally = Tally()
            with loop.database.reading() as session:
                work = (
                    _Work.everything(loop, session, self._company_id, self._now)
                    if anew
                    else _Work.of_window(loop, session, self._company_id, self._now, mark)
                )
                report = CollectionReport(self._company_id, work.since, self._now)
                self._write(work.items(session, tally), report, there)
                report.decisions = count_decisions(session, self._company_id, work.spans)
            _count(report, tally)
            report.check()
            now_there = loop.store.ids(self._company_id)
            report.kept = len(now_there)
            if there - now_there and report.kept < loop.config.replay_capacity:
                self._end(mark, None, None, None)
                return None
            self._end(mark, report, tally.first_provisional, work.history.before)
        except BaseException:
            self._give_up(mark)
            raise
        return report

    def _write(self, items: Iterator[Item], report: CollectionReport, there: set[str]) -> None:
        """Write and take out, batch by batch; ``there``: what the store holds, kept up to date."""
        loop, company = self._loop, self._company_id
        capacity = loop.config.replay_capacity
        batch: list[Experience] = []
        gone: list[str] = []

        def flush() -> None:
            if loop.clock.now() - self._renewed > LEASE / 4:
                self._renew()
            if batch:
                loop.store.put(company, batch)
                report.experiences += len(batch)
                if len(there) < capacity:
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

    # --- the mark --------------------------------------------------------------------------------

    def _begin(self, anew: bool) -> _Mark:
        """Read the mark, and say that this run is under way."""
        try:
            return self._begun(anew)
        except IntegrityError:  # another run has made the first mark meanwhile
            return self._begun(anew)

    def _begun(self, anew: bool) -> _Mark:
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
            return _Mark(
                row.decided_before, row.changes_before, int(counts.get("kept", 0)), not others,
                counts["generation"], _log_from(row),
            )  # fmt: skip

    def _renew(self) -> None:
        """Say that this run is still under way.

        Raises:
            CollectionError: If another run has taken it for dead.
        """
        self._renewed = self._loop.clock.now()
        with self._loop.database.writing() as session:
            row = self._row(session)
            if row is None or self._token not in row.counts.get("open", {}):
                raise CollectionError(
                    f"collecting company {self._company_id} stood still for more than {LEASE}: "
                    "another run has taken over"
                )
            open_ = {**row.counts["open"], self._token: self._renewed.isoformat()}
            row.counts = {**row.counts, "open": open_}

    def _end(
        self,
        mark: _Mark,
        report: CollectionReport | None,
        first_provisional: datetime | None,
        log_from: datetime | None,
    ) -> None:
        """Say that this run is over, and move the mark if it was the only one."""
        with self._loop.database.writing() as session:
            row = self._row(session)
            if row is None:
                return
            counts = dict(row.counts)
            counts["open"] = {t: m for t, m in counts.get("open", {}).items() if t != self._token}
            if report is not None:
                alone = mark.alone and counts.get("generation") == mark.generation
                report.advanced = alone
                if alone:
                    row.decided_before = min(self._now, first_provisional or self._now)
                    row.changes_before = self._now
                    counts["kept"] = report.kept
                if log_from is not None:
                    counts["log_from"] = log_from.isoformat()
                counts["report"] = report.as_json()
            row.counts = counts
            row.updated_at = self._loop.clock.now()

    def _give_up(self, mark: _Mark) -> None:
        """Take the run back so that the next one may move the mark; if not, the lease ends it."""
        try:
            self._end(mark, None, None, None)
        except SQLAlchemyError as error:
            logger.warning("company %d: %s", self._company_id, reason(error))

    def _row(self, session: Session) -> CollectionMark | None:
        return session.scalars(
            select(CollectionMark)
            .where(CollectionMark.company_id == self._company_id)
            .with_for_update()
        ).one_or_none()


def _log_from(mark: CollectionMark | None) -> datetime | None:
    found = None if mark is None else mark.counts.get("log_from")
    return None if found is None else datetime.fromisoformat(found)


def _count(report: CollectionReport, tally: Tally) -> None:
    for name in (
        "assigned", "folded", "provisional", "shadow", "waits", "waits_provisional",
        "reconstructed", "reconstruction_provisional",
    ):  # fmt: skip
        setattr(report, name, getattr(tally, name))
    for name in ("left_out", "waits_left_out", "not_reconstructed"):
        counted = getattr(tally, name)
        setattr(report, name, {key: counted[key] for key in sorted(counted) if counted[key]})


# --- checking ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a store holds what SQL says.

    Attributes:
        expected: How many should be there.
        kept: How many are.
        missing: Ids that are not there (the first ones).
        unexpected: Ids that should not be there.
        different: Ids whose contents differ.
        older: In the store, from before the log as it is now (purged): not counted as differences.
    """

    expected: int
    kept: int
    missing: list[str]
    unexpected: list[str]
    different: list[str]
    older: int

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not (self.missing or self.unexpected or self.different)


def verify(loop: Loop, company_id: int, *, most: int = 10) -> Verdict:
    """Compare the company's store with what SQL says, experience by experience.

    Args:
        loop: Database, store.
        company_id: Whose.
        most: Ids that are named, of each kind of difference.
    """
    from services.rl.data.experience_codec import encode

    wanted: dict[str, tuple[datetime, int]] = {}
    for experience in expected(loop, company_id):
        wanted[experience.id] = (experience.at, hash(encode(experience)))
    newest = sorted(wanted, key=lambda id_: (wanted[id_][0], id_))
    total = len(newest)
    newest = newest[-loop.config.replay_capacity :]
    first = wanted[newest[0]][0] if newest else None
    left = set(newest)
    unexpected: list[str] = []
    different: list[str] = []
    kept = older = 0
    for experience in loop.store.read(company_id):
        kept += 1
        if experience.id not in left:
            purged = experience.id not in wanted and (first is None or experience.at < first)
            older += purged
            if not purged:
                unexpected.append(experience.id)
            continue
        left.discard(experience.id)
        if hash(encode(experience)) != wanted[experience.id][1]:
            different.append(experience.id)
    missing = sorted(left)
    if total > len(newest) or older:  # full: what is older than the oldest may have gone
        missing = [id_ for id_ in missing if kept < loop.config.replay_capacity]
    return Verdict(len(newest), kept, missing[:most], unexpected[:most], different[:most], older)


def is_wait(id_: str) -> bool:
    """Whether an id is that of an epoch's end."""
    return id_.startswith(WAIT_PREFIX)
