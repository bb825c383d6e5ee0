"""The figure that compares policies: paired differences first, then the KPIs' means."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .evaluation import Evaluation
from .paired import Estimate, estimate

# Okabe and Ito's palette, legible to the colour-blind.
BLUE, ORANGE, GREEN, RED, GREY, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#8A8A8A",
    "#56B4E9",
)
HIGHER, LOWER = "higher is better →", "← lower is better"
MEANS = (
    ("reward", "Reward per day", HIGHER, -np.inf, np.inf),
    ("completion_pct", "Completed, %", HIGHER, 0.0, 100.0),
    ("on_time_pct", "On time, %", HIGHER, 0.0, 100.0),
    ("unserved", "Unserved per day", LOWER, 0.0, np.inf),
    ("wait_p95_min", "95th percentile of wait, min", LOWER, 0.0, np.inf),
    ("deadhead_km_per_trip", "Empty km per trip", LOWER, 0.0, np.inf),
)
"""KPI, title, direction, and the values it can take."""
DIFFERENCES = (("reward", "Reward per day", HIGHER), ("on_time_pct", "On time, points", HIGHER))
FAR = 3.0
"""A policy so many spreads of the others away from them is an arrow at the panel's edge."""


def kpi_figure(evaluation: Evaluation) -> Figure:
    """Panels of differences to the reference, where there are others, and of means.

    Learned policies, the reference and the others have a colour each. An axis shows the range in
    which policies differ; those far outside of it (such as ``random``) stand at its edge, with
    their value.
    """
    names = evaluation.names()
    paired = len(names) > 1
    figure = Figure(
        figsize=(15 if paired else 12, max(4.8, 2.4 + 0.62 * len(names))), layout="constrained"
    )
    axes = figure.subplots(2, 4 if paired else 3, sharey=True, squeeze=False)
    means = axes[:, 1:] if paired else axes
    colours = [_colour(evaluation, name) for name in names]
    if paired:
        for axis, (kpi, title, direction) in zip(axes[:, 0], DIFFERENCES, strict=True):
            values = [evaluation.difference(name, kpi) for name in names]
            axis.axvline(0, color=BLUE, linewidth=1)
            axis.set_facecolor("#f4f4f0")
            _points(axis, values, colours, -np.inf, np.inf, (0.0,))
            _title(axis, f"{title}: minus {evaluation.reference}", direction)
    for axis, (kpi, title, direction, low, high) in zip(means.flat, MEANS, strict=True):
        values = [estimate(evaluation.result(name).kpi(kpi)) for name in names]
        shown: tuple[float, ...] = ()
        if kpi == "reward" and evaluation.hindsight:
            shown = (float(evaluation.hindsight_rewards().mean()),)
            axis.axvline(shown[0], color=GREEN, linestyle="--", linewidth=1.5)
        _points(axis, values, colours, low, high, shown)
        _title(axis, title, direction)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    days = len(evaluation.book)
    figure.suptitle(
        f"{evaluation.book.scenario.name}: {days} {evaluation.split} "
        f"day{'s' if days != 1 else ''}, means and 95 % intervals",
        fontsize=12,
    )
    figure.legend(handles=_legend(evaluation, colours), loc="outside lower center", ncols=5,
                  fontsize=9, frameon=False)  # fmt: skip
    return figure


def _colour(evaluation: Evaluation, name: str) -> str:
    if name == evaluation.reference:
        return BLUE
    return RED if evaluation.result(name).model_sha else "#555555"


def _legend(evaluation: Evaluation, colours: list[str]) -> list[Line2D]:
    kinds = {
        BLUE: f"reference ({evaluation.reference})",
        RED: "learned",
        "#555555": "other policies",
    }
    handles = [
        Line2D([], [], color=colour, marker="o", label=label)
        for colour, label in kinds.items()
        if colour in colours
    ]
    if evaluation.hindsight:
        kind = evaluation.hindsight[0].kind
        handles.append(
            Line2D([], [], color=GREEN, linestyle="--", label=f"hindsight ({kind}), mean")
        )
    if len(colours) > 1:
        handles.append(
            Line2D([], [], color="#555555", marker="o", markerfacecolor="white",
                   label="hollow: the difference may be 0")
        )  # fmt: skip
    return handles


def _title(axis: Any, title: str, direction: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(direction, fontsize=8, color="#666666")
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _points(
    axis: Any,
    values: list[Estimate],
    colours: list[str],
    lowest: float,
    highest: float,
    shown: tuple[float, ...],
) -> None:
    """A dot with its interval per policy.

    Args:
        axis: To draw on.
        values: One per policy.
        colours: One per policy.
        lowest: The KPI cannot be below.
        highest: The KPI cannot be above.
        shown: Further values that the axis must reach; for differences the zero.
    """
    ends = [_ends(value, lowest, highest) for value in values]
    low, high = axis_range([v.mean for v in values], ends, shown, lowest, highest)
    axis.set_xlim(low, high)
    differences = shown == (0.0,)
    for y, (value, (left, right), colour) in enumerate(zip(values, ends, colours, strict=True)):
        if not np.isfinite(value.mean):
            continue
        if not low <= value.mean <= high:
            edge, marker = (low, "<") if value.mean < low else (high, ">")
            axis.plot(edge, y, marker=marker, color=colour, clip_on=False, markersize=7)
            axis.annotate(
                f"{value.mean:.3g}", (edge, y), xytext=(8 if marker == "<" else -8, 0),
                textcoords="offset points", ha="left" if marker == "<" else "right", va="center",
                fontsize=8, color=colour,
            )  # fmt: skip
            continue
        hollow = differences and not value.excludes_zero and value.half_width > 0
        axis.plot([left, right], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        axis.plot(value.mean, y, "o", color=colour, markersize=6, clip_on=False,
                  markerfacecolor="white" if hollow else colour)  # fmt: skip


def _ends(value: Estimate, lowest: float, highest: float) -> tuple[float, float]:
    """Ends of the interval, within what the KPI can be."""
    if not np.isfinite(value.half_width):
        return value.mean, value.mean
    return max(value.low, lowest), min(value.high, highest)


def axis_range(
    means: list[float],
    ends: list[tuple[float, float]],
    shown: tuple[float, ...],
    lowest: float,
    highest: float,
) -> tuple[float, float]:
    """The range in which the policies differ: without those far away from all others.

    Args:
        means: One per policy.
        ends: Ends of each one's interval.
        shown: Further values to reach.
        lowest: The KPI cannot be below.
        highest: The KPI cannot be above.
    """
    known = [(m, e) for m, e in zip(means, ends, strict=True) if np.isfinite(m)]
    if not known:
        return 0.0, 1.0
    centre = float(np.median([m for m, _ in known]))
    apart = np.array([abs(m - centre) for m, _ in known])
    widths = np.array([right - left for _, (left, right) in known])
    # The usual distance from the middle, but never so little that intervals would be cut.
    usual = max(float(np.median(apart)), float(np.median(widths)), 1e-9)
    near = [e for (_, e), distance in zip(known, apart, strict=True) if distance <= FAR * usual]
    low = min([left for left, _ in near] + list(shown))
    high = max([right for _, right in near] + list(shown))
    margin = 0.06 * max(high - low, 1e-6 + 0.01 * abs(centre))
    return max(low - margin, lowest), min(high + margin, highest)
