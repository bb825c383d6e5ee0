"""The report of one day under two policies: Markdown, a table for a spreadsheet, JSON."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.errors import UsageError

from .day_comparison import DayComparison, Fate, Parting, PlayedDay
from .parting_reasons import (
    deed,
    first_parting_bookings,
    late_min,
    parting_reason,
    reason,
    status_words,
)
from .report import markdown_table
from .runner import DayBook

REPLAY_SCHEMA = 1
TOLD: Final = 15
"""Partings that the Markdown tells at length; the spreadsheet tells them all."""
LISTED: Final = 200
"""Partings that the Markdown lists in one line each."""

_KPIS = (
    ("reward", "reward", 1),
    ("completed", "completed", 0),
    ("on_time_pct", "on time, %", 1),
    ("unserved", "unserved", 0),
    ("unserved_p5", "unserved, priority 5", 0),
    ("unserved_p4", "unserved, priority 4", 0),
    ("wait_mean_min", "mean wait, min", 1),
    ("wait_p95_min", "95th percentile of wait, min", 1),
    ("deadhead_km", "empty km", 1),
    ("total_km", "driven km", 1),
    ("workload_gini", "unevenness of work (Gini)", 2),
    ("satisfaction", "satisfaction, 1 to 5", 2),
)
_ONLY_IF_ANY = ("unserved_p4", "unserved_p5")


def write_replay(
    comparison: DayComparison,
    book: DayBook,
    folder: Path,
    origin: dict[str, Any],
    *,
    moments: int,
    film: bool = False,
    tick: Callable[[], None] | None = None,
) -> list[Path]:
    """Write ``replay.md``, ``decisions.csv``, the pictures, and the film if asked for.

    What an earlier replay left in the folder is replaced.

    Raises:
        UsageError: If the folder cannot be written.
    """
    from . import day_pictures  # Matplotlib takes a second to import

    epochs = comparison.moments(moments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = day_pictures.write_moments(comparison, book, epochs, folder)
        chart = day_pictures.write_chart(comparison, epochs, folder / "reward.png")
        table = _written(folder / "decisions.csv", decisions_csv(comparison))
        files = [table, chart, *pictures]
        step = None
        if film:
            gif = folder / "replay.gif"
            step = day_pictures.write_film(comparison, book, gif, tick)
            files.append(gif)
        captions = [" ".join(day_pictures.caption(comparison, epoch)).strip() for epoch in epochs]
        text = report_text(comparison, origin, epochs, captions, film_step=step)
        files.insert(0, _written(folder / "replay.md", text))
        for old in (*folder.glob("moment_*.png"), folder / "replay.gif"):
            if old not in files:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written: {error.strerror}") from error
    return files


def _written(path: Path, text: str) -> Path:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def report_text(
    comparison: DayComparison,
    origin: dict[str, Any],
    epochs: Sequence[int],
    captions: Sequence[str],
    *,
    film_step: int | None = None,
) -> str:
    """The report in Markdown; ``epochs`` are those of the pictures."""
    a, b = comparison.a, comparison.b
    told = comparison.partings[:TOLD]
    lines = [
        f"# {comparison.scenario.name}, {comparison.day}: {a.policy} and {b.policy} side by side",
        "",
        f"Command: `{origin['command']}`  ",
        f"Commit: {origin['commit'] or 'unknown'}; scenario {comparison.scenario.sha256[:12]}",
        "",
        *_notes(comparison),
        summary(comparison),
        "",
        "## The day in numbers",
        "",
        _kpi_table(comparison),
        "",
        "![reward over the day](reward.png)",
        "",
        "## Where the difference comes from",
        "",
        _fate_table(comparison),
        "",
        _term_table(comparison),
        "",
        "## Where they part first",
        "",
        *_first_parting(comparison),
        "",
        "## Moments",
        "",
        *_moments(comparison, epochs, captions, film_step),
        f"## The {len(told)} partings that weigh most" if told else "## Partings",
        "",
        *(_told(comparison, k, parting) for k, parting in enumerate(told, 1)),
        "## All partings",
        "",
        *_all_partings(comparison),
        "",
        *_legend(comparison),
    ]
    return "\n".join(lines).rstrip() + "\n"


def summary(comparison: DayComparison) -> str:
    """The day in two sentences."""
    a, b, difference = comparison.a, comparison.b, comparison.difference()
    better, worse = (b, a) if difference > 0 else (a, b)
    if comparison.first is None:
        return f"{a.policy} and {b.policy} decided alike all day: {a.kpis['reward']:.1f} points."
    served = int(better.kpis["completed"] - worse.kpis["completed"])
    empty = better.kpis["deadhead_km"] - worse.kpis["deadhead_km"]
    patients = (
        "as many patients"
        if served == 0
        else f"{abs(served)} {'more' if served > 0 else 'fewer'} "
        f"patient{'s' if abs(served) > 1 else ''}"
    )
    distance = "as far" if abs(empty) < 0.05 else (
        f"{abs(empty):.1f} km {'more' if empty > 0 else 'less'}"
    )  # fmt: skip
    return (
        f"**{better.policy} earned {better.kpis['reward']:.1f} points, {worse.policy} "
        f"{worse.kpis['reward']:.1f}: {abs(difference):.1f} apart.** {better.policy} served "
        f"{patients} and drove {distance} empty. They "
        f"part first at {comparison.clock(a.epochs[comparison.first].now_min)}; of "
        f"{len(a.history)} bookings {len(comparison.partings)} end differently. It is one day: it "
        "shows how the two differ, not which is better (evaluate.py does)."
    )


def _notes(comparison: DayComparison) -> list[str]:
    lines = [f"- {day.policy}: {day.note}" for day in (comparison.a, comparison.b) if day.note]
    for day in (comparison.a, comparison.b):
        if day.refused:
            lines.append(f"- {day.policy}: {day.refused} decisions were not allowed and refused")
    return [*lines, ""] if lines else []


def _kpi_table(comparison: DayComparison) -> str:
    a, b = comparison.a, comparison.b
    rows = [
        [
            name,
            f"{a.kpis[kpi]:.{decimals}f}",
            f"{b.kpis[kpi]:.{decimals}f}",
            _signed(b.kpis[kpi] - a.kpis[kpi], decimals),
        ]
        for kpi, name, decimals in _KPIS
        if kpi not in _ONLY_IF_ANY or a.kpis[kpi] or b.kpis[kpi]
    ]
    return markdown_table(["", a.policy, b.policy, "difference"], rows)


def _signed(value: float, decimals: int = 1) -> str:
    shown = f"{value:+.{decimals}f}"
    return shown[1:] if float(shown) == 0 else shown  # neither +0 nor -0


def fate_words(comparison: DayComparison, fate: Fate) -> str:
    """A kind of parting, with the policies' names."""
    return {
        Fate.ONLY_B: f"served by {comparison.b.policy} alone",
        Fate.ONLY_A: f"served by {comparison.a.policy} alone",
        Fate.OTHER_DRIVER: "served by both, by another driver",
        Fate.OTHER_TIME: "served by both, same driver, over 5 min apart",
        Fate.NEITHER: "served by neither, in another way",
        Fate.SAME: "the same fate",
    }[fate]


def _fate_table(comparison: DayComparison) -> str:
    rows = [
        [fate_words(comparison, fate), str(count), _signed(total)]
        for fate, (count, total) in comparison.by_fate().items()
        if count
    ]
    if abs(comparison.elsewhere()) > 0:
        rows.append(["terms of no single booking", "", _signed(comparison.elsewhere())])
    rows.append(
        ["**all**", str(len(comparison.a.history)), f"**{_signed(comparison.difference())}**"]
    )
    return markdown_table(
        ["bookings", "number", f"reward, {comparison.b.policy} minus {comparison.a.policy}"], rows
    )


def _term_table(comparison: DayComparison) -> str:
    a, b = comparison.a, comparison.b
    rows = [
        [
            name,
            f"{a.terms[name]:.1f}",
            f"{b.terms[name]:.1f}",
            _signed(b.terms[name] - a.terms[name]),
        ]
        for name in a.terms
        if a.terms[name] or b.terms[name]
    ]
    return markdown_table(["reward term", a.policy, b.policy, "difference"], rows)


def _first_parting(comparison: DayComparison) -> list[str]:
    if comparison.first is None:
        return ["They never do: every decision of the day was the same."]
    now = comparison.clock(comparison.a.epochs[comparison.first].now_min)
    return [
        f"At **{now}**. Up to here both worlds are the same, so these are two answers to one "
        "question:",
        "",
        *(
            f"- {booking_words(comparison, row)}. {reason(comparison, row, comparison.first)}"
            for row in first_parting_bookings(comparison)
        ),
        "",
        "From here on the two worlds differ: what follows is in part a consequence of this and of "
        "every parting before it, not a choice of its own.",
    ]


def booking_words(comparison: DayComparison, row: int) -> str:
    """Which booking, and what it asks for."""
    booking = comparison.a.history[row]
    words = [f"priority {booking['priority']}"]
    if booking["wheelchair"]:
        words.append("wheelchair")
    kind = "requested" if booking["immediate"] else "promised"
    words.append(
        f"{kind} {comparison.clock(booking['promised_min'])} to "
        f"{comparison.clock(booking['window_end_min'])}"
    )
    if booking["created_min"] > 0 and not booking["immediate"]:
        words.append(f"known from {comparison.clock(booking['created_min'])}")
    return f"Booking {row} ({', '.join(words)})"


def _moments(
    comparison: DayComparison, epochs: Sequence[int], captions: Sequence[str], step: int | None
) -> list[str]:
    lines = []
    for number, (epoch, words) in enumerate(zip(epochs, captions, strict=True), 1):
        now = comparison.clock(comparison.a.epochs[epoch].now_min)
        lines += [f"**{now}**. {words}", "", f"![{now}](moment_{number}.png)", ""]
    if step is not None:
        each = "every epoch" if step == 1 else f"every {step} epochs"
        lines += [f"The whole day, {each}: [replay.gif](replay.gif)", ""]
    return lines


def _told(comparison: DayComparison, number: int, parting: Parting) -> str:
    a, b, row = comparison.a, comparison.b, parting.booking
    return "\n".join(
        [
            f"{number}. **{_signed(parting.difference)}** — {booking_words(comparison, row)}",
            f"    - {a.policy} ({_signed(parting.worth_a)}): {deed(comparison, a, row)}",
            f"    - {b.policy} ({_signed(parting.worth_b)}): {deed(comparison, b, row)}",
            f"    - {parting_reason(comparison, parting)}",
            "",
        ]
    )


def _all_partings(comparison: DayComparison) -> list[str]:
    if not comparison.partings:
        return ["None."]
    heads = [
        "part at", "booking", "priority", "wheelchair", "promised",
        comparison.a.policy, comparison.b.policy, "difference",
    ]  # fmt: skip
    rows = []
    for parting in comparison.partings[:LISTED]:
        booking = comparison.a.history[parting.booking]
        rows.append(
            [
                comparison.clock(parting.at_min),
                str(parting.booking),
                str(booking["priority"]),
                "yes" if booking["wheelchair"] else "",
                comparison.clock(booking["promised_min"]),
                deed(comparison, comparison.a, parting.booking),
                deed(comparison, comparison.b, parting.booking),
                _signed(parting.difference),
            ]
        )
    number = len(comparison.partings)
    shown = f"The {LISTED} of {number} that weigh most" if number > LISTED else f"All {number}"
    return [
        f"{shown}, by size of the difference in reward; [decisions.csv](decisions.csv) has every "
        "one with its reason.",
        "",
        markdown_table(heads, rows),
    ]


def _legend(comparison: DayComparison) -> list[str]:
    rules = comparison.scenario.rules
    return [
        "## How to read this",
        "",
        "- A booking is listed where its fate differs: served or not, another driver, or a pickup "
        "more than 5 min apart. Its difference is what it brought under the second policy minus "
        "what it brought under the first: completion, lateness, empty and loaded kilometres, or "
        "the penalty of leaving it unserved. All bookings add up to the day's difference.",
        "- *Late* counts from the end of the promised window; *in time* is before it. *To spare* "
        "is what was left of the window at the planned pickup.",
        f"- *Could be given* follows the simulator's rules: the vehicle fits, the pickup is at "
        f"most {rules.grace_min:g} min after the window, the work ends at most "
        f"{rules.overtime_min:g} min after the shift, and at most {rules.queue} "
        f"booking{'s wait' if rules.queue != 1 else ' waits'} behind the one in progress.",
        "- Drivers and bookings carry the numbers of the pictures. What a policy *gave instead* is "
        "what it did; why it did so, its objective knows, and nothing here guesses it.",
    ]


# --- for spreadsheets and programs ----------------------------------------------------------------


def decisions_csv(comparison: DayComparison) -> str:
    """All partings with their reasons, one a line; sides are ``a`` and ``b``."""
    rows = [_record(comparison, parting) for parting in comparison.partings]
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _record(comparison: DayComparison, parting: Parting) -> dict[str, Any]:
    booking = comparison.a.history[parting.booking]
    record: dict[str, Any] = {
        "booking": parting.booking,
        "priority": int(booking["priority"]),
        "wheelchair": bool(booking["wheelchair"]),
        "immediate": bool(booking["immediate"]),
        "promised": comparison.clock(booking["promised_min"]),
        "window_end": comparison.clock(booking["window_end_min"]),
        "parted_at": comparison.clock(parting.at_min),
        "fate": fate_words(comparison, parting.fate),
        "difference": round(parting.difference, 4),
    }
    for side, day, worth in (
        ("a", comparison.a, parting.worth_a),
        ("b", comparison.b, parting.worth_b),
    ):
        record |= {
            f"{name}_{side}": value for name, value in _side(comparison, day, parting).items()
        }
        record[f"reward_{side}"] = round(worth, 4)
    record["reason"] = parting_reason(comparison, parting)
    return record


def _side(comparison: DayComparison, day: PlayedDay, parting: Parting) -> dict[str, Any]:
    row, given = day.history[parting.booking], day.given(parting.booking)
    there = bool(np.isfinite(row["pickup_min"]))
    late = late_min(day, parting.booking)
    return {
        "policy": day.policy,
        "status": status_words(day, parting.booking),
        "driver": int(row["driver"]) if there else None,
        "decided": comparison.clock(given[-1].now_min) if given else None,
        "pickup": comparison.clock(row["pickup_min"]) if there else None,
        "late_min": round(late, 2) if np.isfinite(late) else None,
        "empty_km": round(float(row["deadhead_km"]), 3) if there else None,
    }


def to_json(comparison: DayComparison) -> dict[str, Any]:
    """The comparison as a document."""
    a, b, first = comparison.a, comparison.b, comparison.first
    return {
        "schema": REPLAY_SCHEMA,
        "scenario": comparison.scenario.name,
        "scenario_hash": comparison.scenario.sha256,
        "day": comparison.day,
        "policies": [
            {
                "name": day.policy,
                "note": day.note,
                "kpis": day.kpis,
                "reward_terms": day.terms,
                "refused": day.refused,
                "reward_curve": day.curve.tolist(),
            }
            for day in (a, b)
        ],
        "difference": comparison.difference(),
        "difference_of_no_booking": comparison.elsewhere(),
        "by_fate": {
            fate.name.lower(): {"bookings": count, "difference": total}
            for fate, (count, total) in comparison.by_fate().items()
        },
        "first_parting": None
        if first is None
        else {
            "at": comparison.clock(a.epochs[first].now_min),
            "epoch": first,
            "bookings": {
                str(row): reason(comparison, row, first)
                for row in first_parting_bookings(comparison)
            },
        },
        "partings": [_record(comparison, parting) for parting in comparison.partings],
    }
