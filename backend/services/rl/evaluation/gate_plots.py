"""A gate's figures: gains with their margins, and plans against what came about."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from .calibration import CLOSE_MIN, Calibration
from .gate_lines import FAIL, Line
from .kpi_figure import BLUE, GREEN, GREY, ORANGE, RED

if TYPE_CHECKING:
    from .gate import GateReport

GAINS_PNG, CALIBRATION_PNG = "gate_gains.png", "gate_calibration.png"

_GROUPS: Final = (
    ("champion", "against the champion"),
    ("heuristic", "against the heuristic"),
    ("fallback", "its fallback, against today's"),
    ("real_champion", "real days, against the champion"),
    ("real_heuristic", "real days, against the heuristic"),
    ("stress", "worse worlds, against the heuristic"),
)
_MOST_MIN: Final = 30.0


def plots(report: "GateReport", folder: Path) -> list[Path]:
    """Draw what there is; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {GAINS_PNG: gains_figure(report)}
    if report.calibration is not None and report.calibration.pickups:
        figures[CALIBRATION_PNG] = calibration_figure(report.calibration, report)
    paths = []
    for name, figure in figures.items():
        temporary = folder / f".{name}.partial.png"
        figure.savefig(temporary, dpi=110)
        temporary.replace(folder / name)
        paths.append(folder / name)
    return paths


def gains_figure(report: "GateReport") -> Figure:
    """One panel per group of comparisons: the gain, its interval, the margin."""
    panels = [
        (title, lines)
        for group, title in _GROUPS
        if (lines := [ln for ln in report.lines if ln.group == group and ln.value is not None])
    ]
    heights = [len(lines) + 1.6 for _, lines in panels]
    figure = Figure(figsize=(9.5, 0.9 + 0.36 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, lines) in zip(grid, panels, strict=True):
        _gains(axis, title, lines)
    verdict = "GO" if report.go else "NO-GO"
    figure.suptitle(
        f"Gate of {report.on.isoformat()}: {verdict}   "
        f"{report.scenario['name']}, {report.days} fresh days",
        fontsize=12,
        color=GREEN if report.go else RED,
    )
    figure.supxlabel(
        "gain of the candidate, 95 % interval (reward: % of worth; others: points); "
        "orange: the margin",
        fontsize=9,
    )
    return figure


def _gains(axis: Any, title: str, lines: list[Line]) -> None:
    axis.axvline(0.0, color=GREY, linewidth=0.8)
    for row, line in enumerate(lines):
        assert line.value is not None
        colour = RED if line.verdict == FAIL else BLUE
        low = line.value if line.low is None else line.low
        high = line.value if line.high is None else line.high
        axis.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot(line.value, row, "o", color=colour, markersize=5)
        if line.threshold is not None:
            axis.plot([line.threshold] * 2, [row - 0.35, row + 0.35], color=ORANGE, linewidth=2)
    axis.set_yticks(range(len(lines)), [line.title for line in lines], fontsize=8)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(axis="x", color="#e4e4e0", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def calibration_figure(found: Calibration, report: "GateReport") -> Figure:
    """Histogram of pickups' errors, and their bias by the hour."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = np.clip(found.errors_min, -_MOST_MIN, _MOST_MIN)
    left.axvspan(-CLOSE_MIN, CLOSE_MIN, color="#e8f1ec")
    left.hist(shown, bins=np.arange(-_MOST_MIN, _MOST_MIN + 1, 2.0), color=BLUE)
    left.axvline(0.0, color=GREY, linewidth=0.8)
    left.set_xlabel(f"pickup later than planned, min (beyond ±{_MOST_MIN:g}: at the edge)",
                    fontsize=9)  # fmt: skip
    left.set_ylabel("pickups", fontsize=9)
    close = found.close_share.mean if found.close_share is not None else float("nan")
    left.set_title(f"{found.pickups:,} pickups; {100 * close:.0f} % within {CLOSE_MIN:g} min",
                   fontsize=10, loc="left")  # fmt: skip
    hours = [h.hour for h in found.hours]
    limit = report.limits.pickup_bias_min
    right.axhline(0.0, color=GREY, linewidth=0.8)
    for edge in (-limit, limit):
        right.axhline(edge, color=ORANGE, linewidth=1.5, linestyle="--")
    right.plot(hours, [h.bias_min for h in found.hours], "o-", color=BLUE, label="mean (bias)")
    right.plot(hours, [h.mae_min for h in found.hours], "s:", color=GREEN,
               label="mean absolute error")  # fmt: skip
    right.set_xticks(hours, [f"{hour:02d}" for hour in hours])
    right.set_xlabel("hour of the decision", fontsize=9)
    right.set_ylabel("min", fontsize=9)
    right.set_title("by the hour; orange: the limit of the bias", fontsize=10, loc="left")
    right.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.12))
    for axis in (left, right):
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure
