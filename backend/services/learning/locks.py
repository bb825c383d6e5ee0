"""A lock with a token: one holder at a time, and a late one cannot pass for the next.

The database keeps it, so that processes on several machines share it. A holder that is not heard
of for longer than its time to live loses the lock to whoever asks; the token rises with every
holder. What a holder writes in the end carries the proof with it: `FencedLocks.check`, in the same
transaction, refuses a token that is no longer the newest (Kleppmann 2016).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from clock import Clock
from extensions import Database
from models.learning import FencedLock
from services.rl.errors import AtmrError


class LockLostError(AtmrError):
    """The lock has gone to somebody else: what its former holder made must not be kept."""


@dataclass(frozen=True)
class Held:
    """A lock that was acquired.

    Attributes:
        name: Of the lock.
        owner: Who holds it, in words.
        token: Higher than that of every holder before.
        expires_at: From then on somebody else may take it.
    """

    name: str
    owner: str
    token: int
    expires_at: datetime


class FencedLocks:
    """The locks of one database.

    Args:
        database: Keeps them.
        clock: The present moment; clocks of several machines may differ by less than the shortest
            time to live.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def acquire(self, name: str, owner: str, ttl: timedelta) -> Held | None:
        """Take a lock that nobody holds, or whose holder's time is over.

        Args:
            name: At most 80 characters.
            owner: At most 120 characters.
            ttl: How long it is ours without being renewed.

        Returns:
            The lock, or None if somebody holds it (the same owner as well: it is not re-entrant).
        """
        now = self._clock.now()
        with self._database.writing() as session:
            _ensure(session, name, now)
            row = _locked(session, name)
            assert row is not None
            if row.owner and row.expires_at > now:
                return None
            row.token += 1
            row.owner, row.expires_at = owner, now + ttl
            return Held(name, owner, row.token, row.expires_at)

    def renew(self, held: Held, ttl: timedelta) -> Held:
        """Hold on for another while, also where the time was over but nobody asked.

        Raises:
            LockLostError: If somebody else has it, or it was released.
        """
        with self._database.writing() as session:
            row = self._mine(session, held)
            row.expires_at = self._clock.now() + ttl
            return replace(held, expires_at=row.expires_at)

    def release(self, held: Held) -> bool:
        """Give it back; False if it was somebody else's already."""
        with self._database.writing() as session:
            row = _locked(session, held.name)
            if row is None or row.token != held.token or not row.owner:
                return False
            row.owner, row.expires_at = "", self._clock.now()  # the token stays: it must rise
            return True

    def check(self, session: Session, held: Held) -> None:
        """Refuse, in the caller's writing transaction, what a former holder wants to keep.

        Nobody can take the lock before that transaction ends.

        Raises:
            LockLostError: If the token is no longer the newest.
        """
        self._mine(session, held)

    @contextmanager
    def kept(self, held: Held, ttl: timedelta, every_s: float) -> Iterator[Callable[[], None]]:
        """Renew from a thread while the block runs, and release in the end.

        Gives a function that raises `LockLostError` as soon as a renewal has found the lock gone.
        A database that does not answer is asked again: only the final `check` decides.
        """
        over = threading.Event()
        lost: list[LockLostError] = []

        def renewing() -> None:
            while not over.wait(every_s):
                try:
                    self.renew(held, ttl)
                except LockLostError as error:
                    lost.append(error)
                    return
                except SQLAlchemyError:
                    continue

        def still_mine() -> None:
            if lost:
                raise lost[0]

        thread = threading.Thread(target=renewing, name=f"renews {held.name}", daemon=True)
        thread.start()
        try:
            yield still_mine
        finally:
            over.set()
            thread.join()
            self.release(held)

    def _mine(self, session: Session, held: Held) -> FencedLock:
        row = _locked(session, held.name)
        if row is None or row.token != held.token or row.owner != held.owner:
            now_of = "nobody" if row is None or not row.owner else row.owner
            raise LockLostError(
                f"lock {held.name!r}: {held.owner} held it with token {held.token}, it is now of "
                f"{now_of}"
            )
        return row


def _ensure(session: Session, name: str, now: datetime) -> None:
    """A row to lock; two that make it at once make one."""
    values = {"name": name, "token": 0, "owner": "", "expires_at": now}
    assert session.bind is not None
    dialect = session.bind.dialect.name
    if dialect == "postgresql":
        session.execute(postgresql.insert(FencedLock).values(values).on_conflict_do_nothing())
    elif dialect == "sqlite":
        session.execute(sqlite.insert(FencedLock).values(values).on_conflict_do_nothing())
    elif session.get(FencedLock, name) is None:
        session.execute(insert(FencedLock).values(values))


def _locked(session: Session, name: str) -> FencedLock | None:
    """The row, locked until the transaction ends (SQLite: the transaction holds the whole file)."""
    return session.scalars(
        select(FencedLock).where(FencedLock.name == name).with_for_update()
    ).one_or_none()
