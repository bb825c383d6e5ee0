"""An experiment's report as a page of Markdown, in English."""

from typing import Final

from .arm_ratios import Estimate
from .experiments import KPIS, Answer, ExperimentReport, Note

_ANSWERS: Final[dict[Answer, str]] = {
    "no_data": "No verdict yet: one of the arms has no finished bookings.",
    "wrong_split": (
        "No verdict possible: the split between the arms ({a} against {b} units drawn) is "
        "implausible for the share that is set. Find the fault before reading the figures."
    ),
    "too_early": "No verdict yet: too few units to compare.",
    "better": "The learned policy is more punctual.",
    "worse": "The learned policy is less punctual.",
    "undecided": "No verdict yet: zero is among the differences that are possible.",
    "same": "No difference that matters: it is certainly below {margin:.1%}.",
}
_NOTES: Final[dict[Note, str]] = {
    "shared_fleet": (
        "Units are bookings: both arms share the drivers, which distorts the difference, even its "
        "sign. Switchback is faithful."
    ),
    "carry_over": (
        "Blocks last less than an hour: each begins with the other arm's queues, and the "
        "difference looks smaller than it is."
    ),
    "few_looks": "Units are companies: the experiment is read at few days, fixed before.",
}


def markdown(report: ExperimentReport) -> str:
    """The whole report."""
    a, b = report.ratio.drawn
    lines = ["# Experiment", "", _ANSWERS[report.answer].format(a=a, b=b, margin=report.margin)]
    if report.difference is not None:
        lines.append(f"On time, learned less heuristic: {_points(report.difference)}.")
    lines += [f"A guardrail has stopped the learned policy: {words}" for words in report.breaches]
    lines += ["", *_table(report), "", *_beside(report)]
    return "\n".join(lines) + "\n"


def _table(report: ExperimentReport) -> list[str]:
    arms = [report.arms[name] for name in ("heuristic", "rl")]
    lines = ["| KPI | heuristic | learned | difference |", "|---|---|---|---|"]
    for kpi in KPIS:
        show = _minutes if kpi.endswith("_min") else _share
        told = [show(arm.kpis[kpi]) for arm in arms]
        change = report.differences[kpi]
        difference = _minutes(change) if kpi.endswith("_min") else _points(change)
        lines.append(f"| {kpi.replace('_', ' ')} | {told[0]} | {told[1]} | {difference} |")
    counts = [f"{arm.units} units, {arm.bookings} bookings" for arm in arms]
    return [*lines, f"| | {counts[0]} | {counts[1]} | |"]


def _beside(report: ExperimentReport) -> list[str]:
    outlook, (a, b) = report.outlook, report.ratio.drawn
    lines = [
        f"- Intervals of differences hold at all looks together ({1 - report.alpha:.0%}, by "
        f"{report.unit}); those of arms for one look (95 %).",
        f"- Units drawn: {a} and {b}; p = {report.ratio.p:.3g}, valid at every look.",
    ]
    if outlook.more_days is not None:
        lines.append(
            f"- If the difference stays what it is, about {outlook.more_bookings} more bookings "
            f"({outlook.more_days:.0f} days)."
        )
    if outlook.days_always_valid is not None:
        fixed = "unknown" if outlook.days_fixed is None else f"{outlook.days_fixed:.0f}"
        lines.append(
            f"- To find {100 * outlook.effect:+.0f} points with a probability of "
            f"{outlook.power:.0%}: about {outlook.days_always_valid:.0f} days from the start (read "
            f"once, on a day fixed before: {fixed}). Correlation within a unit: {outlook.icc:.3f}."
        )
    return lines + [f"- {_NOTES[note]}" for note in report.notes]


def _around(estimate: Estimate | None, pattern: str) -> str:
    if estimate is None:
        return "–"
    told = pattern.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return told
    return f"{told} ({pattern.format(estimate.low)} to {pattern.format(estimate.high)})"


def _share(estimate: Estimate | None) -> str:
    return _around(estimate, "{:.1%}")


def _minutes(estimate: Estimate | None) -> str:
    return _around(estimate, "{:.1f} min")


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    ends = [None if v is None else 100 * v for v in (estimate.low, estimate.high)]
    return _around(Estimate(100 * estimate.value, *ends), "{:+.1f} points")
