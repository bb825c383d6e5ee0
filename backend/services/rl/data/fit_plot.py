"""The picture of a fit: every aspect that the report compares, held-out days beside drawn ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.scenarios import Split
from services.rl.simulation.types import FloatArray

from .dataset import HistoryDays
from .demand_fit import demanded, regular_days
from .goodness import Comparison, prebooked_lead_min, trip_km, zone_groups
from .plots import BLUE, ORANGE, RED, new_figure, plain, save, start_hour
from .sampling import sample_days

Bookings = npt.NDArray[np.void]
KINDS = (("immediate", "immediate"), ("wheelchair", "wheelchair"), ("is_return", "returns"))
"""Fields whose share is drawn in one panel, and the aspects they are."""


def plot_fit(
    history: HistoryDays,
    model: DemandModel,
    goodness: Sequence[Comparison],
    seed: int,
    path: Path,
) -> None:
    """Held-out days (or training days of a short history) beside days drawn from the model."""
    held_out = Split.VALIDATION if (history.split == 1).any() else Split.TRAIN
    real = [demanded(day) for day in regular_days(history.days(held_out))]
    drawn, drawn_counts = sample_days(model, np.random.default_rng(seed), 200)
    bookings = (np.concatenate(real), drawn)
    counts = (np.array([len(day) for day in real]), drawn_counts)
    labels = (f"{held_out.value} days", "drawn from the model")
    figure = new_figure(14.0, 6.6)
    axes = figure.subplots(2, 4).ravel()
    verdicts = {c.aspect: c.verdict for c in goodness}
    hour = start_hour(history)
    _histogram(
        axes[0], [b["promised_min"] / 60 + hour for b in bookings],
        np.arange(0, history.horizon_min + 30, 30) / 60 + hour,
    )  # fmt: skip
    _title(axes[0], "Promised pickup", "hour", "% of bookings", "promised time (min)", verdicts)
    longest = float(np.quantile(trip_km(bookings[0]), 0.995))
    _histogram(axes[1], [trip_km(b) for b in bookings], np.linspace(0, max(longest, 0.5), 26))
    _title(
        axes[1], "Trip length, great circle", "km", "% of bookings", "trip length (km)", verdicts
    )
    _cumulative(axes[2], [prebooked_lead_min(b) / 60 for b in bookings])
    _title(axes[2], "Lead time of the pre-booked", "hours", "% up to",
           "lead time of the pre-booked (min)", verdicts)  # fmt: skip
    _cumulative(axes[3], [b["pickup_service_min"] for b in bookings])
    _title(axes[3], "Pickup service", "minutes", "% up to", "pickup service (min)", verdicts)
    groups = zone_groups(model)
    cells = [np.bincount(groups(b)).astype(np.float64) for b in bookings]
    _pairs(axes[4], cells)
    _title(axes[4], "Pairs of zones, a dot each", "% of bookings, drawn", f"%, {labels[0]}",
           "pairs of zones", verdicts)  # fmt: skip
    levels = np.arange(1, 6)
    _beside(axes[5], [[100 * float((b["priority"] == p).mean()) for p in levels] for b in bookings],
            [str(p) for p in levels])  # fmt: skip
    _title(axes[5], "Priority", "1 (urgent) to 5", "% of bookings", "priorities", verdicts)
    _beside(axes[6], [[100 * float(b[field].mean()) for field, _ in KINDS] for b in bookings],
            [f"{aspect}\n({_short(verdicts.get(aspect))})" if aspect in verdicts else aspect
             for _, aspect in KINDS])  # fmt: skip
    plain(axes[6], "Kinds of booking", "", "% of bookings")
    _cumulative(axes[7], [c.astype(np.float64) for c in counts])
    _title(axes[7], "Bookings a day", "bookings", "% of regular days up to",
           "bookings a day", verdicts)  # fmt: skip
    handles = [
        axes[0].plot([], [], color=colour, label=label, linewidth=2)[0]
        for colour, label in zip((BLUE, ORANGE), labels, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    save(figure, path)


def _short(verdict: str | None) -> str:
    return {"like the model's own days": "as by chance"}.get(verdict or "", verdict or "")


def _title(
    axis: Any, title: str, xlabel: str, ylabel: str, aspect: str, verdicts: dict[str, str]
) -> None:
    verdict = verdicts.get(aspect)
    plain(axis, f"{title}: {_short(verdict)}" if verdict else title, xlabel, ylabel)
    if verdict == "differs":
        axis.title.set_color(RED)
        axis._left_title.set_color(RED)


def _histogram(axis: Any, values: list[FloatArray], edges: FloatArray) -> None:
    for of, colour in zip(values, (BLUE, ORANGE), strict=True):
        share, _ = np.histogram(of, edges)
        axis.stairs(100 * share / max(share.sum(), 1), edges, color=colour, linewidth=1.6)
    axis.set_ylim(0, None)


def _cumulative(axis: Any, values: list[FloatArray]) -> None:
    for of, colour in zip(values, (BLUE, ORANGE), strict=True):
        ordered = np.sort(of)
        if len(ordered):
            share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
            axis.step(ordered, share, where="post", color=colour, linewidth=1.6)
    axis.set_ylim(0, 102)


def _pairs(axis: Any, cells: list[FloatArray]) -> None:
    """A dot per pair of zone groups, on the diagonal where both sorts of days agree."""
    size = max(map(len, cells))
    real, drawn = (100 * np.pad(c, (0, size - len(c))) / max(float(c.sum()), 1.0) for c in cells)
    end = 1.08 * float(max(real.max(), drawn.max()))
    axis.plot([0, end], [0, end], color="#bbbbbb", linewidth=1)
    axis.scatter(drawn, real, s=14, color=BLUE, alpha=0.6, linewidths=0)
    axis.set_xlim(0, end)
    axis.set_ylim(0, end)


def _beside(axis: Any, shares: list[list[float]], names: list[str]) -> None:
    at = np.arange(len(names))
    for of, colour, shift in zip(shares, (BLUE, ORANGE), (-0.2, 0.2), strict=True):
        axis.bar(at + shift, of, width=0.38, color=colour)
    axis.set_xticks(at, names)
