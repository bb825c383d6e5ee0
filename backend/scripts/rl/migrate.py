"""Create or change the tables of dispatch in a database; the host's tables are left alone."""

import sys
from collections.abc import Sequence

from config import Config
from extensions import Database
from migrations import HEAD, current_revision, downgrade, upgrade
from models import host_tables
from models.database_url import described
from scripts.rl.command import command_parser, run, write_json
from services.rl.errors import UsageError

EXAMPLES = """
migrate.py                              (database of ATMR_DATABASE_URL; default: SQLite)
migrate.py status
migrate.py host                         (SQL that your own booking, driver, assignment need)
migrate.py downgrade --revision base --yes
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Migrate, and say where the database stands."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "action", nargs="?", default="upgrade", choices=("upgrade", "downgrade", "status", "host")
    )
    parser.add_argument("--revision", help="default: head for upgrade; downgrade needs one")
    parser.add_argument("--yes", action="store_true", help="downgrade: the tables' rows are lost")
    arguments = parser.parse_args(argv)
    database = Database(Config.from_environment().database_url.get_secret_value())
    try:
        if arguments.action == "upgrade":
            upgrade(database.engine, arguments.revision or "head")
        elif arguments.action == "downgrade":
            if arguments.revision is None or not arguments.yes:
                raise UsageError("downgrade deletes rows: give --revision and --yes")
            downgrade(database.engine, arguments.revision)
        database.check()
        with database.engine.connect() as connection:
            lacking = host_tables.statements(connection)
        with database.engine.connect() as connection:
            revision = current_revision(connection)
    finally:
        database.dispose()
    result = {
        "database": described(database.url),
        "revision": revision,
        "head": HEAD,
        "host_tables_lack": lacking,
    }
    if arguments.json is not None:
        write_json(arguments.json, result)
    if arguments.action == "host":
        print("\n".join(lacking) or "-- the tables have all that is needed")
    elif not arguments.quiet:
        if lacking:
            print(f"your tables lack {len(lacking)} things: see migrate.py host", file=sys.stderr)
        print("{database}: revision {revision}, newest {head}".format(**result))
    return 0


if __name__ == "__main__":
    run(main)
