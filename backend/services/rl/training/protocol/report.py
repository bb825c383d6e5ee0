"""The protocol's report, in French: the comparison table, the verdict rule by rule, two plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from services.rl.evaluation.french_numbers import number as _n
from services.rl.evaluation.plots import save_figure

from ..backends import REFERENCE
from .bench import write_text
from .rules import SIGNS, SPEED
from .throughput import PREPARED, THREADS

JSON_FILE: Final = "protocol.json"
MARKDOWN_FILE: Final = "protocol.md"
FIGURE_FILE: Final = "protocol.png"


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
        *_table(d["rows"]),
        *_choices(d),
        *_backends(d["backends"]),
        "## Règles déclarées",
        "",
        *[f"- {r['kind']} · `{r['measure']}` {SIGNS[r['bound']]} {_g(r['limit'])} {r['unit']} : "
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
    return "interrompu" if d["interrupted"] else "aucun (la phase C n'a pas été demandée)"


def _verdict(d: Mapping[str, Any]) -> list[str]:
    if not d["findings"]:
        return []
    lines = [f"Configuration retenue : `{d['winner']}`.", ""]
    for f in d["findings"]:
        held = "tenue" if f["holds"] else "**non tenue**"
        value = "non mesuré" if f["value"] is None else f"{_g(f['value'])} {f['unit']}".strip()
        lines.append(
            f"- {f['kind']} · `{f['measure']}` : {value} ({SIGNS[f['bound']]} {_g(f['limit'])} "
            f"attendu), règle {held}."
        )
    if d["winner"] == "default":
        lines += ["", "Aucune configuration n'a remplacé le défaut : il reste."]
    return [*lines, ""]


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
        "Une passe, contre la boucle qui calcule les caractéristiques à chaque lot (à tour de "
        f"rôle, à l'horloge, médiane des rapports) : {' ; '.join(ways)}.",
        "",
        f"Temps par époque divisé par {SPEED.limit:g}, avec les mêmes pertes : "
        + (f"tenu ({' ; '.join(kept)})." if kept else "**manqué**."),
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


def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """``val_total`` over epochs and over seconds of training, by configuration."""
    drawing = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    shown = [row for row in rows if "curve" in row]
    for row in shown:
        y = row["curve"]["val_total"]
        style = {"label": row["name"], "linewidth": 1.3}
        if row["phase"] == "C":
            style |= {"linestyle": "--", "linewidth": 0.9}
        line = left.plot(range(1, len(y) + 1), y, **style)[0]
        right.plot(row["curve"]["seconds"], y, **{**style, "color": line.get_color()})
    for axes, label in ((left, "époque"), (right, "secondes d'entraînement (processeur)")):
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("val_total")
    right.legend(fontsize=7, frameon=False)
    return drawing


def _g(value: float) -> str:
    return f"{value:.3g}".replace(".", ",")


def _interval(shown: Mapping[str, float] | None) -> str:
    if not shown:
        return "–"
    sign = "+" if shown["mean"] >= 0 else ""
    return f"{sign}{_n(shown['mean'], 2)} [{_n(shown['low'], 2)} ; {_n(shown['high'], 2)}]"
