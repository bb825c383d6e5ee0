"""The report of an evaluation: Markdown tables and PNG plots in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.errors import UsageError
from services.rl.simulation.types import FloatArray

from .evaluation import Evaluation, latency
from .paired import Estimate, estimate, paired_difference
from .runner import DayResults

COLUMNS = (
    ("reward", "reward/day", "reward/day", 1),
    ("completion_pct", "completed %", "done|%", 1),
    ("on_time_pct", "on time %", "on|time %", 1),
    ("late_pct", "late %", "late|%", 1),
    ("unserved", "unserved", "un-|served", 1),
    ("wait_mean_min", "wait min", "wait|min", 1),
    ("wait_p95_min", "p95 wait", "p95|min", 1),
    ("deadhead_km_per_trip", "empty km/trip", "empty|km/trip", 2),
    ("trips_per_vehicle_hour", "trips/veh-h", "trips|/veh-h", 2),
    ("workload_gini", "Gini", "Gini", 2),
    ("satisfaction", "satisfaction", "satis-|faction", 2),
    ("reward_per_step", "reward/step", "reward|/step", 2),
)
"""KPI, heading in Markdown, heading on a terminal (``|`` breaks the line), decimals."""

BEST = "▲"
"""Stands before the highest mean reward."""


def best_policy(evaluation: Evaluation) -> DayResults:
    """The results with the highest mean reward."""
    return max(evaluation.results, key=lambda r: float(r.kpi("reward").mean()))


def table(evaluation: Evaluation, *, markdown: bool = True) -> str:
    """The main table: means, with half-widths of 95 % intervals where they fit.

    In Markdown, or aligned for a terminal of 140 columns. What no policy has is left out.
    """
    extra = (("gap closed %", "gap|closed %"), ("of bound %", "of|bound %"))
    last = ("ms p50 / p99", "ms|p50 / p99")
    names = [("policy", "policy"), *((c[1], c[2]) for c in COLUMNS), *extra, last]
    heads = [name[0 if markdown else 1] for name in names]
    best = best_policy(evaluation).policy
    rows = []
    for result in evaluation.results:
        cells = [result.policy]
        for kpi, _, _, decimals in COLUMNS:
            cells.append(_with_interval(estimate(result.kpi(kpi)), decimals, kpi == "reward"))
        if result.policy == best and len(evaluation.results) > 1:
            cells[1] = f"{BEST} {cells[1]}"
        for share in (evaluation.gap(result.policy), evaluation.share_of_bound(result.policy)):
            cells.append(_with_interval(share, 1, True) if share else "")
        spent = latency(result)
        cells.append(f"{_two_digits(spent['p50_ms'])} / {_two_digits(spent['p99_ms'])}")
        rows.append(cells)
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    if evaluation.hindsight:
        yardstick = estimate(evaluation.hindsight_rewards())
        cells = ["hindsight", _with_interval(yardstick, 1, True)]
        cells += [""] * (len(heads) - len(cells))
        cells[1 + len(COLUMNS)] = "100"
        rows.append(cells)
    heads, rows = [heads[i] for i in used], [[row[i] for i in used] for row in rows]
    return _markdown(heads, rows) if markdown else _aligned(heads, rows)


def paired_table(evaluation: Evaluation, *, markdown: bool = True) -> str:
    """Paired differences to the reference."""
    kpis = (
        ("reward", "reward", 1),
        ("on_time_pct", "on time, points", 1),
        ("unserved", "unserved", 2),
        ("deadhead_km_per_trip", "empty km/trip", 2),
    )
    heads = [f"minus {evaluation.reference}", *(head for _, head, _ in kpis)]
    rows = []
    for name in evaluation.names():
        if name == evaluation.reference:
            continue
        cells = [name]
        for kpi, _, decimals in kpis:
            difference = evaluation.difference(name, kpi)
            mark = " *" if difference.excludes_zero else ""
            cells.append(_with_interval(difference, decimals, True, signed=True) + mark)
        rows.append(cells)
    return _markdown(heads, rows) if markdown else _aligned(heads, rows)


def conclusion(evaluation: Evaluation) -> str:
    """Which policy earned most, by how much, and whether these days can tell, in a sentence."""
    best = best_policy(evaluation)
    earned = f"{best.policy} earned most: {best.kpi('reward').mean():.1f} a day"
    others = [r for r in evaluation.results if r is not best]
    if not others:
        return f"{best.policy} earned {best.kpi('reward').mean():.1f} a day; nothing to compare."
    rival = evaluation.reference
    if rival == best.policy:
        rival = max(others, key=lambda r: float(r.kpi("reward").mean())).policy
        earned += " (it is the reference; next comes " + rival + ")"
    return f"{earned}, {verdict(best.kpi('reward'), evaluation.result(rival).kpi('reward'), rival)}"


def verdict(winner: FloatArray, other: FloatArray, name: str) -> str:
    """How much more one policy earned than another, and what the interval says of it.

    Args:
        winner: ``(D,)`` rewards of the one with the higher mean.
        other: ``(D,)`` rewards of the other on the same days.
        name: Of the other.
    """
    difference = paired_difference(winner, other)
    more = f"{_with_interval(difference, 1, True)} more than {name}"
    if not np.isfinite(difference.half_width):
        return f"{more}; one day gives no interval, so it cannot tell them apart."
    if difference.excludes_zero:
        return f"{more}; the 95 % interval excludes 0."
    return f"{more}; the 95 % interval includes 0: {len(winner)} days cannot tell them apart."


def text(evaluation: Evaluation, *, markdown: bool = False) -> str:
    """What the command prints; in Markdown, what the report begins with."""
    scenario = evaluation.book.scenario
    days = len(evaluation.book)
    lines = [
        f"{scenario.name}: {days} {evaluation.split} day{'s' if days != 1 else ''} "
        f"({evaluation.book.labels[0]} .. {evaluation.book.labels[-1]}), "
        f"scenario {scenario.sha256[:12]}",
        "",
        table(evaluation, markdown=markdown),
        "",
    ]
    if len(evaluation.results) > 1:
        lines += [
            "Paired differences on the same days, mean ± half of the 95 % interval "
            "(*: it excludes zero):",
            "",
            paired_table(evaluation, markdown=markdown),
            "",
        ]
    lines += [f"- {r.policy}: {r.note}" for r in evaluation.results if r.note]
    for r in evaluation.results:
        if r.refused:
            lines.append(f"- {r.policy}: {r.refused} decisions were not allowed and were refused")
        if r.fallbacks:
            lines.append(f"- {r.policy}: fell back {r.fallbacks} times")
    if evaluation.hindsight:
        sources = [h.source for h in evaluation.hindsight]
        counts = ", ".join(f"{s} {sources.count(s)}" for s in sorted(set(sources)))
        kind = evaluation.hindsight[0].kind
        what = "a bound" if kind == "bound" else f"the {kind} solution, not a bound"
        lines.append(f"- hindsight is {what} (days by source: {counts})")
    lines += [f"- note: {note}" for note in evaluation.notes]
    lines += ["", conclusion(evaluation)]
    return "\n".join(lines).rstrip() + "\n"


def write_report(evaluation: Evaluation, folder: Path, provenance: dict[str, Any]) -> list[Path]:
    """Write ``report.md`` and the plots; returns the files.

    Raises:
        UsageError: If the folder cannot be written.
    """
    from . import plots  # Matplotlib takes a second to import: only when a report is asked for

    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = plots.draw(evaluation, folder)
        report = folder / "report.md"
        lines = [
            f"# Evaluation on {evaluation.book.scenario.name}",
            "",
            f"Command: `{provenance['command']}`  ",
            f"Commit: {provenance['commit'] or 'unknown'}  ",
            f"Machine: {provenance['machine']['processor']}, "
            f"{provenance['machine']['cpus']} CPUs, Python {provenance['machine']['python']}",
            "",
            text(evaluation, markdown=True),
            "",
            *(f"![{file.stem}]({file.name})" for file in files),
        ]
        temporary = report.with_name(report.name + ".partial")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(report)
    except OSError as error:
        raise UsageError(f"--report {folder} cannot be written: {error.strerror}") from error
    return [report, *files]


def _with_interval(value: Estimate, decimals: int, interval: bool, *, signed: bool = False) -> str:
    if not np.isfinite(value.mean):
        return "n/a"
    shown = f"{value.mean:{'+' if signed else ''}.{decimals}f}"
    if interval and np.isfinite(value.half_width):
        shown += f" ± {value.half_width:.{decimals}f}"
    return shown


def _two_digits(value: float) -> str:
    if value <= 0 or not np.isfinite(value):
        return f"{value:g}"
    decimals = 1 - int(np.floor(np.log10(value)))
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, headings on two lines: narrower than Markdown."""
    split = [head.split("|") for head in heads]
    top = [parts[0] if len(parts) > 1 else "" for parts in split]
    bottom = [parts[-1] for parts in split]
    lines = [top, bottom, *rows] if any(top) else [bottom, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    shown = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        shown.append("  ".join(cells).rstrip())
    shown.insert(len(lines) - len(rows), "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(shown)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = ["| " + " | ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)) + " |"]
    lines.append("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
