"""API keys: made, found, revoked. A key is 32 random bytes; the database holds its hash only.

A fast hash is enough: nobody guesses 256 random bits, however fast they can try.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from clock import Clock
from models import SCOPES, ApiKey
from services.rl.errors import UsageError

_MARK = "atmr"
_NOBODY = "0" * 64
_REMEMBER_USE_EVERY = timedelta(minutes=5)

# Built once and read as plain columns: this runs in every request.
_BY_PREFIX = select(
    ApiKey.id,
    ApiKey.company_id,
    ApiKey.name,
    ApiKey.prefix,
    ApiKey.key_hash,
    ApiKey.scopes,
    ApiKey.expires_at,
    ApiKey.revoked_at,
    ApiKey.last_used_at,
).where(ApiKey.prefix == bindparam("prefix"))


@dataclass(frozen=True)
class Caller:
    """Who makes a request: one key of one company."""

    key_id: int
    company_id: int
    name: str
    prefix: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has the scope; an ``admin`` key has all."""
        return scope in self.scopes or "admin" in self.scopes


def create_key(
    session: Session,
    clock: Clock,
    *,
    company_id: int,
    name: str,
    scopes: tuple[str, ...],
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Store a new key's hash; returns the row and the key, which nobody can read again.

    Raises:
        UsageError: If the company, the name, a scope or the expiry cannot be.
    """
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        raise UsageError(
            f"scopes are some of {', '.join(SCOPES)}; got {', '.join(wrong) or 'none'}"
        )
    if not 1 <= company_id < 2**31:
        raise UsageError(f"company {company_id} is no company id")
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise UsageError("a key's name has 1 to 80 printable characters")
    now = clock.now()
    if expires_at is not None and expires_at <= now:
        raise UsageError("the expiry is in the past")
    prefix = secrets.token_hex(6)
    key = f"{_MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        company_id=company_id,
        name=name,
        prefix=prefix,
        key_hash=_hash(key),
        scopes=",".join(scope for scope in SCOPES if scope in scopes),
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, key


def find_caller(connection: Connection, key: str, now: datetime) -> tuple[Caller, bool] | None:
    """The caller that a key belongs to, and whether its use should be noted down.

    None if the key is malformed, unknown, expired or revoked. The comparison takes the same time
    for all of them.
    """
    parts = key.split("_", 2)
    prefix = parts[1] if len(parts) == 3 and parts[0] == _MARK and parts[1].isalnum() else ""
    row = connection.execute(_BY_PREFIX, {"prefix": prefix[:16]}).one_or_none()
    same = hmac.compare_digest(_hash(key), _NOBODY if row is None else row.key_hash)
    if row is None or not same or not _valid(row, now):
        return None
    caller = Caller(row.id, row.company_id, row.name, row.prefix, frozenset(row.scopes.split(",")))
    return caller, row.last_used_at is None or now - row.last_used_at >= _REMEMBER_USE_EVERY


def caller_of_prefix(connection: Connection, prefix: str, now: datetime) -> Caller | None:
    """The caller of a key that was shown before (a signed session names it by its prefix).

    None if the key is unknown, expired or revoked meanwhile.
    """
    row = connection.execute(_BY_PREFIX, {"prefix": prefix[:16]}).one_or_none()
    if row is None or not _valid(row, now):
        return None
    return Caller(row.id, row.company_id, row.name, row.prefix, frozenset(row.scopes.split(",")))


def note_use(session: Session, caller: Caller, now: datetime) -> None:
    """Remember when a key was last used, to the nearest few minutes."""
    row = session.get(ApiKey, caller.key_id)
    if row is not None:
        row.last_used_at = now


def revoke_key(session: Session, prefix: str, now: datetime) -> ApiKey:
    """Revoke a key for good; revoking it again changes nothing.

    Raises:
        UsageError: If there is no such key.
    """
    row = session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).one_or_none()
    if row is None:
        raise UsageError(f"there is no API key with prefix {prefix!r}")
    row.revoked_at = row.revoked_at or now
    return row


def _valid(row: Any, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
