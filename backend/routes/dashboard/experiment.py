"""The experiment: settings, arms, guardrails, events, and its verdict in words."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from flask import redirect, render_template, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from extensions import services
from models import Experiment, ExperimentEvent
from routes.problems import Problem
from services.dispatching.experiments import config_of, experiment_row
from services.dispatching.outcomes import Outcome, read_outcomes
from services.dispatching.pulse import BLOCK, Block
from services.dispatching.switching import SWITCH_REASONS, switch_on
from services.dispatching.verdict import ENOUGH, UnitCount, Verdict, judge
from services.rl.ab_dispatcher import HEURISTIC, RL, Guardrails

from .blueprint import dashboard
from .formats import Formats
from .sessions import Visit, change_session, page
from .today import board, switch_of, switch_reason
from .words import Words, words_of

_FURTHEST: Final = timedelta(days=28)
_WEEK: Final = timedelta(days=7)
_MOST_BOOKINGS: Final = 10_000
_DRAWS_ANEW: Final = ("rl_share", "unit", "salt", "block_min")
"""Settings after a change of which units are drawn under other odds."""


@dataclass(frozen=True)
class GuardRow:
    """One guardrail: plain figures, not its evidence."""

    name: str
    learned: float | None
    other: float | None
    limit: float
    compared: bool

    @property
    def state(self) -> str:
        """``ok``, ``beyond`` or ``no_data``."""
        if self.learned is None or (self.compared and self.other is None):
            return "no_data"
        allowed = self.limit + (self.other or 0.0) if self.compared else self.limit
        return "beyond" if self.learned > allowed else "ok"


@dashboard.get("/experiment")
@page()
def experiment(visit: Visit) -> str:
    """The page."""
    at_work = services()
    rules = at_work.scenario.rules
    with at_work.database.reading() as session:
        row = experiment_row(session, visit.company_id)
        if row is None:
            return render_template("atmr_dashboard/experiment.html", row=None)
        events = _events(session, row)
        since = max(_drawn_since(row, events), visit.now - _FURTHEST)
        outcomes = read_outcomes(
            session, visit.company_id, min(since, visit.now - _WEEK), visit.now, visit.now, rules,
            most=_MOST_BOOKINGS,
        )  # fmt: skip
        last = visit.now.replace(minute=0, second=0, microsecond=0) + 2 * BLOCK
        blocks = board(at_work).pulse.blocks(
            session, visit.company_id, last - _WEEK, last, visit.now
        )
    config = config_of(row, visit.company_id)
    drawn = [o for o in outcomes.rows if o.unit and o.arm in (HEURISTIC, RL)]
    verdict = judge(units_of([o for o in drawn if o.scheduled_at >= since]), row.rl_share)
    week = [o for o in drawn if o.scheduled_at >= visit.now - _WEEK]
    fmt, t = Formats(visit.language, visit.zone), words_of(visit.language)
    return render_template(
        "atmr_dashboard/experiment.html",
        row=row, switch=switch_of(row), events=events[:30], since=since, verdict=verdict,
        said=verdict_in_words(verdict, t, fmt), guards=guard_rows(week, blocks, config.guardrails),
        slow_ms=fmt.number(config.guardrails.latency_limit_ms), reasons=SWITCH_REASONS,
    )  # fmt: skip


@dashboard.post("/experiment/resume")
@page("admin")
def resume(visit: Visit) -> Response:
    """Let the learned policy run again.

    Raises:
        Problem: 422 without reason, mode or the tick that the cause was looked at.
    """
    mode = request.form.get("mode", "")
    if mode not in ("ab", "shadow") or request.form.get("sure") != "yes":
        raise Problem(422, "a mode and the confirmation are needed", field="form.mode")
    why = switch_reason()
    with services().database.writing() as session:
        switch_on(session, visit.company_id, mode, visit.caller.name, why, visit.now)  # type: ignore[arg-type]
    change_session(note="note.on")
    return redirect(url_for(".experiment"), 303)


def units_of(outcomes: Sequence[Outcome]) -> list[UnitCount]:
    """Outcomes by randomised unit; bookings without an outcome are left out."""
    counts: dict[tuple[str, bool], list[int]] = defaultdict(lambda: [0, 0])
    for row in outcomes:
        if row.fate in ("on_time", "late", "unserved"):
            count = counts[row.unit, row.arm == RL]
            count[0] += row.fate == "on_time"
            count[1] += 1
    return [UnitCount(learned, *count) for (_, learned), count in counts.items()]


def verdict_in_words(verdict: Verdict, t: Words, fmt: Formats) -> list[str]:
    """The verdict as sentences."""
    values: dict[str, Any] = {"a": verdict.units[0], "b": verdict.units[1]}
    for name in ("difference", "low", "high"):
        value = getattr(verdict, name)
        values[name] = "" if value is None else fmt.points(value)
    values["more"] = fmt.number(_rounded(verdict.more_bookings or 0))
    told = [t(f"verdict.{verdict.answer}", **values)]
    if verdict.answer == "undecided":
        told.append(t("verdict.more" if verdict.more_bookings else "verdict.no_end", **values))
    return told


def guard_rows(
    week: Sequence[Outcome], blocks: Sequence[Block], rules: Guardrails
) -> list[GuardRow]:
    """Plain figures of the last seven days beside each guardrail's limit."""
    rates = {arm: _rates([o for o in week if o.arm == arm]) for arm in (HEURISTIC, RL)}
    learned = sum(b.learned for b in blocks)
    slow = sum(ms > rules.latency_limit_ms for b in blocks for ms in b.learned_ms)
    infeasible = sum(n for b in blocks for reason, n in b.reasons if reason == "infeasible")
    fallbacks = sum(b.fallbacks for b in blocks)

    def share(count: int) -> float | None:
        return count / learned if learned >= ENOUGH else None

    return [
        GuardRow("late", rates[RL][0], rates[HEURISTIC][0], rules.late_margin, True),
        GuardRow("unserved", rates[RL][1], rates[HEURISTIC][1], rules.unserved_margin, True),
        GuardRow("fallback", share(fallbacks), None, rules.fallback_rate, False),
        GuardRow("slow", share(slow), None, rules.slow_rate, False),
        GuardRow("infeasible", share(infeasible), None, rules.infeasible_rate, False),
    ]


def _rates(rows: Sequence[Outcome]) -> tuple[float | None, float | None]:
    """Shares late and unserved; None where there are too few."""
    fates = [row.fate for row in rows if row.fate in ("on_time", "late", "unserved")]
    if len(fates) < ENOUGH:
        return None, None
    return fates.count("late") / len(fates), fates.count("unserved") / len(fates)


def _events(session: Session, row: Experiment) -> list[ExperimentEvent]:
    return list(
        session.scalars(
            select(ExperimentEvent)
            .where(ExperimentEvent.experiment_id == row.id)
            .order_by(ExperimentEvent.id.desc())
            .limit(200)
        )
    )


def _drawn_since(row: Experiment, events: Sequence[ExperimentEvent]) -> datetime:
    """Since when units are drawn under the present odds."""
    changed = [e.at for e in events if any(name in e.data for name in _DRAWS_ANEW)]
    return max([row.created_at, *changed])


def _rounded(count: int) -> int:
    """A rough count: two digits are all that such a forecast is worth."""
    digits = max(0, len(str(count)) - 2)
    return round(count, -digits)
