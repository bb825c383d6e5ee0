"""What a run of ``--policy auto`` found, in plain words: French for the team, English in short."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from services.rl.data.dataset import HistoryDays
from services.rl.evaluation.kpi_figure import BLUE, GREEN, GREY, RED
from services.rl.evaluation.paired import Estimate, paired_difference
from services.rl.evaluation.plots import save_figure
from services.rl.evaluation.report import markdown_table
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario

from .auto_candidates import CANDIDATES, REFERENCE
from .auto_choice import FEW_DAYS, Judged, sure
from .auto_policy import AutoResult
from .auto_state import write_text

REPORT_FILE = "report.md"
CHART_FILE = "gains.png"
_FRENCH = {c.name: c.french for c in CANDIDATES}
_SAFETY_FRENCH = {
    "urgent_unserved": "patients urgents (priorités 4 et 5) non servis",
    "not_in_time": "patients non pris en charge dans les 15 minutes",
}
_SAFETY_ENGLISH = {
    "urgent_unserved": "urgent patients (priority 4 and 5) unserved",
    "not_in_time": "patients not picked up within 15 minutes",
}


def write_auto_report(
    result: AutoResult, scenario: Scenario, source: DaySource | None, command: str
) -> list[Path]:
    """Write ``report.md`` and the chart; returns both.

    Args:
        result: The run.
        scenario: Its world.
        source: Where real days come from; a company's history also says what it did itself.
        command: Checks the winner.
    """
    chart = save_figure(gain_figure(result, scenario), result.folder / CHART_FILE)
    report = result.folder / REPORT_FILE
    past = company_past(source, result.state.test, scenario)
    write_text(report, _text(result, scenario, past, command))
    return [report, chart]


# --- one sentence each, for the terminal ----------------------------------------------------------


def candidate_sentences(result: AutoResult) -> list[str]:
    """One English sentence per candidate, in order."""
    lines = []
    for name, entry in result.state.entries.items():
        if name not in result.choice.gain:
            lines.append(f"{name}: {entry.status}: {entry.why}")
            continue
        judged = _judged(result, name)
        words = f"{name}: {float(judged.reward.mean()):.1f} points a day"
        if name != REFERENCE:
            words += f", {_shown(result.choice.gain[name])} against {REFERENCE}"
        risen = result.choice.unsafe.get(name, {})
        words += "".join(
            f"; refused: {more.mean:+.2f} a day {_SAFETY_ENGLISH[what]}"
            for what, more in risen.items()
        )
        lines.append(words)
    return lines


def verdict(result: AutoResult) -> str:
    """Winner, gain and certainty in English."""
    winner, gain, days = result.choice.winner, result.test_gain(), len(result.state.test)
    if winner == REFERENCE:
        return (
            f"{REFERENCE} stays: on {len(result.state.validation)} validation days no safe "
            "candidate is better beyond doubt"
        )
    kept = f"{winner} is kept"
    if winner != result.choice.best:
        kept += f" (simpler than {result.choice.best}, and the days cannot tell them apart)"
    if gain is None:
        return f"{kept}; there are no test days to say by how much: not sure"
    if sure(gain, days):
        certainty = "sure at 95 %"
    elif days < FEW_DAYS:
        certainty = f"not sure: {days} days are too few, {FEW_DAYS} at least are needed"
    else:
        certainty = "not sure: the gain may be nil"
    return (
        f"{kept}: {_shown(gain)} points a day against {REFERENCE} on {days} test days, {certainty}"
    )


# --- the report -----------------------------------------------------------------------------------


def _text(
    result: AutoResult, scenario: Scenario, past: dict[str, float] | None, command: str
) -> str:
    state = result.state
    lines = [
        f"# Quelle répartition pour {scenario.name} ?",
        "",
        f"**{_french_verdict(result)}**",
        "",
        *_certainty(result),
        "## Ce qui change pour vous",
        "",
        *_changes(result, past),
        "## Les candidats",
        "",
        f"Comparés sur les mêmes {len(state.validation)} journées de validation "
        f"({state.validation[0]} à {state.validation[-1]}). Un point est une unité de la "
        "récompense du simulateur : un patient servi en rapporte 8 à 16 selon sa priorité "
        "(sauf autres règles dans votre scénario) ; retards, kilomètres à vide et patients non "
        "servis en coûtent.",
        "",
        _table(result),
        "",
        *_not_judged(result),
        f"![Gain de chaque candidat]({CHART_FILE})",
        "",
        "## Comment le gagnant est choisi",
        "",
        "1. *Sécurité d'abord* : un candidat est écarté si, par rapport à `matching`, il laisse "
        "plus de patients urgents sans voiture, ou plus de patients sans prise en charge dans les "
        "15 minutes (en retard ou jamais), au-delà de l'incertitude.",
        "2. Parmi les autres, la meilleure récompense moyenne gagne.",
        "3. Si les journées ne départagent pas deux candidats, le plus simple gagne : celui qui "
        "ne demande pas d'entraînement, puis celui qui décide le plus vite. On ne descend jamais "
        "sous l'heuristique d'aujourd'hui.",
        "4. Le gain annoncé est mesuré ensuite sur des journées de test, jamais vues avant.",
        "",
        f"Temps : {state.spent_s / 60:.1f} min utilisées sur {result.document['minutes']:g}. "
        "Pour vérifier :",
        "",
        f"```\n{command}\n```",
        "",
        "## In English",
        "",
        f"{verdict(result)}.",
        "",
        *(f"- {line}" for line in candidate_sentences(result)),
        "",
        "The candidates were compared on validation days, day by day (paired); a candidate that "
        "leaves more urgent patients unserved, or more patients without a pickup within 15 "
        "minutes, is refused; a tie goes to the simplest. The gain is of test days that nothing "
        f"else has seen. All numbers: `choice.json` (sha256 {result.document['sha256'][:12]}).",
    ]
    return "\n".join(lines) + "\n"


def _french_verdict(result: AutoResult) -> str:
    winner, gain, days = result.choice.winner, result.test_gain(), len(result.state.test)
    if winner == REFERENCE:
        return (
            "Gardez l'heuristique d'aujourd'hui (`matching`) : aucun candidat sûr n'est meilleur "
            "sans doute possible."
        )
    named = f"`{winner}` ({_FRENCH.get(winner, winner)})"
    if gain is None:
        return f"Le meilleur choix est {named}, mais aucune journée de test ne dit de combien."
    return (
        f"Le meilleur choix est {named} : {_french(gain)} points par jour par rapport à "
        f"`matching` sur {_days(days)} de test."
    )


def _certainty(result: AutoResult) -> list[str]:
    """How sure, in words."""
    gain, days = result.test_gain(), len(result.state.test)
    deciding = len(result.state.validation)
    lines = []
    if result.choice.winner != REFERENCE and gain is not None:
        if sure(gain, days):
            lines.append(
                f"C'est sûr à 95 % : le vrai gain moyen est entre {_number(gain.low)} et "
                f"{_number(gain.high)} points par jour."
            )
        elif days < FEW_DAYS:
            lines.append(
                f"**Pas sûr** : {_days(days)} de test sont trop peu pour conclure (il en faut au "
                f"moins {FEW_DAYS})."
            )
        elif gain.high < 0:
            lines.append(
                "**Attention** : sur les journées de test, il fait moins bien que `matching`. "
                "Ne le mettez pas en service."
            )
        else:
            lines.append("**Pas sûr** : l'écart mesuré peut n'être que le hasard des journées.")
    if deciding < FEW_DAYS:
        lines.append(
            f"**Pas sûr** : le choix lui-même ne repose que sur {_days(deciding)} de validation "
            f"(il en faudrait au moins {FEW_DAYS}) ; entraînez plutôt sur `scenario.yaml`, la "
            "demande ajustée à votre historique, qui donne autant de journées qu'on veut."
        )
    return [line for text in lines for line in (text, "")]


def _changes(result: AutoResult, past: dict[str, float] | None) -> list[str]:
    """Winner and today's heuristic side by side on test days."""
    if REFERENCE not in result.tested:
        return ["Aucune journée de test : rien de sûr à dire.", ""]
    today, own = result.tested[REFERENCE], result.tested[result.choice.winner]
    rows = []
    for title, of, decimals in _ROWS:
        a, b = of(today), of(own)
        row = [title, _number(float(np.mean(a)), decimals)]
        if own is not today:
            row += [
                _number(float(np.mean(b)), decimals),
                _french(paired_difference(b, a), decimals),
            ]
        rows.append(row)
    speed = ["temps de décision, ms (médiane)", _number(today.p50_ms, 2)]
    if own is not today:
        speed += [_number(own.p50_ms, 2), ""]
    rows.append(speed)
    heads = [f"par jour, {_days(len(result.state.test))} de test", "`matching`"]
    if own is not today:
        heads += [f"`{result.choice.winner}`", "écart"]
    lines = [markdown_table(heads, rows), ""]
    if past is not None:
        lines += [
            "Ce que votre entreprise a fait elle-même ces jours-là, d'après ses heures "
            f"enregistrées : {_number(past['served_pct'])} % des courses servies, "
            f"{_number(past['on_time_pct'])} % prises en charge dans les 15 minutes. À lire avec "
            "prudence : le simulateur n'est pas la route, les heures notées ne sont pas toujours "
            "exactes, et une course sans heure notée compte ici comme non servie.",
            "",
        ]
    return lines


_ROWS: tuple[tuple[str, Any, int], ...] = (
    ("récompense, points", lambda j: j.reward, 1),
    ("patients servis", lambda j: j.kpis["completed"], 1),
    ("patients non servis", lambda j: j.kpis["unserved"], 2),
    ("dont urgents (priorités 4 et 5)", Judged.urgent_unserved, 2),
    ("pris en charge à l'heure, %", lambda j: j.kpis["on_time_pct"], 1),
    ("kilomètres à vide", lambda j: j.kpis["deadhead_km"], 1),
)


def _table(result: AutoResult) -> str:
    rows = []
    for judged in result.judged:
        name = judged.name
        gain = result.choice.gain[name]
        rows.append(
            [
                f"`{name}`" + (" ◄" if name == result.choice.winner else ""),
                _FRENCH.get(name, ""),
                _number(float(judged.reward.mean())),
                "" if name == REFERENCE else _french(gain),
                _number(float(judged.kpis["on_time_pct"].mean())),
                _number(float(judged.kpis["unserved"].mean()), 2),
                _number(judged.p50_ms, 2),
                f"{result.state.entries[name].seconds:.0f}",
                _why(result, name),
            ]
        )
    heads = [
        "candidat", "ce que c'est", "points", "écart à `matching`", "à l'heure, %",
        "non servis", "ms", "temps, s", "",
    ]  # fmt: skip
    return markdown_table(heads, rows)


def _why(result: AutoResult, name: str) -> str:
    choice = result.choice
    if name in choice.unsafe:
        return "écarté : " + ", ".join(
            f"{_number(more.mean, 2)} {_SAFETY_FRENCH[what]} de plus"
            for what, more in choice.unsafe[name].items()
        )
    if name == choice.winner:
        return "**gagnant**"
    if name in choice.tied:
        return "à égalité, moins simple"
    return ""


def _not_judged(result: AutoResult) -> list[str]:
    lines = []
    for name, entry in result.state.entries.items():
        if entry.status == "not tried":
            lines.append(f"- `{name}` : pas essayé, trop peu de temps (`--minutes`).")
        elif entry.status == "failed":
            lines.append(f"- `{name}` : l'entraînement a échoué : {entry.why}")
    return [*lines, ""] if lines else []


def company_past(
    source: DaySource | None, labels: list[str], scenario: Scenario
) -> dict[str, float] | None:
    """What the company did itself on these days, by the times it wrote down; None if unknown."""
    if not isinstance(source, HistoryDays) or not labels:
        return None
    due = served = on_time = 0
    for label in labels:
        d = source.dates.index(label)
        rows = slice(int(source.booking_offset[d]), int(source.booking_offset[d + 1]))
        bookings, outcomes = source.bookings[rows], source.outcomes[rows]
        kept = ~np.isfinite(bookings["cancelled_min"]) & ~bookings["no_show"]
        pickup = outcomes["pickup_min"]
        there = kept & np.isfinite(pickup)
        asked = np.where(bookings["immediate"], bookings["created_min"], bookings["promised_min"])
        due += int(kept.sum())
        served += int(there.sum())
        on_time += int((there & (pickup - asked <= scenario.rules.on_time_min + 1e-9)).sum())
    if not due or not served:
        return None
    return {"served_pct": 100.0 * served / due, "on_time_pct": 100.0 * on_time / due}


# --- the chart ------------------------------------------------------------------------------------


def gain_figure(result: AutoResult, scenario: Scenario) -> Figure:
    """A bar with its interval per candidate: points a day against today's heuristic."""
    shown = [j.name for j in result.judged if j.name != REFERENCE]
    figure = Figure(figsize=(10, 1.9 + 0.5 * (len(shown) + 1)), layout="constrained")
    axis = figure.subplots()
    for y, name in enumerate(shown):
        gain = result.choice.gain[name]
        axis.barh(y, gain.mean, height=0.62, color=_colour(result, name))
        if np.isfinite(gain.half_width):
            axis.errorbar(
                gain.mean, y, xerr=gain.half_width, color="black", capsize=4, linewidth=1.3
            )
    names = list(shown)
    test = result.test_gain()
    if test is not None and result.choice.winner != REFERENCE:
        y = len(shown)
        names.append(f"{result.choice.winner}, jours de test")
        axis.barh(y, test.mean, height=0.62, color=GREEN, hatch="//", edgecolor="white")
        if np.isfinite(test.half_width):
            axis.errorbar(
                test.mean, y, xerr=test.half_width, color="black", capsize=4, linewidth=1.3
            )
        axis.axhline(y - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    axis.axvline(0, color=BLUE, linewidth=1.5)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlabel("points par jour de plus (→) ou de moins (←) que l'heuristique d'aujourd'hui")
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        f"{scenario.name} : gain sur `matching`, {_days(len(result.state.validation))} de "
        "validation, intervalles à 95 %",
        fontsize=11, loc="left",
    )  # fmt: skip
    figure.legend(handles=_legend(result, shown), loc="outside lower center", ncols=4, fontsize=9,
                  frameon=False)  # fmt: skip
    return figure


def _colour(result: AutoResult, name: str) -> str:
    if name == result.choice.winner:
        return GREEN
    return RED if name in result.choice.unsafe else GREY


def _legend(result: AutoResult, shown: list[str]) -> list[Line2D]:
    kinds = {GREEN: "gagnant", GREY: "autres candidats", RED: "écartés (sécurité)"}
    used = {_colour(result, name) for name in shown}
    handles = [
        Line2D([], [], color=colour, linewidth=7, label=label)
        for colour, label in kinds.items()
        if colour in used
    ]
    return [*handles, Line2D([], [], color=BLUE, linewidth=1.5, label="matching (aujourd'hui)")]


# --- numbers --------------------------------------------------------------------------------------


def _judged(result: AutoResult, name: str) -> Judged:
    return next(j for j in result.judged if j.name == name)


def _shown(value: Estimate) -> str:
    if not np.isfinite(value.half_width):
        return f"{value.mean:+.1f}"
    return f"{value.mean:+.1f} ± {value.half_width:.1f}"


def _number(value: float, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}".replace(".", ",").replace("-", "−")


def _french(value: Estimate, decimals: int = 1) -> str:
    sign = "+" if value.mean >= 0 else ""
    shown = f"{sign}{_number(value.mean, decimals)}"
    if np.isfinite(value.half_width):
        shown += f" ± {_number(value.half_width, decimals)}"
    return shown


def _days(count: int) -> str:
    return f"{count} journée{'s' if count > 1 else ''}"
