"""Plots of the quality benchmark, in French, from its document alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from services.rl.errors import UsageError

from .kpi_figure import BLUE, GREEN, GREY, ORANGE, RED, SKY
from .plots import save_figure
from .quality_report import GROUP_NAMES, number

Numbers = Mapping[str, Any]

_FAMILIES: Final = (
    ("planner", "planner (valeurs apprises)", RED),
    ("rolling_search", "rolling_search (sans apprentissage)", ORANGE),
    ("rolling", "rolling (PyVRP)", SKY),
    ("dqn", "réseau (dqn, dqn_matching)", GREEN),
    ("matching", "appariement (matching, matching_linear)", BLUE),
    ("nearest", "règles simples", GREY),
    ("cheapest", "règles simples", GREY),
)
_SIDES: Final = {
    "planner": (-6, 6, "right"),
    "rolling_search": (7, -11, "left"),
    "matching": (-7, -4, "right"),
    "matching_linear": (-7, 4, "right"),
    "dqn": (6, -11, "left"),
}
"""Where labels stand beside their points: offsets and alignment; to the right unless named."""

_NEUTRAL: Final = "#555555"


def draw(document: Numbers, folder: Path) -> list[Path]:
    """Write every plot that there are numbers for.

    Raises:
        UsageError: If the folder cannot be written.
    """
    tables = document["tables"]
    figures: dict[str, Figure] = {}
    for world, points in (tables.get("front") or {}).items():
        if points:
            figures[f"front_{world}"] = front_figure(world, points)
    for world, found in (tables.get("kpis") or {}).items():
        if found["rows"]:
            figures[f"kpis_{world}"] = kpis_figure(world, found)
    for world, policies in (tables.get("who") or {}).items():
        if policies:
            figures[f"who_{world}"] = who_figure(world, policies)
    titles = {"robust": "Sous perturbations", "transfer": "Ailleurs que là où il a appris"}
    for part, title in titles.items():
        rows = [row for row in tables.get(part) or [] if row["planner_minus"]]
        if rows:
            figures[part] = elsewhere_figure(title, rows)
    try:
        return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]
    except OSError as error:
        raise UsageError(f"plots cannot be written to {folder}: {error.strerror}") from error


def _family(policy: str) -> tuple[str, str]:
    """Label and colour."""
    for start, label, colour in _FAMILIES:
        if policy.startswith(start):
            return label, colour
    return policy, _NEUTRAL


def _half(value: Numbers | None) -> float:
    return 0.0 if value is None or value["half"] is None else float(value["half"])


def _bare(axis: Any, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, alpha=0.25)
    axis.set_axisbelow(True)
    formatter = FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−").replace(".", ","))
    (axis.xaxis if grid == "x" else axis.yaxis).set_major_formatter(formatter)


def front_figure(world: str, points: Sequence[Numbers]) -> Figure:
    """Quality against milliseconds: reward over matching, and the gap closed where it is known."""
    panels = [("minus_matching", "Récompense par jour de plus que matching")]
    if any(point["gap_closed_pct"] for point in points):
        panels.append(("gap_closed_pct", "Part de l'écart nearest → clairvoyant comblée, %"))
    figure = Figure(figsize=(7.2 * len(panels), 5.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (key, title) in zip(axes, panels, strict=True):
        known = []
        for point in points:
            value = point[key]
            if value is not None and key == "minus_matching":
                value = value["diff"]
            if value is not None:
                known.append((point, value))
        _front_points(axis, known)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.set_xlim(low / 2.5, high * 2.2)
        axis.set_title(title, fontsize=11, loc="left")
        axis.set_xlabel("millisecondes par décision (p50, échelle logarithmique)")
        _bare(axis, "y")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace(".", ",")))
    labels = dict(_family(point["policy"]) for point in points)
    handles = [Line2D([], [], color=c, marker="o", label=text) for text, c in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    days = sorted({point["days"] for point in points}, reverse=True)
    figure.suptitle(
        f"{world} : qualité et temps de calcul, {' ou '.join(map(str, days))} jours de test, "
        "intervalles à 95 %",
        fontsize=12,
    )
    return figure


def _front_points(axis: Any, known: Sequence[tuple[Numbers, Numbers]]) -> None:
    """Points with intervals; the axis spans the means, however wide an interval on few days is."""
    lines: dict[str, list[tuple[float, float]]] = {}
    means = [value["mean"] for _, value in known] or [0.0]
    usual = float(np.median([_half(value) for _, value in known])) if known else 0.0
    margin = max(0.12 * (max(means) - min(means)), 1.3 * usual, 1e-6)
    low, high = min(means) - margin, max(means) + margin
    for point, value in known:
        x, y = point["latency"]["p50_ms"], value["mean"]
        _, colour = _family(point["policy"])
        ends = np.clip([y - _half(value), y + _half(value)], low, high)
        axis.plot([x, x], ends, color=colour, linewidth=1.2, alpha=0.7)
        axis.plot(x, y, "o", color=colour, markersize=6)
        name, at, amount = point["policy"].partition("@")
        # Each family on a side of its own, so that neighbours do not write over each other.
        side = _SIDES.get(name, (7, 3, "left"))
        axis.annotate(
            _amount(amount) if at else name, (x, y), xytext=side[:2], ha=side[2],
            textcoords="offset points", fontsize=8, color=colour,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        if at:
            lines.setdefault(name, []).append((x, y))
    for name, places in lines.items():
        places.sort()
        axis.plot(*zip(*places, strict=True), color=_family(name)[1], linewidth=1, alpha=0.5)
    axis.axhline(0, color=_NEUTRAL, linewidth=0.8)
    axis.set_ylim(low, high)


def _amount(text: str) -> str:
    """A number of moves or milliseconds, with thin spaces between thousands."""
    return f"{int(text):,}".replace(",", "\u202f")


def kpis_figure(world: str, found: Numbers) -> Figure:
    """Bars of the KPIs that people ask for, with intervals."""
    shown = (
        ("reward", "Récompense par jour", 0),
        ("completion_pct", "Effectuées, %", 1),
        ("on_time_pct", "À l'heure (15 min), %", 1),
        ("unserved", "Non servies par jour", 1),
        ("wait_p95_min", "Attente, 95e centile, min", 1),
        ("deadhead_km_per_trip", "Km à vide par course", 2),
    )
    rows = found["rows"]
    figure = Figure(figsize=(14, 2.2 + 0.72 * len(rows)), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    names = [f"{row['policy']}  ({row['days']} j)" for row in rows]
    colours = [_family(row["policy"])[1] for row in rows]
    most = max(row["days"] for row in rows)
    for axis, (kpi, title, decimals) in zip(axes.flat, shown, strict=True):
        values = [row["kpis"][kpi] for row in rows]
        means = np.array([0.0 if v is None else v["mean"] for v in values])
        halves = np.array([_half(v) for v in values])
        best = found["hindsight"] if kpi == "reward" else None
        line = 0.0 if best is None else float(best["reward"]["mean"])
        # An interval on a few days may be wider than everything else: it is cut at the edge.
        top = max(1.25 * float(means.max()), 1.1 * line, 1e-6)
        ends = np.minimum(means + halves, top)
        for y, row in enumerate(rows):
            axis.barh(y, means[y], color=colours[y], height=0.66,
                      alpha=0.85 if row["days"] == most else 0.4)  # fmt: skip
            begin = max(means[y] - halves[y], min(0.0, means[y]))
            axis.plot([begin, ends[y]], [y, y], color="black", linewidth=1)
            axis.text(ends[y] + 0.015 * top, y, number(means[y], decimals), va="center",
                      fontsize=8)  # fmt: skip
        axis.set_xlim(min(0.0, float(means.min())), 1.14 * top)
        if best is not None:
            axis.axvline(line, color=GREEN, linestyle="--", linewidth=1.4)
            title += f" (tirets : clairvoyant {number(line, 0)}, {best['days']} j)"
        axis.set_title(title, fontsize=10, loc="left")
        _bare(axis, "x")
    axes[0, 0].set_yticks(range(len(rows)), names, fontsize=9)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(
        f"{world} : indicateurs, moyennes et intervalles à 95 % (pâle : moins de jours)",
        fontsize=12,
    )
    return figure


def who_figure(world: str, policies: Sequence[Numbers]) -> Figure:
    """Diverging bars: what each group of patients gains or loses against matching."""
    shown = (
        ("served_pct", "Servis, points", 1.0),
        ("on_time_pct", "À l'heure, points", 1.0),
        ("late_min", "Retard moyen, minutes (à gauche : moins)", -1.0),
    )
    groups = list(policies[0]["groups"])
    figure = Figure(figsize=(14, 2.0 + 0.21 * len(groups) * len(policies)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    height = 0.8 / len(policies)
    for axis, (key, title, good) in zip(axes, shown, strict=True):
        for i, found in enumerate(policies):
            for y, group in enumerate(groups):
                value = found["groups"][group][key]
                if value is None:
                    continue
                at = y + (i - (len(policies) - 1) / 2) * height
                _, colour = _family(found["policy"])
                sure = value["half"] is not None and abs(value["mean"]) > value["half"]
                worse = good * value["mean"] < 0 and sure
                axis.barh(at, value["mean"], height=0.9 * height, color=colour,
                          alpha=0.95 if sure else 0.35, hatch="////" if worse else None,
                          edgecolor="white" if worse else colour, linewidth=0)  # fmt: skip
                axis.errorbar(value["mean"], at, xerr=_half(value), fmt="none", ecolor="#333333",
                              elinewidth=0.8)  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.9)
        for end in (0.5, 5.5, 7.5, 9.5, 11.5, 14.5):
            axis.axhline(end, color=GREY, linewidth=0.5, alpha=0.6)
        axis.set_title(title, fontsize=10, loc="left")
        _bare(axis, "x")
    axes[0].set_yticks(range(len(groups)), [GROUP_NAMES.get(g, g) for g in groups], fontsize=9)
    axes[0].set_ylim(len(groups) - 0.4, -0.6)
    handles = [
        Line2D([], [], color=_family(p["policy"])[1], linewidth=6, label=p["policy"])
        for p in policies
    ]
    pale = Line2D([], [], color=GREY, alpha=0.4, linewidth=6, label="pâle : peut-être 0")
    figure.legend(handles=[*handles, pale], loc="outside lower center", ncols=4, frameon=False,
                  fontsize=9)  # fmt: skip
    figure.suptitle(
        f"{world} : qui gagne, qui perd, par rapport à matching (hachuré : une perte sûre)",
        fontsize=12,
    )
    return figure


def elsewhere_figure(title: str, rows: Sequence[Numbers]) -> Figure:
    """The planner's gain over each other policy in changed worlds, with intervals."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    others = list(dict.fromkeys(p for row in rows for p in row["planner_minus"]))
    longest = max(sum(row["base"] == base for row in rows) for base in bases)
    figure = Figure(
        figsize=(2.6 + 5.6 * len(bases), 2.0 + 0.26 * longest * len(others)), layout="constrained"
    )
    axes = np.atleast_1d(figure.subplots(1, len(bases)))
    for axis, base in zip(axes, bases, strict=True):
        mine = [row for row in rows if row["base"] == base]
        for y, row in enumerate(mine):
            for i, other in enumerate(others):
                pair = row["planner_minus"].get(other)
                value = None if pair is None else pair["relative_pct"]
                if value is None:
                    continue
                at = y + (i - (len(others) - 1) / 2) * 0.7 / len(others)
                colour = _family(other)[1]
                diff = pair["diff"]  # its interval decides, as in the tables
                sure = diff["half"] is not None and abs(diff["mean"]) > diff["half"]
                axis.errorbar(value["mean"], at, xerr=_half(value), fmt="o", color=colour,
                              markerfacecolor=colour if sure else "white", capsize=3)  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.9)
        axis.set_yticks(range(len(mine)), [row["title"] for row in mine], fontsize=9)
        axis.set_ylim(len(mine) - 0.4, -0.6)
        for y in range(len(mine) - 1):
            axis.axhline(y + 0.5, color=GREY, linewidth=0.5, alpha=0.5)
        axis.set_title(base, fontsize=11, loc="left")
        axis.set_xlabel("récompense du planner en plus, %")
        _bare(axis, "x")
    handles = [
        Line2D([], [], color=_family(p)[1], marker="o", label=f"planner − {p}") for p in others
    ]
    handles.append(
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="",
               label="creux : peut-être 0")
    )  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"{title} : ce que gagne le planner, intervalles à 95 %", fontsize=12)
    return figure
