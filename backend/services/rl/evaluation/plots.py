"""Plots of an evaluation: KPIs with intervals, a day's Gantt per driver, a map."""

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
from .kpi_figure import BLUE, GREY, ORANGE, RED, SKY, kpi_figure
from .report import best_policy
from .runner import play_day

DOING = {
    "empty to the pickup": GREY,
    "waits for the window": "#DDDDDD",
    "boards / alights": SKY,
    "patient aboard": BLUE,
    "patient aboard, picked up late": RED,
}
"""What a driver does, and its colour in the Gantt."""


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write all plots; the Gantt and the map show the first day under the best policy."""
    files = [save_figure(kpi_figure(evaluation), folder / "kpis.png")]
    best = best_policy(evaluation).policy
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


def _clock(engine: Engine, minutes: float) -> str:
    total = round(minutes) + engine.scenario.rules.day_start_min
    return f"{total // 60 % 24:02d}:{total % 60:02d}"


def _gantt(engine: Engine, title: str, path: Path) -> Path:
    history = engine.history(0)
    drivers = engine.num_drivers
    figure = Figure(figsize=(13, max(3.0, 0.34 * drivers + 1.6)), layout="constrained")
    axis = figure.subplots()
    drawn = set()
    for row in history[history["driver"] >= 0]:
        y = int(row["driver"])
        late = row["pickup_min"] > row["window_end_min"]
        for start, end, what in (
            (row["depart_min"], row["arrive_min"], "empty to the pickup"),
            (row["arrive_min"], row["pickup_min"], "waits for the window"),
            (row["pickup_min"], row["leave_min"], "boards / alights"),
            (row["leave_min"], row["dropoff_min"],
             "patient aboard, picked up late" if late else "patient aboard"),
            (row["dropoff_min"], row["done_min"], "boards / alights"),
        ):  # fmt: skip
            if end > start:
                axis.barh(y, end - start, left=start, height=0.7, color=DOING[what], linewidth=0)
                if end - start >= 1.0:  # a shorter stretch cannot be seen
                    drawn.add(what)
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
            *(Patch(color=colour, label=what) for what, colour in DOING.items() if what in drawn),
            Line2D([], [], color="black", label="shift begins / ends"),
        ],
        ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False,
    )  # fmt: skip
    return save_figure(figure, path)


def _map(engine: Engine, title: str, path: Path) -> Path:
    history = engine.history(0)
    base = engine.scenario.place.base
    stretch = 1.0 / np.cos(np.radians(base.lat))
    figure = Figure(figsize=_map_size(history, stretch), layout="constrained")
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
    if not isinstance(engine.scenario.travel, MatrixTravel):
        axis.scatter(
            [base.lon], [base.lat], s=110, marker="*", color="black", label="base", zorder=4
        )
    axis.set_aspect(stretch)
    axis.margins(0.03)
    axis.set_xlabel("longitude, degrees")
    axis.set_ylabel("latitude, degrees")
    axis.set_title(f"Pickups and their trips — {title}", fontsize=11)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def _map_size(history: Any, stretch: float) -> tuple[float, float]:
    """Inches of a figure in the shape of the places, so that no margin stays empty."""
    spans = []
    for name in ("lon", "lat"):
        places = np.concatenate([history[f"pickup_{name}"], history[f"dropoff_{name}"]])
        spans.append(float(np.ptp(places)) if len(places) else 0.0)
    width, height = max(spans[0], 1e-4), max(spans[1], 1e-4) * stretch
    scale = 8.0 / max(width, height)
    return max(width * scale, 4.5) + 0.9, max(height * scale, 3.0) + 1.4
