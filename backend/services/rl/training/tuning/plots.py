"""A study's figures, in French: history, rungs, importances, parallel coordinates; two compared."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from services.rl.evaluation.kpi_figure import BLUE, GREY, ORANGE, RED
from services.rl.evaluation.plots import save_figure

_MOST_NAMES = 6  # ticks of a choice
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure that there are trials for."""
    done = [t for t in document["trials"] if t["state"] == "complete"]
    if not done:
        return []
    figures = {"history": _history(document), "rungs": _rungs(document)}
    if document["importances"]:
        figures["importances"] = _importances(document)
    if len(done) > 1:
        figures["parallel"] = _parallel(done)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _axes(title: str, x: str, y: str, size: tuple[float, float] = (8.0, 4.2)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _history(d: Mapping[str, Any]) -> Figure:
    figure, axes = _axes(f"{d['study']} : essais", "essai", "récompense par jour")
    done = [t for t in d["trials"] if t["state"] == "complete"]
    cut = [t for t in d["trials"] if t["state"] == "pruned" and t["rungs"]]
    x, y = [t["number"] for t in done], [t["score"] for t in done]
    last = [t["rungs"][max(t["rungs"], key=int)] for t in cut]
    axes.plot([t["number"] for t in cut], last, "x", color=GREY, label="élagué (dernier palier)")
    axes.plot(x, y, "o", color=BLUE, label="mené à terme")
    axes.step(x, np.maximum.accumulate(y), where="post", color=ORANGE, label="meilleur jusque-là")
    if d["default"] is not None:
        axes.axhline(d["default"]["score"], color=RED, linestyle="--", label="défaut")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _framed(axes, y, [*y, *last])
    axes.legend(fontsize=8, frameon=False)
    return figure


def _framed(axes: Any, whole: list[float], shown: list[float]) -> None:
    """Show what lies near the trials played to the end, and tell what lies below.

    A trial that diverged is worth a thousand points less: it would flatten all others.
    """
    high, low = max(shown), min(whole)
    floor = low - (high - low) - 1.0
    low = min(v for v in shown if v >= floor)
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    below = [v for v in shown if v < floor]
    if below:
        axes.text(0.01, 0.02, f"{len(below)} sous le cadre, jusqu'à {_written(min(below))}",
                  transform=axes.transAxes, fontsize=7, color="#333333", bbox=_PAPER)  # fmt: skip


def _rungs(d: Mapping[str, Any]) -> Figure:
    figure, axes = _axes(f"{d['study']} : paliers", "palier", "récompense par jour")
    kinds = {"pruned": (GREY, "élagué"), "complete": (BLUE, "mené à terme")}
    played = [t for t in d["trials"] if t["state"] in kinds and t["rungs"]]
    for t in sorted(played, key=lambda t: (t["default"], t["state"] == "complete")):
        color = RED if t["default"] else kinds[t["state"]][0]
        steps = [int(k) for k in t["rungs"]]
        axes.plot(steps, list(t["rungs"].values()), color=color, alpha=0.7, marker="o",
                  markersize=3, linewidth=2.0 if t["default"] else 1.0)  # fmt: skip
    values = [v for t in played for v in t["rungs"].values()]
    _framed(axes, [v for t in played if t["state"] == "complete" for v in t["rungs"].values()],
            values)  # fmt: skip
    for color, label in (*reversed(kinds.values()), (RED, "défaut")):
        axes.plot([], [], color=color, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _importances(d: Mapping[str, Any]) -> Figure:
    figure, axes = _axes(f"{d['study']} : importances", "part, %", "")
    names = list(d["importances"])[::-1]
    axes.barh([_short(n) for n in names], [100 * d["importances"][n] for n in names], color=BLUE)
    return figure


def _parallel(done: list[dict[str, Any]]) -> Figure:
    """One line per complete trial through all its parameters; the better, the darker."""
    names = list(done[0]["params"])
    figure, axes = _axes("Coordonnées parallèles", "", "", (max(8.0, 1.3 * len(names)), 4.6))
    scores = np.array([t["score"] for t in done])
    ranks = scores.argsort().argsort() / max(1, len(done) - 1)
    scales = [_scale([t["params"][n] for t in done]) for n in names]
    for t, rank in sorted(zip(done, ranks, strict=True), key=lambda pair: pair[1]):
        y = [scale[0](t["params"][n]) for n, scale in zip(names, scales, strict=True)]
        color, line = (RED, "--") if t["default"] else (BLUE, "-")
        alpha = 0.9 if t["default"] else 0.1 + 0.8 * float(rank)
        axes.plot(range(len(names)), y, line, color=color, alpha=alpha, linewidth=1.4)
    for i, (_, ends) in enumerate(scales):
        for place, text in ends:
            axes.annotate(text, (i, place), fontsize=6, color="#333333", ha="center", bbox=_PAPER)
    axes.set_xticks(range(len(names)), [_short(n) for n in names], rotation=30, ha="right")
    axes.set_yticks([])
    axes.plot([], [], "-", color=BLUE, label="essai, plus foncé = meilleur")
    axes.plot([], [], "--", color=RED, label="défaut")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _scale(values: list[Any]) -> tuple[Any, list[tuple[float, str]]]:
    """Where a value stands on its axis, 0 to 1, and what is written there."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or len(set(values)) <= 1:
        order = sorted(set(values), key=_size)
        top = max(1, len(order) - 1)
        place = {v: i / top for i, v in enumerate(order)}
        return place.__getitem__, [(place[v], str(v)) for v in order[:_MOST_NAMES]]
    log = min(values) > 0 and max(values) / min(values) > 10

    def bent(v: float) -> float:
        return math.log(v) if log else float(v)

    low, high = bent(min(values)), bent(max(values))
    ends = [(0.0, _written(min(values))), (1.0, _written(max(values)))]
    return (lambda v: (bent(v) - low) / (high - low)), ends


def _size(choice: Any) -> tuple[float, str]:
    """Choices by size where they are numbers, or lists of numbers such as widths of layers."""
    try:
        parsed = json.loads(choice) if isinstance(choice, str) else choice
        return float(np.sum(parsed)), str(choice)
    except (TypeError, ValueError):
        return 0.0, str(choice)


def _written(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _short(name: str) -> str:
    return name.replace("hyperparameters.", "").replace("warm_start.", "")


def draw_comparison(document: Mapping[str, Any], folder: Path) -> Path:
    """Best score so far over the steps spent, of two studies."""
    figure, axes = _axes("Meilleur score selon l'effort", "étapes", "récompense par jour")
    for side, color in (("a", BLUE), ("b", ORANGE)):
        points = document[side]["curve"]
        if points:
            steps, best = zip(*points, strict=True)
            axes.step([*steps, document[side]["steps"]], [*best, best[-1]], where="post",
                      color=color, label=document[side]["study"])  # fmt: skip
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 1.5M, not 1.5 and 1e6 elsewhere
    axes.legend(fontsize=8, frameon=False)
    return save_figure(figure, folder / "comparison.png")
