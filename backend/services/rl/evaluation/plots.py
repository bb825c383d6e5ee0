"""Plots of an evaluation: KPI bars with intervals, a day's Gantt per driver, a map."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import MatrixTravel
from services.rl.simulation.types import BookingStatus

from .evaluation import Evaluation
from .paired import estimate
from .runner import play_day

# Okabe and Ito's palette, legible to the colour-blind.
BLUE, ORANGE, GREEN, RED, GREY, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#8A8A8A",
    "#56B4E9",
)
BARS = (
    ("reward", "Reward per day"),
    ("completion_pct", "Completed, %"),
    ("on_time_pct", "On time, %"),
    ("unserved", "Unserved per day"),
    ("wait_p95_min", "95th percentile of wait, min"),
    ("deadhead_km_per_trip", "Empty km per trip"),
)


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write all plots; the Gantt and the map show the first day under the best policy."""
    files = [_kpi_bars(evaluation, folder / "kpis.png")]
    best = max(evaluation.results, key=lambda r: float(r.kpi("reward").mean())).policy
    engine = evaluation.book.engine([0])
    policy = make_policy(
        best, evaluation.book.scenario, source=evaluation.book.source, model=evaluation.model
    )
    play_day(policy, engine)
    label = evaluation.book.labels[0]
    files.append(_gantt(engine, f"{best}, {label}", folder / "gantt.png"))
    files.append(_map(engine, f"{best}, {label}", folder / "map.png"))
    return files


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, under a temporary name first."""
    FigureCanvasAgg(figure)
    temporary = path.with_name(path.name + ".partial")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)
    return path


def _kpi_bars(evaluation: Evaluation, path: Path) -> Path:
    names = evaluation.names()
    figure = Figure(figsize=(11, 0.9 + 0.42 * len(names) * 2 + 1.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (kpi, title) in zip(axes.flat, BARS, strict=True):
        values = [estimate(evaluation.result(n).kpi(kpi)) for n in names]
        means = [v.mean for v in values]
        errors = [v.half_width if np.isfinite(v.half_width) else 0.0 for v in values]
        colours = [GREY if n != evaluation.reference else BLUE for n in names]
        axis.barh(names, means, xerr=errors, color=colours, height=0.65, ecolor="black", capsize=2)
        if kpi == "reward" and evaluation.hindsight:
            ceiling = float(evaluation.hindsight_rewards().mean())
            axis.axvline(ceiling, color=GREEN, linestyle="--", linewidth=1.5)
            axis.text(
                ceiling, 1.01, "hindsight", color=GREEN, ha="center", va="bottom", fontsize=8,
                transform=axis.get_xaxis_transform(),
            )  # fmt: skip
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10, pad=14 if kpi == "reward" else 6)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.tick_params(labelsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{evaluation.book.scenario.name}: {len(evaluation.book)} {evaluation.split} days, "
        f"means and 95 % intervals (blue: reference)",
        fontsize=11,
    )
    return save_figure(figure, path)


def _clock(engine: Engine, minutes: float) -> str:
    total = round(minutes) + engine.scenario.rules.day_start_min
    return f"{total // 60 % 24:02d}:{total % 60:02d}"


def _gantt(engine: Engine, title: str, path: Path) -> Path:
    history = engine.history(0)
    drivers = engine.num_drivers
    figure = Figure(figsize=(13, max(3.0, 0.34 * drivers + 1.6)), layout="constrained")
    axis = figure.subplots()
    for row in history[history["driver"] >= 0]:
        y = int(row["driver"])
        late = row["pickup_min"] > row["window_end_min"]
        for start, end, colour in (
            (row["depart_min"], row["arrive_min"], GREY),
            (row["arrive_min"], row["pickup_min"], "#DDDDDD"),
            (row["pickup_min"], row["leave_min"], SKY),
            (row["leave_min"], row["dropoff_min"], RED if late else BLUE),
            (row["dropoff_min"], row["done_min"], SKY),
        ):
            if end > start:
                axis.barh(y, end - start, left=start, height=0.7, color=colour, linewidth=0)
    shifts = engine.day(0).drivers
    for d in range(min(drivers, len(shifts))):
        for moment in (shifts[d]["shift_start_min"], shifts[d]["shift_end_min"]):
            axis.plot([moment, moment], [d - 0.45, d + 0.45], color="black", linewidth=1.2)
    horizon = engine.scenario.rules.horizon_min
    ticks = np.linspace(0, horizon, 9)
    axis.set_xticks(ticks, [_clock(engine, t) for t in ticks])
    if drivers <= 40:
        axis.set_yticks(range(drivers), [f"driver {d}" for d in range(drivers)], fontsize=8)
    axis.set_ylim(drivers - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"A day per driver — {title}", fontsize=11)
    axis.legend(
        handles=[
            Patch(color=GREY, label="empty to the pickup"),
            Patch(color="#DDDDDD", label="waits for the window"),
            Patch(color=SKY, label="boards / alights"),
            Patch(color=BLUE, label="patient aboard"),
            Patch(color=RED, label="patient aboard, picked up late"),
            Line2D([], [], color="black", label="shift begins / ends"),
        ],
        ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False,
    )  # fmt: skip
    return save_figure(figure, path)


def _map(engine: Engine, title: str, path: Path) -> Path:
    history = engine.history(0)
    figure = Figure(figsize=(9, 8), layout="constrained")
    axis = figure.subplots()
    served = history["status"] == BookingStatus.COMPLETED
    late = served & (history["pickup_min"] > history["window_end_min"])
    unserved = history["status"] == BookingStatus.UNSERVED
    groups: list[tuple[str, Any, str, str]] = [
        ("served on time or within the window", served & ~late, BLUE, "o"),
        ("served late", late, ORANGE, "s"),
        ("unserved", unserved, RED, "X"),
    ]
    for label, chosen, colour, marker in groups:
        rows = history[chosen]
        for row in rows:
            axis.plot(
                [row["pickup_lon"], row["dropoff_lon"]],
                [row["pickup_lat"], row["dropoff_lat"]],
                color=colour, alpha=0.18, linewidth=1,
            )  # fmt: skip
        axis.scatter(
            rows["pickup_lon"], rows["pickup_lat"], s=34, color=colour, marker=marker,
            edgecolor="white", linewidth=0.6, label=f"{label} ({len(rows)})", zorder=3,
        )  # fmt: skip
    base = engine.scenario.place.base
    if not isinstance(engine.scenario.travel, MatrixTravel):
        axis.scatter(
            [base.lon], [base.lat], s=110, marker="*", color="black", label="base", zorder=4
        )
    axis.set_aspect(1.0 / np.cos(np.radians(base.lat)))
    axis.set_xlabel("longitude, degrees")
    axis.set_ylabel("latitude, degrees")
    axis.set_title(f"Pickups and their trips — {title}", fontsize=11)
    axis.legend(fontsize=9, loc="best")
    axis.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)
