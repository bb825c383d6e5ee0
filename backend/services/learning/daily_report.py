"""Yesterday in numbers, for people: what became of bookings, and what the loop did about it.

One JSON and one Markdown file a day under ``results/reports/``; written anew, they say the same
unless outcomes were told since.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import Booking, Decision
from models.learning import CollectionMark, DeadLetter, TaskRun
from services.dispatching.outcomes import read_outcomes

from .periods import Job, Period
from .status import RETRAINING
from .task_runs import open_letters
from .workplace import Workplace

_MOST_COMPANIES: Final = 1_000


def report_day(place: Workplace, job: Job) -> dict[str, Any]:
    """Write the report of the local day before the one that the job's period began in.

    Raises:
        OSError: If the files cannot be written.
    """
    zone = place.loop.config.zone
    today = job.period.begin.astimezone(zone).date()
    begin = datetime.combine(today - timedelta(days=1), datetime.min.time(), tzinfo=zone)
    end = datetime.combine(today, datetime.min.time(), tzinfo=zone)
    day = Period(begin.date().isoformat(), begin, end)
    report = summary(place, day)
    folder = place.loop.home / "results" / "reports"
    write(folder / f"{day.key}.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write(folder / f"{day.key}.md", markdown(report))
    return {"date": day.key, "bookings": sum(c["bookings"] for c in report["companies"])}


def summary(place: Workplace, day: Period) -> dict[str, Any]:
    """The report of a day, as it is written."""
    loop = place.loop
    now = loop.clock.now()
    with loop.database.reading() as session:
        ids = session.scalars(
            select(Booking.company_id)
            .where(Booking.scheduled_time >= day.begin, Booking.scheduled_time < day.end)
            .distinct()
            .order_by(Booking.company_id)
            .limit(_MOST_COMPANIES)
        ).all()
        letters = open_letters(session)
        return {
            "schema": 1,
            "date": day.key,
            "timezone": loop.config.timezone,
            "made_at": now.isoformat(),
            "companies": [_company(session, place, company_id, day, now) for company_id in ids],
            "tasks": _tasks(session, day),
            "retraining": list(_retrainings(session, day)),
            "dead_letters": [_letter(letter) for letter in letters],
        }


def _company(
    session: Session, place: Workplace, company_id: int, day: Period, now: datetime
) -> dict[str, Any]:
    rules = place.loop.scenario.rules
    outcomes = read_outcomes(session, company_id, day.begin, day.end, now, rules)
    decided = (
        Decision.company_id == company_id,
        Decision.decided_at >= day.begin,
        Decision.decided_at < day.end,
        Decision.shadow.is_(False),
    )
    fallbacks = session.execute(
        select(Decision.fallback_reason, func.count())
        .where(*decided, Decision.fallback_reason.is_not(None))
        .group_by(Decision.fallback_reason)
    ).all()
    decisions = session.scalar(select(func.count()).select_from(Decision).where(*decided)) or 0
    mark = session.get(CollectionMark, company_id)
    return {
        "company_id": company_id,
        "bookings": len(outcomes.rows),
        "more_left_out": outcomes.cut,
        "outcomes": dict(sorted(Counter(row.fate for row in outcomes.rows).items())),
        "by_arm": {
            arm: dict(sorted(Counter(r.fate for r in outcomes.rows if r.arm == arm).items()))
            for arm in outcomes.arms()
        },
        "decisions": decisions,
        "fallbacks": dict(sorted((str(why), int(count)) for why, count in fallbacks)),
        "last_collection": None
        if mark is None
        else {"at": mark.updated_at.isoformat(), "counts": mark.counts},
    }


def _tasks(session: Session, day: Period) -> dict[str, dict[str, int]]:
    rows = session.execute(
        select(TaskRun.task, TaskRun.state, TaskRun.error.is_not(None), func.count())
        .where(TaskRun.started_at >= day.begin, TaskRun.started_at < day.end)
        .group_by(TaskRun.task, TaskRun.state, TaskRun.error.is_not(None))
    )
    found: dict[str, Counter[str]] = {}
    for task, state, told, count in rows:
        state = "skipped" if state == "done" and told else state
        found.setdefault(task, Counter())[state] += count
    return {task: dict(sorted(states.items())) for task, states in sorted(found.items())}


def _retrainings(session: Session, day: Period) -> Iterator[dict[str, Any]]:
    rows = session.scalars(
        select(TaskRun)
        .where(
            TaskRun.task == RETRAINING,
            TaskRun.started_at >= day.begin,
            TaskRun.started_at < day.end,
        )
        .order_by(TaskRun.started_at)
        .limit(_MOST_COMPANIES)
    )
    for row in rows:
        yield {
            "run": row.period_key,
            "state": row.state,
            "result": row.result,
            "error": row.error,
        }


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": letter.task,
        "run": letter.period_key,
        "attempts": letter.attempts,
        "error": letter.error,
        "at": letter.at.isoformat(),
    }


def markdown(report: dict[str, Any]) -> str:
    """The same, to read."""
    lines = [
        f"# {report['date']}",
        "",
        "| company | bookings | on time | late | unserved | open | not due | fallbacks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in report["companies"]:
        fates = [c["outcomes"].get(f, 0) for f in ("on_time", "late", "unserved", "open")]
        fates.append(c["outcomes"].get("not_due", 0))
        told = " | ".join(str(n) for n in fates)
        fallbacks = sum(c["fallbacks"].values())
        lines.append(f"| {c['company_id']} | {c['bookings']} | {told} | {fallbacks} |")
    lines += ["", "## By arm", ""]
    for c in report["companies"]:
        for arm, fates in c["by_arm"].items():
            told = ", ".join(f"{n} {fate.replace('_', ' ')}" for fate, n in fates.items())
            lines.append(f"- company {c['company_id']}, {arm}: {told}")
    lines += ["", "## The loop", ""]
    for task, states in report["tasks"].items():
        lines.append(f"- {task}: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    for c in report["companies"]:
        last = c["last_collection"]
        if last is not None:
            counts = ", ".join(f"{name} {n}" for name, n in last["counts"].items())
            lines.append(f"- company {c['company_id']}, last collection {last['at']}: {counts}")
    for r in report["retraining"]:
        verdict = (r["result"] or {}).get("verdict") or r["error"] or "no verdict"
        lines.append(f"- retraining {r['run']}: {r['state']}, {verdict}")
    lines += ["", f"## Dead letters: {len(report['dead_letters'])}", ""]
    lines += [
        f"- {one['id']}: {one['task']} {one['run']}, {one['attempts']} attempts: {one['error']}"
        for one in report["dead_letters"]
    ]
    return "\n".join(lines).rstrip() + "\n"


def write(path: Path, text: str) -> None:
    """Under a hidden name first, then renamed: nobody reads half a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
