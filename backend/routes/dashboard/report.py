"""The daily report: one operating day's figures as a page, a printable file, and a table."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from flask import Response, render_template, request
from sqlalchemy import func, select

from extensions import services
from models import Decision
from services.dispatching.operating_day import day_of, operating_day
from services.dispatching.outcomes import Outcome, Outcomes, read_outcomes
from services.dispatching.pulse import BLOCK, Block
from services.rl.evaluation.intervals import wilson

from .blueprint import dashboard
from .sessions import Visit, page
from .today import ArmRow, arm_rows, board

_MOST_LISTED: Final = 200
_SHARES: Final = ("on_time", "late", "unserved")


@dataclass(frozen=True)
class Figures:
    """One day's figures: what the page, the file and the table show."""

    date: date
    over: bool
    arms: list[ArmRow]
    troubles: list[Outcome]
    outcomes: Outcomes
    answers: int
    learned: int
    fallbacks: int
    reasons: list[tuple[str, int]]
    p50_ms: float | None
    p99_ms: float | None
    overrides: list[tuple[str, int]]

    @staticmethod
    def wilson(count: int, of: int) -> Any:
        """Interval of a share; None where there are too few."""
        return wilson(count, of)


@dashboard.get("/report")
@page()
def report(visit: Visit) -> str:
    """The page, with a day to choose and the two downloads."""
    return render_template("atmr_dashboard/report.html", figures=_figures(visit), file=False,
                           on_time_min=_on_time_min())  # fmt: skip


@dashboard.get("/report.html")
@page()
def report_file(visit: Visit) -> Response:
    """The same as a file of its own: no script, no link, nothing to load."""
    figures = _figures(visit)
    text = render_template("atmr_dashboard/report_file.html", figures=figures, file=True,
                           on_time_min=_on_time_min())  # fmt: skip
    return _download(text, "text/html; charset=utf-8", visit, figures, "html")


@dashboard.get("/report.csv")
@page()
def report_table(visit: Visit) -> Response:
    """The same as a table: section, arm, figure, value, low, high, count, of."""
    figures = _figures(visit)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("section", "arm", "figure", "value", "low", "high", "count", "of"))
    writer.writerows(rows_of(figures))
    return _download(out.getvalue(), "text/csv; charset=utf-8", visit, figures, "csv")


def rows_of(figures: Figures) -> list[tuple[Any, ...]]:
    """The table's lines. Shares are 0 to 1; a share of too few bookings has no interval."""
    rows: list[tuple[Any, ...]] = []
    for row in figures.arms:
        known = row.counts.known
        for name in _SHARES:
            count = getattr(row.counts, name)
            i = wilson(count, known)
            low, high = ("", "") if i is None else (round(i.low, 4), round(i.high, 4))
            share = round(count / known, 4) if known else ""
            rows.append(("outcomes", row.arm, f"{name}_share", share, low, high, count, known))
        wait = row.counts.wait_mean_min
        mean = "" if wait is None else round(wait, 2)
        rows.append(("outcomes", row.arm, "wait_mean_min", mean, "", "", "", known))
        rows.append(("outcomes", row.arm, "open", row.counts.open, "", "", row.counts.open, ""))
        rows.append(
            ("outcomes", row.arm, "not_due", row.counts.not_due, "", "", row.counts.not_due, "")
        )
    share = round(figures.fallbacks / figures.learned, 4) if figures.learned else ""
    rows.append(
        ("engine", "rl", "fallback_share", share, "", "", figures.fallbacks, figures.learned)
    )
    rows += [
        ("engine", "rl", f"fallback:{why}", n, "", "", n, figures.learned)
        for why, n in figures.reasons
    ]
    for name in ("p50_ms", "p99_ms"):
        value = getattr(figures, name)
        shown = "" if value is None else round(value, 3)
        rows.append(("engine", "all", f"latency_{name}", shown, "", "", "", figures.answers))
    rows += [("overrides", "human", why, n, "", "", n, "") for why, n in figures.overrides]
    rows += [
        ("bookings", row.arm, row.fate, "" if row.wait_min is None else round(row.wait_min, 1),
         "", "", row.booking_id, "")
        for row in figures.troubles
    ]  # fmt: skip
    return rows


def _figures(visit: Visit) -> Figures:
    at_work = services()
    rules = at_work.scenario.rules
    today = operating_day(visit.now, rules, visit.zone)
    day = day_of(_date(request.args.get("day", ""), today.date), rules, visit.zone)
    begin, end = day.start - timedelta(hours=1), day.instant(rules.horizon_min + rules.overtime_min)
    first = begin.replace(minute=0, second=0, microsecond=0)
    with at_work.database.reading() as session:
        outcomes = read_outcomes(session, visit.company_id, begin, end, visit.now, rules)
        blocks = board(at_work).pulse.blocks(
            session, visit.company_id, first, _up(end, first), visit.now
        )
        overrides = session.execute(
            select(Decision.reason_code, func.count())
            .where(
                Decision.company_id == visit.company_id,
                Decision.decided_at >= begin,
                Decision.decided_at < end,
                Decision.source == "human",
                Decision.reason_code.is_not(None),
            )
            .group_by(Decision.reason_code)
            .order_by(func.count().desc(), Decision.reason_code)
        ).all()
    reasons: Counter[str] = Counter()
    for block in blocks:
        reasons.update(dict(block.reasons))
    latencies = tuple(sorted(ms for block in blocks for ms in block.latencies_ms))
    whole = Block(first, 0, 0, 0, (), latencies)
    return Figures(
        date=day.date,
        over=visit.now > end,
        arms=arm_rows(outcomes),
        troubles=[o for o in outcomes.rows if o.fate in ("late", "unserved")][:_MOST_LISTED],
        outcomes=outcomes,
        answers=sum(b.answers for b in blocks),
        learned=sum(b.learned for b in blocks),
        fallbacks=sum(b.fallbacks for b in blocks),
        reasons=reasons.most_common(),
        p50_ms=whole.percentile_ms(0.5),
        p99_ms=whole.percentile_ms(0.99),
        overrides=[(str(code), int(n)) for code, n in overrides],
    )


def _up(end: datetime, first: datetime) -> datetime:
    """The end of the last block that begins before ``end``."""
    return first + -((first - end) // BLOCK) * BLOCK


def _date(text: str, default: date) -> date:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return default
    return found if 2000 < found.year < 2099 else default


def _on_time_min() -> str:
    return f"{services().scenario.rules.on_time_min:g}"


def _download(text: str, kind: str, visit: Visit, figures: Figures, ending: str) -> Response:
    response = Response(text, content_type=kind)
    name = f"atmr-{visit.company_id}-{figures.date.isoformat()}.{ending}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
