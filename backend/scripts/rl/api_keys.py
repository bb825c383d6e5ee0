"""Make, list and revoke API keys. A key is printed once, when it is made."""

import argparse
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from access import create_key, revoke_key
from clock import SystemClock
from config import Config
from extensions import Database
from models import SCOPES, ApiKey
from models.database_url import reason
from scripts.rl.command import command_parser, positive_int, run, write_json
from services.rl.errors import DataError, UsageError

EXAMPLES = """
api_keys.py create --company-id 1 --name backend --scopes dispatch,read
api_keys.py create --company-id 1 --name manager --scopes admin --expires-days 90
api_keys.py list
api_keys.py revoke --prefix 0123456789ab
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one action on the keys."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("action", choices=("create", "list", "revoke"))
    parser.add_argument("--company-id", type=positive_int, help="create: whose rows the key sees")
    parser.add_argument("--name", help="create: who uses it (shown in logs; no patient)")
    parser.add_argument("--scopes", default="dispatch,read", help=f"of {','.join(SCOPES)}")
    parser.add_argument("--expires-days", type=positive_int, help="create: default never")
    parser.add_argument("--prefix", help="revoke: as `list` shows it")
    arguments = parser.parse_args(argv)
    config = Config.from_environment()
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        result = _ACTIONS[arguments.action](database, arguments)
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)} (was migrate.py run?)") from error
    finally:
        database.dispose()
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not arguments.quiet:
        for line in result["keys"]:
            print("  ".join(f"{name}: {value}" for name, value in line.items()))
        if arguments.action == "create":
            print("Keep the key now: it cannot be read again.")
    return 0


def _create(database: Database, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.company_id is None or arguments.name is None:
        raise UsageError("create needs --company-id and --name")
    clock = SystemClock()
    days = arguments.expires_days
    scopes = tuple(scope.strip() for scope in arguments.scopes.split(",") if scope.strip())
    with database.writing() as session:
        row, key = create_key(
            session,
            clock,
            company_id=arguments.company_id,
            name=arguments.name,
            scopes=scopes,
            expires_at=None if days is None else clock.now() + timedelta(days=days),
        )
        return {"keys": [{**_shown(row), "key": key}]}


def _list(database: Database, _arguments: argparse.Namespace) -> dict[str, Any]:
    with database.reading() as session:
        return {
            "keys": [_shown(row) for row in session.scalars(select(ApiKey).order_by(ApiKey.id))]
        }


def _revoke(database: Database, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.prefix is None:
        raise UsageError("revoke needs --prefix")
    with database.writing() as session:
        return {"keys": [_shown(revoke_key(session, arguments.prefix, SystemClock().now()))]}


def _shown(row: ApiKey) -> dict[str, Any]:
    moments = ("created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        "prefix": row.prefix,
        "company_id": row.company_id,
        "name": row.name,
        "scopes": row.scopes,
        **{name: _iso(getattr(row, name)) for name in moments},
    }


def _iso(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


_ACTIONS = {"create": _create, "list": _list, "revoke": _revoke}

if __name__ == "__main__":
    run(main)
