"""The report of an evaluation: Markdown tables and PNG plots in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.errors import UsageError

from .evaluation import Evaluation, latency
from .paired import Estimate, estimate

COLUMNS = (
    ("reward", "reward/day", 1),
    ("completion_pct", "completed %", 1),
    ("on_time_pct", "on time %", 1),
    ("late_pct", "late %", 1),
    ("unserved", "unserved", 1),
    ("wait_mean_min", "wait min", 1),
    ("wait_p95_min", "p95 wait", 1),
    ("deadhead_km_per_trip", "empty km/trip", 2),
    ("trips_per_vehicle_hour", "trips/veh-h", 2),
    ("workload_gini", "Gini", 2),
    ("satisfaction", "satisfaction", 2),
    ("reward_per_step", "reward/step", 2),
)
"""KPI, heading and decimals of the main table."""


def table(evaluation: Evaluation) -> str:
    """The main table in Markdown: means with half-widths of 95 % intervals."""
    heads = ["policy", *(head for _, head, _ in COLUMNS), "gap closed %", "ms p50 / p99"]
    bound = bool(evaluation.hindsight) and evaluation.hindsight[0].kind == "bound"
    if bound:
        heads.insert(-1, "of bound %")
    rows = []
    for result in evaluation.results:
        cells = [result.policy]
        for kpi, _, decimals in COLUMNS:
            cells.append(_with_interval(estimate(result.kpi(kpi)), decimals, kpi == "reward"))
        gap = evaluation.gap(result.policy)
        cells.append(_with_interval(gap, 1, True) if gap else "")
        if bound:
            share = evaluation.share_of_bound(result.policy)
            cells.append(_with_interval(share, 1, True) if share else "")
        spent = latency(result)
        cells.append(f"{spent['p50_ms']:.3g} / {spent['p99_ms']:.3g}")
        rows.append(cells)
    if evaluation.hindsight:
        kind = evaluation.hindsight[0].kind
        yardstick = estimate(evaluation.hindsight_rewards())
        cells = [f"hindsight ({kind})", _with_interval(yardstick, 1, True)]
        cells += [""] * (len(heads) - len(cells))
        cells[heads.index("gap closed %")] = "100"
        rows.append(cells)
    return markdown_table(heads, rows)


def paired_table(evaluation: Evaluation) -> str:
    """Paired differences to the reference in Markdown."""
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
    return markdown_table(heads, rows)


def text(evaluation: Evaluation) -> str:
    """What the command prints and the report begins with."""
    scenario = evaluation.book.scenario
    days = len(evaluation.book)
    lines = [
        f"{scenario.name}: {days} {evaluation.split} day{'s' if days != 1 else ''} "
        f"({evaluation.book.labels[0]} .. {evaluation.book.labels[-1]}), "
        f"scenario {scenario.sha256[:12]}",
        "",
        table(evaluation),
        "",
    ]
    if len(evaluation.results) > 1:
        lines += [
            "Paired differences on the same days, mean ± half of the 95 % interval "
            "(*: it excludes zero):",
            "",
            paired_table(evaluation),
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
        lines.append(f"- hindsight is a {evaluation.hindsight[0].kind} (days by source: {counts})")
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
            text(evaluation),
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


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = ["| " + " | ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)) + " |"]
    lines.append("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
