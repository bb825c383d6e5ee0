"""Collect experiences: decisions of the log and what became of them, into the replay store.

collect: as the hourly task does: the window behind the mark, and what was changed since.
rebuild: empty the store and fill it with all that the log has.
verify: compare the store with what SQL says; exit 1 and the first differences if it is another.
status: how far the log is collected, and what the store holds.
Without Redis (ATMR_REPLAY_URL, ATMR_REDIS_URL) the store lives and ends with this process.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from models import CollectionMark, Driver, FleetSnapshot
from models.database_url import reason
from scripts.rl.command import FAILED, SUCCESS, command_parser, positive_int, run, write_json
from services.learning.collection_report import CollectionReport
from services.learning.collector import collect, rebuild
from services.learning.loop import Loop, open_loop
from services.learning.verification import Verdict, verify
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.errors import DataError, UsageError

EXAMPLES = """
collect_experiences.py
collect_experiences.py rebuild --company 7
collect_experiences.py verify --company 7 --json verdict.json
collect_experiences.py status
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "what", nargs="?", default="collect", choices=["collect", "rebuild", "verify", "status"]
    )
    parser.add_argument("--company", type=positive_int, metavar="ID", help="default: all")
    arguments = parser.parse_args(argv)
    say = (lambda *_: None) if arguments.quiet else print
    code = SUCCESS
    with open_loop() as loop:
        found: list[dict[str, Any]] = []
        in_memory = isinstance(loop.store, MemoryReplayStore)
        for company in companies(loop, arguments.company):
            if arguments.what == "status":
                found.append(status(loop, company))
                say(_status_line(found[-1]))
            elif arguments.what == "verify":
                verdict = verify(loop, company)
                found.append({"company_id": company, "same": verdict.same, **vars(verdict)})
                say(_verdict_line(company, verdict))
                code = code if verdict.same else FAILED
            else:
                report = (rebuild if arguments.what == "rebuild" else collect)(loop, company)
                found.append(report.as_json())
                say(_report_line(report))
    if found and not arguments.quiet and in_memory:
        print(
            "no Redis is named (ATMR_REPLAY_URL, ATMR_REDIS_URL): this store was this process's "
            "own; that of `make loop` is in its process"
        )
    if not found:
        say("no company has a driver or a log")
    if arguments.json is not None:
        write_json(arguments.json, {"what": arguments.what, "companies": found})
    return code


def companies(loop: Loop, only: int | None) -> list[int]:
    """Companies that have a driver or a log.

    Raises:
        UsageError: If the one that was asked for has neither.
        DataError: If the database does not answer.
    """
    try:
        with loop.database.reading() as session:
            known = set(session.scalars(select(Driver.company_id).distinct()))
            known |= set(session.scalars(select(FleetSnapshot.company_id).distinct()))
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    if only is None:
        return sorted(known)
    if only not in known:
        raise UsageError(f"there is no company {only}: it has no driver and no log")
    return [only]


def status(loop: Loop, company_id: int) -> dict[str, Any]:
    """How far a company's log is collected."""
    with loop.database.reading() as session:
        mark = session.get(CollectionMark, company_id)
        told: dict[str, Any] = {"company_id": company_id, "collected": mark is not None}
        if mark is not None:
            told |= {
                "decided_before": mark.decided_before.isoformat(),
                "changes_before": mark.changes_before.isoformat(),
                "under_way": len(mark.counts.get("open", {})),
                "last": mark.counts.get("report"),
            }
    counts = loop.store.counts(company_id)
    return {**told, "kept": counts.kept, "unreadable": counts.unreadable}


def _status_line(told: dict[str, Any]) -> str:
    line = f"company {told['company_id']}: {told['kept']} experiences in the store"
    if told["unreadable"]:
        line += f", unreadable {_counts(told['unreadable'])}"
    if not told["collected"]:
        return f"{line}; never collected"
    return f"{line}; collected for good before {told['decided_before']}"


def _verdict_line(company: int, verdict: Verdict) -> str:
    if verdict.same:
        older = f", {verdict.older} from before the log" if verdict.older else ""
        return f"company {company}: the store holds what the log says: {verdict.kept}{older}"
    named = [
        f"{what}: {', '.join(ids)}"
        for what, ids in (
            ("missing", verdict.missing),
            ("unexpected", verdict.unexpected),
            ("different", verdict.different),
        )
        if ids
    ]
    return (
        f"company {company}: {verdict.expected} expected, {verdict.kept} in the store; "
        + "; ".join(named)
    )


def _report_line(report: CollectionReport) -> str:
    line = (
        f"company {report.company_id}: {report.decisions} decisions since "
        f"{report.since.isoformat(timespec='minutes')}: {report.assigned} assigned, "
        f"{report.folded} folded into {report.waits} waits, {report.provisional} not known yet, "
        f"{report.shadow} shadow, {sum(report.left_out.values())} left out"
    )
    if report.left_out:
        line += f" ({_counts(report.left_out)})"
    if report.reconstructed or report.not_reconstructed:
        line += f"; {report.reconstructed} reconstructed"
        if report.not_reconstructed:
            line += f", not {_counts(report.not_reconstructed)}"
    line += (
        f"; {report.experiences} written, {report.removed} removed, {report.kept} kept, "
        f"{report.seconds:.1f} s"
    )
    return line if report.advanced else f"{line}; another run was under way: the mark stays"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    run(main)
