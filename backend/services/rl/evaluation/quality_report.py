"""QUALITE.md: the tables of the quality benchmark, in French, from its document alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.rl.errors import UsageError

from .report import markdown_table

Numbers = Mapping[str, Any]

UNKNOWN: Final = "non mesuré"
_KPIS: Final = (
    ("reward", "récompense/jour", 1),
    ("completion_pct", "effectuées %", 1),
    ("on_time_pct", "à l'heure %", 1),
    ("late_pct", "en retard %", 1),
    ("unserved", "non servies", 1),
    ("wait_mean_min", "attente min", 1),
    ("wait_p95_min", "attente p95", 1),
    ("deadhead_km_per_trip", "km à vide/course", 2),
    ("workload_gini", "Gini", 2),
    ("satisfaction", "satisfaction", 2),
)
GROUP_NAMES: Final = {
    "all": "tous",
    "priority 1": "priorité 1",
    "priority 2": "priorité 2",
    "priority 3": "priorité 3",
    "priority 4": "priorité 4",
    "priority 5": "priorité 5",
    "wheelchair": "fauteuil",
    "no wheelchair": "sans fauteuil",
    "pre-booked": "réservé d'avance",
    "immediate": "immédiat",
    "outbound": "aller",
    "return": "retour",
    "near": "à moins de 2 km de la base",
    "middle": "à 2-5 km",
    "far": "à plus de 5 km",
    "north-east": "nord-est",
    "north-west": "nord-ouest",
    "south-east": "sud-est",
    "south-west": "sud-ouest",
}


def number(value: float | None, decimals: int = 1, *, signed: bool = False) -> str:
    """A number as French writes it."""
    if value is None:
        return UNKNOWN
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−").replace(".", ",")


def with_interval(value: Numbers | None, decimals: int = 1, *, signed: bool = False) -> str:
    """Mean ± half of the 95 % interval; in bold where a signed one excludes 0."""
    if value is None:
        return UNKNOWN
    text = number(value["mean"], decimals, signed=signed)
    if value["half"] is None:
        return text
    text = f"{text} ± {number(value['half'], decimals)}"
    return f"**{text}**" if signed and abs(value["mean"]) > value["half"] else text


def _ms(value: float) -> str:
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)


def _latency(row: Numbers) -> str:
    return f"{_ms(row['latency']['p50_ms'])} / {_ms(row['latency']['p99_ms'])}"


def _short(target: Numbers, key: str) -> str:
    measured = target[key]
    if measured is None:
        return UNKNOWN
    signed = measured["unit"] == "%" and "écart comblée" not in target["name"] and key != "aimed"
    text = number(measured["value"], 1, signed=signed)
    if measured["half"] is not None:
        text += f" ± {number(measured['half'])}"
    return f"{text} {measured['unit']}"


def verdict_lines(document: Numbers) -> list[str]:
    """What the command prints: one line per row of the targets."""
    return [
        f"{t['verdict']:13s}  {t['name']}: {_short(t, 'measured')}" for t in document["targets"]
    ]


def write_report(document: Numbers, images: Sequence[Path], folder: Path) -> Path:
    """Write QUALITE.md.

    Raises:
        UsageError: If it cannot be written.
    """
    path = folder / "QUALITE.md"
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text(document, [i.name for i in images]), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return path


def text(document: Numbers, images: Sequence[str] = ()) -> str:
    """The whole report in Markdown."""
    tables, machine, options = document["tables"], document["machine"], document["options"]
    lines = [
        "# Qualité de la répartition : les mesures",
        "",
        f"Commande : `{document['command']}`  ",
        f"Commit : {document['commit'] or 'inconnu'} ; code et poids : {document['code'][:12]}  ",
        f"Machine : {machine['processor']}, {machine['cpus']} cœurs, Python {machine['python']}",
        "",
        f"{options['days']} jours de test ; `rolling` et le clairvoyant sur les "
        f"{options['expensive_days']} premiers, et ce qui leur est comparé aussi. "
        "± : demi-intervalle à 95 % (t de Student sur les jours, différences appariées) ; en "
        "gras : l'intervalle exclut 0. "
        "Plusieurs graines d'entraînement : moyenne des graines jour par jour, et la pire graine à "
        "côté, avec son propre intervalle. Mondes perturbés et autres flottes : au plus 100 "
        "jours et deux graines ; autres nombres de mouvements : deux graines.",
        "",
    ]
    sections: list[tuple[str, str | None, Callable[[Any], list[str]]]] = [
        ("Indicateurs", "kpis", _kpis),
        ("Qualité et temps de calcul", "front", _front),
        ("Qui gagne, qui perd", "who", _who),
        ("Sûreté", "safety", _safety),
        ("Robustesse", "robust", _elsewhere),
        ("Transfert", "transfer", _elsewhere),
        ("Ville : 200 chauffeurs", "city", _city),
        ("Manhattan", "manhattan", _manhattan),
        ("Entraînement", "training", _training),
    ]
    lines += ["## 1. Exigences", "", *_targets(document["targets"]), ""]
    for position, (title, key, section) in enumerate(sections, start=2):
        lines += [f"## {position}. {title}", ""]
        found = tables.get(key)
        lines += section(found) if found else [f"{UNKNOWN.capitalize()}."]
        lines += [f"\n![{name}]({name})" for name in images if name.split("_")[0] == key]
        lines.append("")
    lines += ["## Modèles et réserves", "", *_models(document), *_reservations(tables), ""]
    return "\n".join(lines)


def _targets(rows: Sequence[Numbers]) -> list[str]:
    shown = []
    for row in rows:
        measured = row["measured"]
        aimed = "" if row["aim"] is None else row["aim"]
        if row["aimed"] is not None:
            aimed += f" (mesuré : {_short(row, 'aimed')})"
        more = []
        if measured is not None:
            if measured["worst"] is not None:
                more.append(f"pire graine {number(measured['worst'], 1, signed=True)} %")
            if measured["days"] is not None:
                more.append(f"{measured['days']} jours")
            if measured["remark"]:
                more.append(measured["remark"])
        shown.append(
            [row["name"], _short(row, "measured"), "; ".join(more), row["must"] or "", aimed,
             row["verdict"]]
        )  # fmt: skip
    heads = ["mesure", "valeur", "détail", "exigé", "visé", "verdict"]
    return [markdown_table(heads, shown)]


def _kpis(worlds: Numbers) -> list[str]:
    lines = []
    for world, found in worlds.items():
        heads = ["politique", "jours", "graines", *(head for _, head, _ in _KPIS)]
        heads += ["pire graine", "écart comblé %", "− matching", "ms p50 / p99"]
        rows = []
        for row in found["rows"]:
            gap = row["gap_closed_pct"]
            rows.append(
                [
                    f"`{row['policy']}`", str(row["days"]), str(row["seeds"]),
                    *(with_interval(row["kpis"][name], d) if name == "reward"
                      else number((row["kpis"][name] or {}).get("mean"), d)
                      for name, _, d in _KPIS),
                    number(row["worst_seed_reward"]) if row["seeds"] > 1 else "",
                    UNKNOWN if gap is None else f"{with_interval(gap)} ({gap['days']} j)",
                    "" if row["policy"] == "matching" or row["minus_matching"] is None
                    else with_interval(row["minus_matching"]["diff"], signed=True),
                    _latency(row),
                ]
            )  # fmt: skip
        lines += [f"### {world}", "", markdown_table(heads, rows), ""]
        best = found["hindsight"]
        if best is not None:
            lines += [
                f"Clairvoyant (meilleur connu, {best['days']} jours) : "
                f"{with_interval(best['reward'])} par jour.",
                "",
            ]
        lines += _pairs(found["pairs"])
    return lines


def _pairs(pairs: Numbers) -> list[str]:
    rows = [
        [
            f"`{pair['a']}` − `{pair['b']}`", str(pair["days"]), str(pair["seeds"]),
            with_interval(pair["diff"], signed=True),
            with_interval(pair["relative_pct"], 2, signed=True),
            with_interval(pair["worst"]["diff"], signed=True) if pair["seeds"] > 1 else "",
        ]
        for pair in pairs.values()
    ]  # fmt: skip
    heads = ["comparaison", "jours", "graines", "récompense/jour", "%", "pire graine"]
    return [markdown_table(heads, rows), ""] if rows else []


def _front(worlds: Numbers) -> list[str]:
    lines = []
    for world, points in worlds.items():
        rows = [
            [
                f"`{point['policy']}`", str(point["days"]), str(point["seeds"]),
                _ms(point["latency"]["p50_ms"]), _ms(point["latency"]["p99_ms"]),
                with_interval((point["minus_matching"] or {}).get("diff"), signed=True),
                with_interval(point["gap_closed_pct"]),
            ]
            for point in points
        ]  # fmt: skip
        heads = ["politique", "jours", "graines", "ms p50", "ms p99", "− matching",
                 "écart comblé %"]  # fmt: skip
        lines += [f"### {world}", "", markdown_table(heads, rows), ""]
    return lines


def _who(worlds: Numbers) -> list[str]:
    lines = ["Différences par rapport à `matching`, appariées par jour.", ""]
    for world, policies in worlds.items():
        for found in policies:
            rows = [
                [
                    GROUP_NAMES.get(group, group), number(g["due_per_day"]),
                    with_interval(g["served_pct"], signed=True),
                    with_interval(g["on_time_pct"], signed=True),
                    with_interval(g["late_min"], 2, signed=True),
                    f"{number(g['levels']['b']['served_pct'])} → "
                    f"{number(g['levels']['a']['served_pct'])}",
                ]
                for group, g in found["groups"].items()
            ]  # fmt: skip
            heads = ["patients", "par jour", "servis, points", "à l'heure, points",
                     "retard moyen, min", "servis %"]  # fmt: skip
            lines += [f"### {world}, `{found['policy']}`", "", markdown_table(heads, rows), ""]
    return lines


def _safety(worlds: Numbers) -> list[str]:
    names = {
        "unserved_urgent": "priorités 4-5 non servies",
        "late_urgent": "priorités 4-5 prises > 15 min après l'heure promise",
        "late_all": "toutes priorités, prises > 15 min après l'heure promise",
    }
    rows = [
        [
            world, f"`{row['policy']}`", text, number(row[name]["matching_per_day"], 2),
            number(row[name]["per_day"], 2), with_interval(row[name]["diff"], 2, signed=True),
            with_interval(row[name]["relative_pct"], signed=True),
        ]
        for world, found in worlds.items()
        for row in found
        for name, text in names.items()
    ]  # fmt: skip
    heads = [
        "monde",
        "politique",
        "patients par jour",
        "`matching`",
        "politique",
        "différence",
        "%",
    ]
    return [markdown_table(heads, rows), ""]


def _elsewhere(rows: Sequence[Numbers]) -> list[str]:
    policies = list(dict.fromkeys(p for row in rows for p in row["rewards"]))
    others = list(dict.fromkeys(p for row in rows for p in row["planner_minus"]))
    shown = []
    for row in rows:
        cells = [row["base"], row["title"]]
        for policy in policies:
            reward = row["rewards"].get(policy)
            cells.append(
                UNKNOWN if reward is None else f"{with_interval(reward)} ({reward['days']} j)"
            )
        for other in others:
            pair = row["planner_minus"].get(other)
            cells.append(UNKNOWN if pair is None else with_interval(pair["diff"], signed=True))
        shown.append(cells)
    heads = ["monde", "ce qui change", *(f"`{p}`" for p in policies)]
    heads += [f"planner − `{p}`" for p in others]
    return [markdown_table(heads, shown), ""]


def _city(rows: Sequence[Numbers]) -> list[str]:
    shown = [
        [
            f"`{row['policy']}`", str(row["days"]), str(row["epochs"]),
            f"{_ms(row['p50_ms'])} / {_ms(row['p99_ms'])}", str(row["most_open"]),
            str(row["full_epochs"]),
            UNKNOWN if row["full_p50_ms"] is None
            else f"{_ms(row['full_p50_ms'])} / {_ms(row['full_p99_ms'])}",
            _ms(row["cold_ms"]),
        ]
        for row in rows
    ]  # fmt: skip
    heads = ["politique", "jours", "époques à chaud", "ms p50 / p99", "ouvertes au plus",
             "époques ≥ 500 ouvertes", "celles-ci, ms p50 / p99", "1re époque, ms"]  # fmt: skip
    return [markdown_table(heads, shown), ""]


def _manhattan(worlds: Numbers) -> list[str]:
    rows = [
        [
            world, f"`{row['policy']}`", str(row["days"]), str(row["seeds"]),
            with_interval(row["reward"], 0), with_interval(row["share_of_bound_pct"]),
            "" if row["policy"] == "matching_profit"
            else with_interval(row["minus_profit"]["relative_pct"], 2, signed=True),
            _latency(row),
        ]
        for world, found in worlds.items()
        for row in found
    ]  # fmt: skip
    heads = ["monde", "politique", "jours", "graines", "profit/jour, USD", "% de la borne",
             "− matching_profit, %", "ms p50 / p99"]  # fmt: skip
    return [markdown_table(heads, rows), ""]


def _training(rows: Sequence[Numbers]) -> list[str]:
    shown = [
        [r["kind"], r["scenario"], str(r["seed"]), r["mode"], number(r["minutes"])] for r in rows
    ]
    return [markdown_table(["modèle", "monde", "graine", "mode", "minutes"], shown), ""]


def _models(document: Numbers) -> list[str]:
    lines = [
        f"- {m['kind']}, {m['scenario']} : `{m['folder']}` ({m['sha256'][:12]})"
        for m in document["models"]
    ]
    return lines or ["- Aucun modèle entraîné n'a été mesuré."]


def _reservations(tables: Numbers) -> list[str]:
    """What limits what the tables say."""
    lines = [
        f"- Réseau retenu pour {world} : `{found['policy']}`, le meilleur sur des jours de "
        "validation que l'entraînement n'a pas vus."
        for world, found in (tables.get("networks") or {}).items()
    ]
    for world, found in (tables.get("kpis") or {}).items():
        for row in found["rows"]:
            if row["fallbacks"] or row["refused"]:
                lines.append(
                    f"- {world}, `{row['policy']}` : {row['fallbacks']} époques de repli, "
                    f"{row['refused']} décisions refusées."
                )
        busy = max((row["load"] for row in found["rows"]), default=0.0)
        lines.append(
            f"- {world} : charge de la machine au plus {number(busy)} au début d'une mesure ; "
            "au-delà du nombre de cœurs, les millisecondes sont trop longues et `rolling`, "
            "borné par le temps, y perd."
        )
    return lines
