"""One night of learning by hand: recalibrate on recent days, update, judge, register a candidate.

The champion is never changed. Everything lies under ``results/retraining/<date>-<company>``; an
interrupted night goes on from there when it is started again.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from config import Config
from models.database_url import reason
from scripts.rl.collect_experiences import companies
from scripts.rl.command import (
    command_parser,
    positive_float,
    positive_int,
    provenance,
    run,
    write_json,
)
from services.learning.loop import open_loop
from services.rl.errors import DataError, UsageError
from services.rl.serving.bundle import NETWORK, PLANNER

EXAMPLES = """
retrain.py --company 1
retrain.py --company 1 --kinds planner --minutes 5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, judge, tell."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--company", type=positive_int, metavar="ID", help="default: the only one")
    parser.add_argument("--kinds", metavar="KIND,...", help=f"{PLANNER},{NETWORK}")
    parser.add_argument("--minutes", type=positive_float, help="at most so long for each kind")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="of the night; default: today")
    parser.add_argument(
        "--tiny", action="store_true", help="rehearse: touch every part, learn nothing"
    )
    arguments = parser.parse_args(argv)
    kinds = _kinds(arguments.kinds)
    on = _date(arguments.date)
    from services.learning.retraining import retrain
    from services.rl.training.learners import TINY, Budget

    config = Config.from_environment()
    told = provenance()
    minutes = arguments.minutes or config.train_minutes
    budget = replace(
        TINY if arguments.tiny else Budget(),
        minutes=minutes,
        production_share=config.production_share,
    )
    try:
        with open_loop(config) as loop:
            if arguments.company is not None:
                companies(loop, arguments.company)  # a wrong number makes no folder
            report = retrain(
                loop,
                arguments.company,
                kinds=kinds,
                budget=budget,
                on=on,
                code_commit=told.get("commit"),
                say=(lambda _: None) if arguments.quiet else print,
            )
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    if arguments.json is not None:
        document: dict[str, Any] = {**report.to_json(), **told}
        write_json(arguments.json, document)
    if not arguments.quiet:
        print(report.markdown())
        print(f"all of it: {report.folder}")
    return 0 if report.registered else 1


def _kinds(text: str | None) -> list[str] | None:
    if text is None:
        return None
    kinds = [kind.strip() for kind in text.split(",")]
    for kind in kinds:
        if kind not in (PLANNER, NETWORK):
            raise UsageError(f"--kinds: {kind!r} is none of {PLANNER}, {NETWORK}")
    return kinds


def _date(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--date {text!r} is no date, such as 2026-03-02") from None


if __name__ == "__main__":
    run(main)
