"""The protocol's report, in French: the comparison table, the verdict rule by rule, two plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from services.rl.evaluation.french_numbers import number as _n
from services.rl.evaluation.plots import save_figure

from ..backends import REFERENCE
from .bench import write_text
from .rules import SIGNS, SPEED
from .throughput import PREPARED, THREADS

JSON_FILE: Final = "protocol.json"
MARKDOWN_FILE: Final = "protocol.md"
FIGURE_FILE: Final = "protocol.png"
_DEFAULT: Final = "default"
_LINES: Final = ("-", "--", ":")
"""Of phase C's seeds."""
_EARLY: Final = 5
"""Passes that the figure may cut off above."""
_TICKS: Final = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 8)


def write_report(
    folder: Path, document: Mapping[str, Any], provenance: Mapping[str, Any], *, draw: bool = True
) -> list[Path]:
    """Write JSON, Markdown and the figure; returns their places, the Markdown first.

    Args:
        folder: Where.
        document: Of `table.document`.
        provenance: Command, commit, machine.
        draw: False leaves the figure out, while the protocol still runs.

    Raises:
        TrainingError: If they cannot be written.
    """
    whole = {**document, "provenance": dict(provenance)}
    files = [folder / MARKDOWN_FILE, folder / JSON_FILE]
    drawn = draw and any("curve" in row for row in document["rows"])
    write_text(files[1], json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(files[0], markdown(whole, drawn))
    if drawn:
        files.append(save_figure(figure(document["rows"]), folder / FIGURE_FILE))
    return files


def markdown(d: Mapping[str, Any], drawn: bool = False) -> str:
    """The report."""
    data, plan = d["data"], d["plan"]
    lines = [
        f"# Protocole de réglage rapide : `{d['scenario']}`",
        "",
        f"Ajustement hors ligne du réseau de paires sur {_n(data['train_states'], 0)} états "
        f"({_n(data['train_pairs'], 0)} paires) de {d['identity']['days']} jours du professeur "
        f"`{d['identity']['teacher']}` ; pertes jugées sur {_n(data['val_states'], 0)} états de "
        f"{d['identity']['val_days']} jours de validation ; indicateurs bloquants sur "
        f"{d['judging_days'][2]} autres jours de validation, communs à toutes les configurations. "
        f"Phases {', '.join(plan['phases'])}.",
        "",
        f"## Verdict : {d['verdict'] or _unfinished(d)}",
        "",
        *_verdict(d),
        "## Configurations",
        "",
        *_loader(d["loader"]),
        *_centre(d),
        *_table(d["rows"]),
        *_choices(d),
        *_backends(d["backends"]),
        "## Règles déclarées",
        "",
        *[f"- {r['kind']} · `{r['measure']}` {SIGNS[r['bound']]} {_with_unit(r['limit'], r)} : "
          f"{r['about']}." for r in d["rules"]],
        "",
    ]  # fmt: skip
    if drawn:
        lines += ["## Figure", "", f"![val_total]({FIGURE_FILE})", ""]
    lines += [
        "## Empreintes et provenance",
        "",
        *[f"- {name} : `{value}`" for name, value in d["hashes"].items()],
        f"- scénario : `{d['identity']['scenario_hash']}`",
        f"- jeu de données (recette) : `{data['key']}`",
        f"- graine : {plan['start']['seed']} ; Torch {d['torch']['version']}, "
        f"{d['torch']['threads']} fil(s)",
        *[f"- {name} : `{d['provenance'].get(name)}`" for name in ("command", "commit")],
        "",
    ]
    return "\n".join(lines)


def _unfinished(d: Mapping[str, Any]) -> str:
    if d["interrupted"]:
        return "interrompu"
    if "C" in d["plan"]["phases"]:
        return "pas encore (la phase C n'est pas finie)"
    return "aucun (la phase C n'a pas été demandée)"


def _verdict(d: Mapping[str, Any]) -> list[str]:
    if not d["findings"]:
        return []
    lines = [_candidate(d), ""]
    for f in d["findings"]:
        held = "tenue" if f["holds"] else "**non tenue**"
        value = "non mesuré" if f["value"] is None else _with_unit(f["value"], f)
        limit = f"{SIGNS[f['bound']]} {_in_unit(f['limit'], f)[0]} attendu"
        lines.append(f"- {f['kind']} · `{f['measure']}` : {value} ({limit}), règle {held}.")
    return [*lines, ""]


def _candidate(d: Mapping[str, Any]) -> str:
    """What the verdict is about, and what becomes of the default."""
    if d["winner"] == _DEFAULT:
        return "Candidat : aucun, le défaut reste."
    stays = " ; le défaut reste" if d["verdict"] == "NO-GO" else ""
    return f"Candidat : `{d['winner']}`{_what(d, d['winner'])}{stays}."


def _what(d: Mapping[str, Any], name: str) -> str:
    """Batch, rate and weights of a configuration: its name tells but one of them."""
    for row in d["rows"]:
        if row["name"] == name:
            o = row["options"]
            return (
                f" (lot {_n(o['batch_size'], 0)}, taux {_n(o['learning_rate'], 4)}, "
                f"poids p/v {_n(o['w_policy'], 2)}/{_n(o['w_value'], 2)})"
            )
    return ""


def _centre(d: Mapping[str, Any]) -> list[str]:
    """That phase B's configurations have the batch that phase A chose, which no name tells."""
    kept = d["chosen"].get("A", _DEFAULT)
    if kept == _DEFAULT or not any(row["phase"] == "B" for row in d["rows"]):
        return []
    return [
        f"La phase A a gardé `{kept}`{_what(d, kept)} : les configurations `value_…` de la phase B "
        f"ont ce lot et ce taux, non ceux du défaut `{_DEFAULT}`{_what(d, _DEFAULT)}.",
        "",
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two tables, so that each can be read: the fit, and what it does to patients."""
    lines = [
        "| configuration | phase | lot | taux | poids p/v | s/époque | états/s | × défaut | "
        "meilleure époque | val policy | val value | val_total | s jusqu'au défaut |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        o = row["options"]
        head = (
            f"| {row['name']} | {row['phase']} | {o['batch_size']} | {_n(o['learning_rate'], 4)} | "
            f"{_n(o['w_policy'], 2)}/{_n(o['w_value'], 2)} |"
        )
        if row["state"] != "done":
            lines.append(f"{head}{' – |' * 8}")
            continue
        fit = row["fit"]
        cells = [
            _n(fit["epoch_cpu_seconds"], 2),
            _n(fit["samples_per_s"], 0),
            _n(row.get("speed"), 2),
            f"{fit['best_epoch']}/{fit['epochs']}",
            _n(fit["val"]["policy"], 4),
            _n(fit["val"]["value"], 4),
            _n(fit["val_total"], 4),
            _n(row.get("seconds_to_default"), 1),
        ]
        lines.append(f"{head} {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "s/époque : temps processeur médian d'une passe d'entraînement, une passe d'échauffement "
        "non comptée ; il dépend de ce qui tourne à côté. × défaut : passes mesurées à tour de "
        "rôle dans la phase A, médiane des rapports. États/s : à l'horloge.",
        "",
        *_judged(rows),
    ]


def _judged(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| configuration | récompense/jour | écart, % | à l'heure, % | écart, points | urgents non "
        "servis/jour | écart, % des courses dues | sort |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        if row["state"] != "done":
            lines.append(f"| {row['name']} |{' – |' * 6} {row['why']} |")
            continue
        found = row.get("differences", {})
        cells = [
            _n(row["kpis"]["reward"], 1),
            _interval(found.get("reward")),
            _n(row["kpis"]["on_time_pct"], 1),
            _interval(found.get("on_time")),
            _n(row["unserved_urgent"], 2),
            _interval(found.get("unserved_urgent")),
            row["why"],
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Écarts appariés par jour contre le défaut (phase C : le défaut de la même graine), "
        "intervalle à 95 %.",
        "",
    ]


def _loader(found: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    told = {PREPARED: "préparées une fois, en mémoire", THREADS: "de même, tous les processeurs"}
    ratios = {told[way]: ratio for way, ratio in found.items() if way in told}
    ways = [f"{way} : {_n(ratio, 2)} ×" for way, ratio in ratios.items()]
    kept = [way for way, ratio in ratios.items() if SPEED.holds(ratio)]
    return [
        "Préparation des caractéristiques : durée d'une passe de la boucle qui les calcule à "
        "chaque lot, divisée par celle de la même passe (même lot, celui du défaut) où elles sont "
        "déjà calculées (à tour de rôle, à l'horloge, médiane des rapports) : "
        f"{' ; '.join(ways)}.",
        "",
        f"Temps par époque divisé par {SPEED.limit:g} contre cette boucle, avec les mêmes pertes : "
        + (f"tenu ({' ; '.join(kept)})." if kept else "**manqué**."),
        "",
        "Tailles de lot : autre comparaison. La colonne « × défaut » et le sort des `batch_…` "
        "comparent à la configuration par défaut, toutes sur caractéristiques déjà calculées.",
        "",
    ]


def _choices(d: Mapping[str, Any]) -> list[str]:
    told = {"A": "débit", "B": "poids des pertes"}
    lines = [f"- phase {p} ({told[p]}) : `{d['chosen'][p]}`" for p in told if p in d["chosen"]]
    return [*lines, ""] if lines else []


def _backends(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Moteurs d'inférence (mêmes états, mêmes jours)",
        "",
        "| moteur | parité | plus grand écart de Q | mêmes décisions | décision ms p50 / p99 | "
        "réseau µs, lot 1 | lot 8 | lot 64 | × Torch, lot 1 |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        name = f"{row['name']} (référence)" if row["name"] == REFERENCE else row["name"]
        times = {int(batch): p50 for batch, (p50, _) in row["forward_us"].items()}
        ratios = {int(batch): ratio for batch, ratio in row["speedup"].items()}
        lines.append(
            f"| {name} | {'tenue' if row['passes'] else 'non tenue'} | "
            f"{_g(row['max_difference'])} | {_n(100 * row['agreement'], 2)} % | "
            f"{_n(row['decide_ms'][0], 2)} / {_n(row['decide_ms'][1], 2)} | "
            f"{_n(times[1], 0)} | {_n(times[8], 0)} | {_n(times[64], 0)} | {_n(ratios[1], 1)} |"
        )
    return [*lines, ""]


# --- the figure ----------------------------------------------------------------------------------


def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """``val_total`` over epochs and over seconds of training; the long runs below the short."""
    shown = [row for row in rows if "curve" in row]
    kinds = [
        (title, found)
        for title, found in (
            ("réglages (phases A et B)", [row for row in shown if row["phase"] != "C"]),
            ("confirmation longue (phase C)", [row for row in shown if row["phase"] == "C"]),
        )
        if found
    ]
    drawing = Figure(figsize=(13.0, 0.6 + 4.2 * len(kinds)), layout="constrained")
    styles = _styles(shown)
    grid = drawing.subplots(len(kinds), 2, sharey="row", squeeze=False)
    for (left, right), (title, found) in zip(grid, kinds, strict=True):
        for row in found:
            y = row["curve"]["val_total"]
            style = {**styles[row["name"]], "label": row["name"]}
            if len(y) == 1:  # a line of one point would not be seen
                style["marker"] = "o"
            left.plot(range(1, len(y) + 1), y, **style)
            right.plot(row["curve"]["seconds"], y, **style)
        _dress(left, right, title)
        _zoom(left, [row["curve"]["val_total"] for row in found])
    return drawing


def _styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A colour for each configuration; its long runs share it, each seed has its own line."""
    colours = iter(colormaps["tab10"].colors)  # type: ignore[attr-defined]
    colour: dict[str, Any] = {_DEFAULT: "black"}
    seeds: dict[str, int] = {}
    found = {}
    for row in rows:
        name = of = row["name"]
        line = "-"
        if row["phase"] == "C":
            of = name.removeprefix("long_").rpartition("_seed_")[0]
            line = _LINES[seeds.setdefault(of, 0) % len(_LINES)]
            seeds[of] += 1
        if of not in colour:
            colour[of] = next(colours)
        found[name] = {"color": colour[of], "linestyle": line, "linewidth": 1.4}
    return found


def _dress(left: Axes, right: Axes, title: str) -> None:
    for axes, label in ((left, "époque"), (right, "secondes d'entraînement (processeur)")):
        axes.set_xlabel(label)
        axes.grid(alpha=0.25, which="both")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_title(title, loc="left", fontsize=11)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("val_total (échelle log)")
    right.legend(
        fontsize=10, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3.2
    )


def _zoom(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Show where curves differ: their first passes, high above all that follows, are cut off."""
    low, last = min(map(min, curves)), max(curve[-1] for curve in curves)
    early = max(curve[min(_EARLY, len(curve)) - 1] for curve in curves)
    axes.set_ylim(low / 1.02, 1.05 * max(last, early))
    axes.yaxis.set_major_locator(LogLocator(subs=_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _g(v)))
    axes.yaxis.set_minor_formatter(NullFormatter())


# --- numbers -------------------------------------------------------------------------------------


def significant(value: float, unit: str = "") -> str:
    """Three significant digits, as English writes them; no power of ten where there is a unit."""
    if not unit and abs(value) < 1:
        return f"{value:.3g}"
    digits = np.format_float_positional(value, precision=3, fractional=False, trim="-")
    whole, point, rest = digits.removeprefix("-").partition(".")
    return f"{'-' if value < 0 else ''}{int(whole):,}{point}{rest}"


def _in_unit(value: float, rule: Mapping[str, Any]) -> tuple[str, str]:
    """A rule's number and its unit, for people: parts are told in percent."""
    if rule["unit"] == "part":
        return _g(100 * value, "%"), "% des états"
    return _g(value, rule["unit"]), rule["unit"]


def _with_unit(value: float, rule: Mapping[str, Any]) -> str:
    return " ".join(_in_unit(value, rule)).strip()


def _g(value: float, unit: str = "") -> str:
    return significant(value, unit).replace(",", "\u202f").replace(".", ",")


def _interval(shown: Mapping[str, float] | None) -> str:
    if not shown:
        return "–"
    sign = "+" if shown["mean"] >= 0 else ""
    return f"{sign}{_n(shown['mean'], 2)} [{_n(shown['low'], 2)} ; {_n(shown['high'], 2)}]"
