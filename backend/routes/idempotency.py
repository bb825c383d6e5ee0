"""``Idempotency-Key``: a request that is sent again is answered again, not carried out again.

The record is written in the transaction of the work itself: after a crash either both are there
or neither is, and a retry does the work or gets the answer. Of two requests with one key at the
same time the database lets one insert the record; the other waits for it and gets its answer.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import request
from sqlalchemy import bindparam, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from access import Caller
from extensions import services
from models import IdempotencyRecord

from .problems import Problem

HEADER = "Idempotency-Key"
PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"

_TABLE = IdempotencyRecord.__table__
# Built once: they run in most requests that write.
_CLAIM: dict[str, Any] = {
    "sqlite": sqlite.insert(_TABLE).on_conflict_do_nothing().returning(_TABLE.c.key),  # type: ignore[arg-type]
    "postgresql": postgresql.insert(_TABLE).on_conflict_do_nothing().returning(_TABLE.c.key),  # type: ignore[arg-type]
}
_KEEP = (
    update(IdempotencyRecord)
    .where(
        IdempotencyRecord.company_id == bindparam("of"), IdempotencyRecord.key == bindparam("at")
    )
    .values(status=bindparam("status"), body=bindparam("body"))
)


class AlreadyAnswered(Exception):  # noqa: N818 - it is no error
    """The request was carried out before; what was answered then."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__("already answered")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Once:
    """One request under a key. Without the header nothing is stored: ``key`` is None."""

    company_id: int
    key: str | None
    request_hash: str

    @classmethod
    def of_request(cls, caller: Caller) -> "Once":
        """From the present request.

        Raises:
            Problem: 422 if the key is none.
        """
        key = request.headers.get(HEADER)
        if key is not None and not re.fullmatch(PATTERN[1:-1], key):
            raise Problem(
                422,
                "an Idempotency-Key has 1 to 128 letters, digits, dots, dashes, colons",
                field=f"header.{HEADER}",
            )
        whole = b"\0".join(
            (request.method.encode(), request.full_path.encode("utf-8", "replace"), request.data)
        )
        return cls(caller.company_id, key, hashlib.sha256(whole).hexdigest())

    def look(self, session: Session) -> None:
        """Find out before long work whether it is needed.

        Raises:
            AlreadyAnswered: It was done; answer this.
            Problem: 422 if the key was used for another request.
        """
        if self.key is None:
            return
        record = session.get(IdempotencyRecord, (self.company_id, self.key), populate_existing=True)
        if record is None or self._is_old(record):
            return
        if record.request_hash != self.request_hash:
            raise Problem(
                422,
                "this key was used for another request; take a new one",
                field=f"header.{HEADER}",
            )
        if record.status is None:
            raise Problem(
                409, "a request with this key is still at work", headers={"Retry-After": "1"}
            )
        raise AlreadyAnswered(record.status, record.body)

    def claim(self, session: Session) -> None:
        """Take the key, in the transaction of the work; call before the work's own changes.

        Raises:
            AlreadyAnswered: Another request was faster; answer this, keep no change.
            Problem: 422 if the key was used for another request.
        """
        if self.key is None:
            return
        connection = session.connection()
        claim = _CLAIM[connection.dialect.name]
        values = {
            "company_id": self.company_id,
            "key": self.key,
            "request_hash": self.request_hash,
            "created_at": services().clock.now(),
        }
        # Waits, on PostgreSQL, for a transaction that has inserted the same key.
        if connection.execute(claim, values).one_or_none() is not None:
            return
        record = session.get(IdempotencyRecord, (self.company_id, self.key), populate_existing=True)
        if record is not None and self._is_old(record):
            session.delete(record)
            session.flush()
            if connection.execute(claim, values).one_or_none() is not None:
                return
        self.look(session)

    def keep(self, session: Session, status: int, body: Any) -> None:
        """Store the answer, in the transaction of the work."""
        if self.key is None:
            return
        answer = {"of": self.company_id, "at": self.key, "status": status, "body": body}
        session.connection().execute(_KEEP, answer)

    def _is_old(self, record: IdempotencyRecord) -> bool:
        kept = timedelta(hours=services().config.idempotency_hours)
        return services().clock.now() - record.created_at > kept
