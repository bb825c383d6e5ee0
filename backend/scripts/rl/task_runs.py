"""What became of the loop's tasks: runs, dead letters; see to one, by name and with a reason.

A dead letter is a task that failed too often, or that killed its worker too often. `close` says
that somebody has seen to it; `again` also lets it be begun anew, as often as a new one.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from config import Config
from extensions import Database
from models.database_url import reason
from models.learning import TASK_STATES, DeadLetter, TaskRun
from scripts.rl.command import Parser, command_parser, positive_int, run, write_json
from services.learning.loop import clock_of
from services.learning.task_runs import close_letter, open_letters
from services.rl.errors import DataError, UsageError
from tasks.schedule import SCHEDULE

EXAMPLES = """
task_runs.py runs
task_runs.py runs --task retraining --state failed
task_runs.py letters
task_runs.py close 12 --who ana --why "the disk was full, it is not any more"
task_runs.py again 12 --who ana --why "the database is back"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    config = Config.from_environment()
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        if arguments.what == "runs":
            found = _runs(database, arguments.task, arguments.state, arguments.last)
        elif arguments.what == "letters":
            found = _letters(database, closed=arguments.closed)
        else:
            found = [_see_to(database, config, arguments)]
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    finally:
        database.dispose()
    if arguments.json is not None:
        write_json(arguments.json, {arguments.what: found})
    if not arguments.quiet:
        for row in found:
            print("  ".join(str(value) for value in row.values() if value not in (None, {}, "")))
        if not found:
            print("none")
    return 0


def _parser() -> Parser:
    parser = command_parser(__doc__ or "", EXAMPLES)
    whats = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    runs = whats.add_parser("runs", help="the latest runs")
    runs.add_argument("--task", choices=[entry.name for entry in SCHEDULE])
    runs.add_argument("--state", choices=TASK_STATES)
    runs.add_argument("--last", type=positive_int, default=20, help="how many (default 20)")
    letters = whats.add_parser("letters", help="dead letters that nobody has seen to")
    letters.add_argument("--closed", action="store_true", help="also those that somebody has")
    for name, told in (("close", "somebody has seen to it"), ("again", "close it and try again")):
        one = whats.add_parser(name, help=told)
        one.add_argument("id", type=positive_int)
        one.add_argument("--who", required=True, help="your name, for the record")
        one.add_argument("--why", required=True, help="for the record")
    return parser


def _runs(
    database: Database, task: str | None, state: str | None, last: int
) -> list[dict[str, Any]]:
    query = select(TaskRun).order_by(TaskRun.started_at.desc(), TaskRun.period_key).limit(last)
    if task is not None:
        query = query.where(TaskRun.task == task)
    if state is not None:
        query = query.where(TaskRun.state == state)
    with database.reading() as session:
        return [
            {
                "task": row.task,
                "run": row.period_key,
                "state": row.state,
                "attempts": row.attempts,
                "started_at": row.started_at.isoformat(timespec="seconds"),
                "finished_at": row.finished_at and row.finished_at.isoformat(timespec="seconds"),
                "result": row.result,
                "error": row.error,
            }
            for row in session.scalars(query)
        ]


def _letters(database: Database, *, closed: bool) -> list[dict[str, Any]]:
    with database.reading() as session:
        if closed:
            query = select(DeadLetter).order_by(DeadLetter.id.desc()).limit(1_000)
            return [_told(letter) for letter in session.scalars(query)]
        return [_told(letter) for letter in open_letters(session)]


def _see_to(database: Database, config: Config, arguments: Any) -> dict[str, Any]:
    again = arguments.what == "again"
    if not arguments.who.strip() or not arguments.why.strip():
        raise UsageError("--who and --why want words: they are kept")
    if again:
        with database.reading() as session:
            letter = session.get(DeadLetter, arguments.id)
        late = {entry.name for entry in SCHEDULE if entry.skip_late}
        if letter is not None and letter.task in late:
            raise UsageError(
                f"a {letter.task} is not done later: the next one does what is open; close it"
            )
    closed = close_letter(
        database, clock_of(config), arguments.id, who=arguments.who, why=arguments.why, again=again
    )
    return _told(closed)


def _told(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": letter.task,
        "run": letter.period_key,
        "attempts": letter.attempts,
        "at": letter.at.isoformat(timespec="seconds"),
        "error": letter.error,
        "arguments": letter.arguments,
        "closed_at": letter.closed_at and letter.closed_at.isoformat(timespec="seconds"),
        "closed_by": letter.closed_by,
    }


if __name__ == "__main__":
    run(main)
