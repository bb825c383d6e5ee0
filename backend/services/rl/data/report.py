"""The report of a collected history: Markdown with pictures, written beside the data set."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.rl.simulation.demand import DemandModel
from services.rl.simulation.scenarios import Split

from .dataset import HistoryDays
from .demand_fit import demanded, regular_days
from .fit_plot import plot_fit
from .goodness import Comparison
from .history import RawHistory
from .plots import (
    WEEKDAYS,
    bookings_by_hour,
    plot_demand,
    plot_leads,
    plot_map,
    plot_service,
    start_hour,
)
from .service import service_of
from .travel_fit import TravelFit
from .validation import Rejections, shown_id


@dataclass(frozen=True)
class Fit:
    """What was fitted to a history, and how well.

    Attributes:
        model: Demand, from the training days.
        travel: Speeds, from the drives of the training days.
        goodness: Comparisons with held-out days; empty when the history is too short.
        light_days: Training days left out because they have few bookings.
    """

    model: DemandModel
    travel: TravelFit
    goodness: list[Comparison]
    light_days: int


def write_rejected(path: Path, raw: RawHistory, rejections: Rejections) -> None:
    """Every rejected row with its place, its id and the reason; no other value of it."""
    ids = raw.columns.get("id", [])
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["where", "id", "reason", "detail"])
        for row, (reason, detail) in sorted(rejections.entries.items()):
            identity = shown_id(ids[row]) if row < len(ids) else ""
            writer.writerow([raw.where[row], identity, reason.value, detail])
        for where, reason, detail in rejections.drivers:
            writer.writerow([where, "", reason.value, detail])


def write_report(folder: Path, history: HistoryDays, fit: Fit | None, seed: int) -> None:
    """Write ``report.md`` and its pictures into the data set's folder."""
    service = service_of(history)
    plot_demand(history, folder / "demand.png")
    plot_map(history, folder / "map.png", None if fit is None else fit.model)
    plot_leads(history, folder / "leads.png")
    if service.recorded:
        plot_service(history, service, folder / "service.png")
    parts = [
        *_rows(history),
        *_demand(history),
        *_service(history),
    ]
    if fit is not None:
        plot_fit(history, fit.model, fit.goodness, seed, folder / "fit.png")
        parts += _fit(history, fit)
    (folder / "report.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _rows(history: HistoryDays) -> list[str]:
    counts = history.facts["counts"]
    lines = [
        f"# History `{history.name}`",
        "",
        f"Source: {history.facts['source']}. {len(history.dates)} operating days, "
        f"{history.dates[0]} to {history.dates[-1]}; day {history.day_start}, "
        f"{history.horizon_min / 60:g} h, {history.timezone} time.",
        "",
        "## Rows",
        "",
        f"- read {counts['read']}, kept {counts['kept']}, rejected {counts['rejected']} "
        f"({100 * counts['rejected'] / counts['read']:.1f} %); each rejected row stands in "
        "`rejected.csv` with its reason",
    ]
    lines += [f"  - {reason}: {n}" for reason, n in counts["rejected_by_reason"].items()]
    lines += [
        f"- {n} bookings have no {field}; they got the default"
        for field, n in counts["defaulted"].items()
    ]
    if counts["driver_rows_rejected"]:
        lines.append(f"- driver rows rejected: {counts['driver_rows_rejected']}")
    if counts["drivers_assumed"]:
        lines.append(
            "- **The source names no driver: a fleet was assumed** (8.5 trips a driver and day, "
            "every vehicle fit for wheelchairs, shifts the whole day)"
        )
    splits = [int((history.split == s).sum()) for s in range(3)]
    lines += [
        f"- days: {splits[0]} training, then {splits[1]} validation, then {splits[2]} test",
        "",
    ]
    return lines


def _demand(history: HistoryDays) -> list[str]:
    bookings = history.bookings
    hours, mean = bookings_by_hour(history)
    used = [d for d in range(7) if not np.isnan(mean[d, 0])]
    clock = [f"{int(start_hour(history) + h) % 24:02d} h" for h in hours]
    lines = [
        "## Demand",
        "",
        "Mean bookings by weekday and hour of the promised pickup:",
        "",
        "| | " + " | ".join(clock) + " | day |",
        "|---|" + "---:|" * (len(hours) + 1),
    ]
    for d in used:
        cells = " | ".join(f"{v:.1f}" for v in mean[d])
        lines.append(f"| {WEEKDAYS[d]} | {cells} | {mean[d].sum():.1f} |")
    lead = bookings["promised_min"] - bookings["created_min"]
    before = lead[~bookings["immediate"]]
    usual = float(np.median(before)) / 60 if len(before) else 0.0
    priority = np.bincount(bookings["priority"], minlength=6)[1:] / len(bookings)
    on_duty = np.diff(history.driver_offset)
    lines += [
        "",
        "![demand](demand.png)",
        "",
        f"- immediate {100 * bookings['immediate'].mean():.1f} %; the others are booked "
        f"{usual:.1f} h ahead (median)",
        f"- returns {100 * bookings['is_return'].mean():.1f} %, "
        f"wheelchair {100 * bookings['wheelchair'].mean():.1f} %",
        "- priorities 1 to 5: " + ", ".join(f"{100 * p:.0f} %" for p in priority),
        f"- drivers on duty: {np.median(on_duty):.0f} (median), {on_duty.min()} to {on_duty.max()}",
        "",
        "![arrival profile](leads.png)",
        "",
        "![map](map.png)",
        "",
    ]
    return lines


def _service(history: HistoryDays) -> list[str]:
    service = service_of(history)
    shares = service.shares_of_due()
    lines = ["## Service", ""]
    if shares is None:
        return [*lines, "The source records no actual pickups: served and late are not known.", ""]
    called_off = int(service.called_off.sum())
    return [
        *lines,
        "Of the bookings due: "
        f"on time (within 15 min of the promised time) {100 * shares['on_time']:.1f} %, "
        f"late {100 * shares['late']:.1f} %, not served {100 * shares['unserved']:.1f} %. "
        f"Called off: {called_off} ({100 * called_off / len(history.bookings):.1f} % of all).",
        "",
        "![service](service.png)",
        "",
    ]


def _fit(history: HistoryDays, fit: Fit) -> list[str]:
    model, travel = fit.model, fit.travel
    training = regular_days(history.days(Split.TRAIN))
    bookings = sum(len(demanded(day)) for day in training)
    lines = [
        "## Fitted demand",
        "",
        f"From {len(training)} regular training days with {bookings} bookings "
        f"({fit.light_days} light days left out: fewer than half the median day's bookings; "
        "so the fitted scenario is a regular day). "
        f"{len(model.site_name)} zones, {len(model.stream_name)} streams, "
        f"{model.bookings_mean:.1f} bookings a day, over-dispersion {model.bookings_cv:.2f}. "
        "Bookings called off before the day began are left out.",
        "",
    ]
    if fit.goodness:
        lines += [
            "Held-out validation days against days drawn from the model. *By chance* is what 95 % "
            "of equally many drawn days score among themselves.",
            "",
            "| aspect | statistic | observed | by chance | real | drawn | verdict |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        lines += [
            f"| {c.aspect} | {c.statistic} | {c.observed:.3f} | {c.by_chance:.3f} | {c.real:.3g} "
            f"| {c.drawn:.3g} | {c.verdict} |"
            for c in fit.goodness
        ]
        bad = [c.aspect for c in fit.goodness if c.verdict == "differs"]
        lines += [
            "",
            "All aspects are like the held-out days, or close."
            if not bad
            else "**Not like the held-out days: " + ", ".join(bad) + ".**",
        ]
    else:
        lines.append("The history is too short for validation days: the fit was not checked.")
    lines += ["", "![fit](fit.png)", "", "## Travel", ""]
    if travel.trips == 0:
        return [*lines, "Too few recorded drives: the speeds of `geneva` are kept.", ""]
    hours = [h for h in range(24) if travel.trips_by_hour[h]]
    return [
        *lines,
        f"Speeds fitted on {travel.trips} drives of the training days (circuity kept at "
        f"{travel.travel.circuity}); median absolute error of a drive "
        f"{travel.minutes_error_after:.2f} min, with the default speeds "
        f"{travel.minutes_error_before:.2f} min.",
        "",
        "| hour | " + " | ".join(str(h) for h in hours) + " |",
        "|---|" + "---:|" * len(hours),
        "| km/h | " + " | ".join(f"{travel.travel.speed_kmh[h]:.1f}" for h in hours) + " |",
        "| drives | " + " | ".join(str(travel.trips_by_hour[h]) for h in hours) + " |",
        "",
    ]
