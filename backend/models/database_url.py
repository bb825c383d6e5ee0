"""Database URLs: understood, shown without secrets; what a database said, in one line.

Light on purpose: settings import this, and the serving process should hold no more than it needs.
"""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from services.rl.errors import UsageError


def parse_url(url: str | URL) -> URL:
    """Check a database URL; one for PostgreSQL without a driver gets psycopg.

    Raises:
        UsageError: If it is no database URL; the sentence never repeats a password.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgres", "postgresql"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(
            "the database URL cannot be understood; "
            "it looks like sqlite:///file.sqlite or postgresql+psycopg://user@host/name"
        ) from error
    return parsed


def reason(error: SQLAlchemyError) -> str:
    """First line of what the database said, without SQL, parameters or links."""
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0]


def described(url: URL) -> str:
    """What a database is called in reports: no user, no password, no folder of this machine."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite {Path(url.database or 'in memory').name}"
    where = "" if url.host is None else f" on {url.host}"
    return f"{url.get_backend_name()} database {url.database}{where}"
