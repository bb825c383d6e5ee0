"""The experiment: settings, arms, guardrails, events, and its verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from extensions import services
from routes.problems import Problem
from services.dispatching.experiments import config_of, experiment_row
from services.dispatching.outcomes import Outcome, read_outcomes
from services.dispatching.pulse import BLOCK, Block
from services.dispatching.switching import SWITCH_REASONS, switch_on
from services.dispatching.verdict import experiment_events, judge_experiment
from services.rl.ab_dispatcher import HEURISTIC, RL, Guardrails
from services.rl.evaluation.arm_ratios import Estimate
from services.rl.evaluation.experiments import KPIS, ExperimentReport
from services.rl.evaluation.intervals import ENOUGH

from .blueprint import dashboard
from .formats import Formats
from .sessions import Visit, change_session, page
from .today import board, switch_of, switch_reason
from .words import Words, words_of

_WEEK: Final = timedelta(days=7)
_MOST_BOOKINGS: Final = 10_000


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


@dataclass(frozen=True)
class KpiRow:
    """One KPI of both arms and their difference, as text; empty where there is nothing to say."""

    name: str
    heuristic: str
    learned: str
    difference: str


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
        events = experiment_events(session, row)
        judged = judge_experiment(
            session, row, visit.company_id, visit.now, rules, visit.zone, most=_MOST_BOOKINGS
        )
        week = read_outcomes(
            session, visit.company_id, visit.now - _WEEK, visit.now, visit.now, rules,
            most=_MOST_BOOKINGS,
        )  # fmt: skip
        last = visit.now.replace(minute=0, second=0, microsecond=0) + 2 * BLOCK
        blocks = board(at_work).pulse.blocks(
            session, visit.company_id, last - _WEEK, last, visit.now
        )
    config = config_of(row, visit.company_id)
    drawn = [o for o in week.rows if o.unit and o.arm in (HEURISTIC, RL)]
    fmt, t = Formats(visit.language, visit.zone), words_of(visit.language)
    told = judged.report
    return render_template(
        "atmr_dashboard/experiment.html",
        row=row, switch=switch_of(row), events=events[:30], judged=judged, told=told,
        said=verdict_in_words(told, t, fmt), beside=beside_the_verdict(told, t, fmt),
        kpis=kpi_rows(told, fmt), guards=guard_rows(drawn, blocks, config.guardrails),
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


def verdict_in_words(report: ExperimentReport, t: Words, fmt: Formats) -> list[str]:
    """The verdict as sentences."""
    found, outlook = report.difference or Estimate(0.0), report.outlook
    drawn = report.ratio.drawn
    values: dict[str, Any] = {"a": drawn[0], "b": drawn[1]}
    for name, value in (("difference", found.value), ("low", found.low), ("high", found.high)):
        values[name] = "" if value is None else fmt.points(value)
    values["more"] = fmt.number(_rounded(outlook.more_bookings or 0))
    values["days"] = fmt.number(max(1, _rounded(round(outlook.more_days or 0))))
    told = []
    if report.breaches:
        told.append(t("verdict.stopped"))
    if report.answer == "too_early" and outlook.more_bookings is None:
        told.append(t("verdict.too_few", **values))
    else:
        told.append(t(f"verdict.{report.answer}", **values))
    if report.answer == "undecided":
        more = "verdict.more" if outlook.more_bookings else "verdict.no_end"
        told.append(t("verdict.more_days" if outlook.more_days else more, **values))
    return told


def beside_the_verdict(report: ExperimentReport, t: Words, fmt: Formats) -> list[str]:
    """What to know beside it: the split, the days that an effect takes, what to beware of."""
    a, b = report.ratio.drawn
    split = "split.wrong" if report.ratio.blocked else "split.right"
    told = [t(split, a=a, b=b)] if a + b else []
    outlook = report.outlook
    values = {"effect": fmt.points(outlook.effect), "power": fmt.percent(outlook.power, 0)}
    if outlook.days_always_valid is not None:
        days = fmt.number(_rounded(round(outlook.days_always_valid)))
        once = fmt.number(_rounded(round(outlook.days_fixed or 0)))
        told.append(t("outlook.days", days=days, once=once, **values))
    elif outlook.units_per_day:
        told.append(t("outlook.never", **values))
    return told + [t(f"verdict.{note}") for note in report.notes]


def kpi_rows(report: ExperimentReport, fmt: Formats) -> list[KpiRow]:
    """The KPIs that either arm has."""
    rows = []
    for name in KPIS:
        minutes = name.endswith("_min")
        told = [
            _interval(report.arms[arm].kpis[name], fmt, minutes, signed=False)
            for arm in (HEURISTIC, RL)
        ]
        if any(told):
            change = _interval(report.differences[name], fmt, minutes, signed=True)
            rows.append(KpiRow(name, told[0], told[1], change))
    return rows


def _interval(found: Estimate | None, fmt: Formats, minutes: bool, *, signed: bool) -> str:
    """A number with its interval; shares as per cent or points, minutes with one decimal."""
    if found is None:
        return ""

    def told(value: float) -> str:
        if minutes:
            return f"{'+' if signed and value >= 0 else ''}{fmt.number(value, 1)} min"
        return fmt.points(value) if signed else fmt.percent(min(1.0, max(0.0, value)))

    if found.low is None or found.high is None:
        return told(found.value)
    low = found.low if signed else max(0.0, found.low)
    return f"{told(found.value)} ({told(low)} … {told(found.high)})"


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


def _rounded(count: int) -> int:
    """A rough count: two digits are all that such a forecast is worth."""
    digits = max(0, len(str(count)) - 2)
    return round(count, -digits)
