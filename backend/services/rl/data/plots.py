"""Pictures of a history's report: demand, map, lead times and service."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.types import FloatArray

from .dataset import HistoryDays
from .sampling import KM_PER_DEGREE
from .service import Service

BLUE, ORANGE, GREEN, RED, GREY = "#3b6ea8", "#e08a2c", "#4c9a6a", "#c0504d", "#9a9a9a"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DPI = 110
_MAP_POINTS = 6_000
_LABELLED_WEEKS = 20
_LABELLED_SHARE = 3.0
"""Percent; the number of a thinner part would not fit in it."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def plain(axis: Any, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Title, labels and few lines."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write the picture, the same bytes for the same figure."""
    figure.savefig(path, metadata={"Software": None})


def start_hour(history: HistoryDays) -> float:
    """The operating day's start in hours after midnight."""
    hours, _, minutes = history.day_start.partition(":")
    return int(hours) + int(minutes) / 60


def weekday_of(history: HistoryDays) -> npt.NDArray[np.int64]:
    """Day of the week of each date, Monday 0."""
    return np.array([date.fromisoformat(d).weekday() for d in history.dates], dtype=np.int64)


def bookings_by_hour(history: HistoryDays) -> tuple[list[int], FloatArray]:
    """Hours after the day's start, and mean bookings a date by weekday and hour, ``(7, H)``.

    NaN for weekdays without any date.
    """
    hours = int(np.ceil(history.horizon_min / 60))
    weekday = weekday_of(history)
    per_date = np.diff(history.booking_offset)
    hour = (history.bookings["promised_min"] // 60).astype(np.int64).clip(0, hours - 1)
    table = np.zeros((7, hours))
    np.add.at(table, (np.repeat(weekday, per_date), hour), 1.0)
    dates = np.bincount(weekday, minlength=7).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = table / dates[:, None]
    return list(range(hours)), mean


def plot_demand(history: HistoryDays, path: Path) -> None:
    """Mean bookings by hour and weekday, and the daily counts."""
    hours, mean = bookings_by_hour(history)
    clock = [f"{int(start_hour(history) + h) % 24:02d}" for h in hours]
    counts = np.diff(history.booking_offset)
    weekday = weekday_of(history)
    figure = new_figure(9.5, 6.4)
    heat, daily = figure.subplots(2, 1, height_ratios=(1.25, 1))
    used = np.flatnonzero(~np.isnan(mean[:, 0]))
    image = heat.imshow(mean[used], aspect="auto", cmap="Blues", vmin=0)
    heat.set_xticks(range(len(hours)), clock)
    heat.set_yticks(range(len(used)), [WEEKDAYS[d] for d in used])
    dark = 0.6 * float(np.nanmax(mean))
    if len(hours) <= 16:
        for row, d in enumerate(used):
            for h in hours:
                colour = "white" if mean[d, h] > dark else "black"
                heat.text(h, row, f"{mean[d, h]:.1f}", ha="center", va="center", fontsize=7.5,
                          color=colour)  # fmt: skip
    plain(heat, "Mean bookings by weekday and hour of the promised pickup", "hour")
    heat.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(image, ax=heat, pad=0.01).ax.tick_params(labelsize=8)
    days = np.array(history.dates, dtype="datetime64[D]")
    shades = (BLUE, ORANGE, GREEN)
    for s, (name, colour) in enumerate(
        zip(("training", "validation", "test"), shades, strict=True)
    ):
        of = history.split == s
        if of.any():
            daily.bar(days[of], counts[of], width=0.85, color=colour, label=f"{name} days")
    weekend = weekday >= 5
    if weekend.any():
        daily.bar(days[weekend], counts[weekend], width=0.85, color="white", alpha=0.45)
    plain(daily, "Bookings a day (weekends paler)", "", "bookings")
    daily.set_ylim(0, 1.22 * counts.max())
    daily.legend(fontsize=8, frameon=False, ncols=3, loc="upper right")
    save(figure, path)


def plot_map(history: HistoryDays, path: Path, model: DemandModel | None) -> None:
    """Pickups and dropoffs, fitted zones, and where drivers start."""
    bookings = history.bookings
    if len(bookings) > _MAP_POINTS:
        bookings = bookings[:: -(-len(bookings) // _MAP_POINTS)]
    middle = float(np.median(bookings["pickup_lat"]))
    stretch = 1 / np.cos(np.radians(middle))
    starts = np.unique(np.stack([history.drivers["lon"], history.drivers["lat"]], 1), axis=0)
    (left, right), (low, high) = _frame(bookings, starts)
    tall = (high - low) * stretch / (right - left)
    width, height = (8.2, 8.2 * tall) if tall < 1 else (8.2 / tall, 8.2)
    figure = new_figure(max(width, 4.0) + 0.6, max(height, 3.0) + 1.1)
    axis = figure.subplots()
    size = float(np.clip(16_000 / len(bookings), 1.5, 14))
    # Mixed in a fixed random order, so that neither end hides the other.
    lon = np.concatenate([bookings["pickup_lon"], bookings["dropoff_lon"]])
    lat = np.concatenate([bookings["pickup_lat"], bookings["dropoff_lat"]])
    colour = np.repeat([BLUE, ORANGE], len(bookings))
    order = np.random.default_rng(0).permutation(len(lon))
    axis.scatter(lon[order], lat[order], s=size, c=colour[order], alpha=0.35, linewidths=0)
    for label, of in (("pickups", BLUE), ("dropoffs", ORANGE)):
        axis.scatter([], [], s=34, color=of, linewidths=0, label=label)
    if model is not None:
        weight = (model.stream_share[:, None, None] * model.od_share).sum(axis=0)
        share = (weight.sum(axis=0) + weight.sum(axis=1)) / 2
        axis.scatter(
            model.site_lon, model.site_lat, s=40 + 2_500 * share, facecolors="none",
            edgecolors="black", linewidths=0.9, label="fitted zones (area: share of trips)",
        )  # fmt: skip
    axis.scatter(starts[:, 0], starts[:, 1], marker="^", s=46, color=RED, edgecolors="white",
                 linewidths=0.7, label="drivers' starts", zorder=3)  # fmt: skip
    axis.set_aspect(stretch)
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)
    _scale_bar(axis, middle)
    plain(axis, "Where trips begin and end", "longitude", "latitude")
    axis.ticklabel_format(useOffset=False)
    legend = figure.legend(fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([34])
    save(figure, path)


def _frame(bookings: npt.NDArray[np.void], starts: FloatArray) -> list[tuple[float, float]]:
    """Limits of longitude and latitude around the middle 99 % of the places.

    One far trip must not shrink all others.
    """
    limits = []
    for column, name in enumerate(("lon", "lat")):
        places = np.concatenate([bookings[f"pickup_{name}"], bookings[f"dropoff_{name}"]])
        low, high = np.quantile(places, [0.003, 0.997])
        if len(starts):
            low, high = min(low, starts[:, column].min()), max(high, starts[:, column].max())
        margin = 0.04 * max(high - low, 0.005)
        limits.append((float(low - margin), float(high + margin)))
    return limits


def _scale_bar(axis: Any, latitude: float) -> None:
    left, right = axis.get_xlim()
    low, high = axis.get_ylim()
    km_per_degree = KM_PER_DEGREE * np.cos(np.radians(latitude))
    width_km = (right - left) * km_per_degree
    length = max((k for k in (0.1, 0.5, 1, 2, 5, 10, 20, 50, 100) if k < width_km / 3), default=0.1)
    end = right - 0.04 * (right - left)
    y = low + 0.04 * (high - low)
    axis.plot([end - length / km_per_degree, end], [y, y], color="black", linewidth=2)
    axis.text(end - length / km_per_degree / 2, y + 0.012 * (high - low), f"{length:g} km",
              ha="center", fontsize=8)  # fmt: skip


_LEADS = ((10, "10 min"), (60, "1 h"), (240, "4 h"), (1440, "1 d"), (4320, "3 d"), (10080, "1 wk"))


def plot_leads(history: HistoryDays, path: Path) -> None:
    """Arrival profile: how long before the promised time dispatch learns of a booking."""
    figure = new_figure(8.2, 4.0)
    axis = figure.subplots()
    lead = history.bookings["promised_min"] - history.bookings["created_min"]
    longest = float(lead.max(initial=120.0))
    for is_return, name, colour in ((False, "outbound", BLUE), (True, "return", ORANGE)):
        of = np.sort(lead[history.bookings["is_return"] == is_return])
        if len(of):
            known = np.arange(1, len(of) + 1) / len(of)
            axis.step(np.maximum(of, 1), 100 * (1 - known), where="post", color=colour,
                      label=f"{name} ({len(of)})")  # fmt: skip
    axis.set_xscale("log")
    ticks = [(m, label) for m, label in _LEADS if m <= 1.5 * longest]
    axis.set_xticks([m for m, _ in ticks], [label for _, label in ticks])
    axis.minorticks_off()
    axis.set_xlim(1, 1.2 * longest)
    axis.set_ylim(0, 102)
    plain(axis, "Arrival profile: bookings already known this long before the promised time",
           "time before the promised pickup", "% known")  # fmt: skip
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False)
    save(figure, path)


def plot_service(history: HistoryDays, service: Service, path: Path) -> None:
    """Shares of each week's bookings by what became of them."""
    monday = np.array(history.dates, dtype="datetime64[D]")
    monday = monday - weekday_of(history).astype("timedelta64[D]")
    weeks, week = np.unique(np.repeat(monday, np.diff(history.booking_offset)), return_inverse=True)
    total = np.bincount(week)
    figure = new_figure(8.2, 4.0)
    axis = figure.subplots()
    below = np.zeros(len(weeks))
    for name, colour in (
        ("on_time", GREEN),
        ("late", ORANGE),
        ("unserved", RED),
        ("called_off", GREY),
    ):
        share = (
            100 * np.bincount(week, weights=getattr(service, name), minlength=len(weeks)) / total
        )
        label = name.replace("_", " ")
        axis.bar(range(len(weeks)), share, bottom=below, color=colour, width=0.85, label=label)
        if len(weeks) <= _LABELLED_WEEKS:
            for w in np.flatnonzero(share >= _LABELLED_SHARE).tolist():
                axis.text(w, below[w] + share[w] / 2, f"{share[w]:.0f}", ha="center", va="center",
                          fontsize=7.5, color="white")  # fmt: skip
        below += share
    shown = range(0, len(weeks), -(-len(weeks) // 14))
    axis.set_xticks(shown, [str(weeks[w])[5:] for w in shown])
    axis.set_ylim(0, 100)
    plain(axis, "What became of the bookings", "week of (month-day)", "% of bookings")
    axis.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.06), frameon=False)
    save(figure, path)
