"""A gate's report as JSON and Markdown, and the words of its verdicts in French."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .gate_days import STRESS_WORLDS
from .gate_lines import FAIL, INFO, NOT_ESTIMABLE, PASS, Line

if TYPE_CHECKING:
    from .gate import GateReport

REPORT_JSON, REPORT_MARKDOWN = "gate.json", "gate.md"

VERDICT_WORDS: Final = {
    PASS: "pass",
    FAIL: "FAIL",
    NOT_ESTIMABLE: "not estimable",
    INFO: "info",
}

FRENCH: Final = {
    # verdicts
    "go": "FEU VERT",
    "no_go": "STOP",
    PASS: "réussi",
    FAIL: "échoué",
    NOT_ESTIMABLE: "non estimable",
    INFO: "information",
    # groups
    "champion": "contre le modèle en service",
    "heuristic": "contre l'heuristique",
    "fallback": "heuristique de secours du candidat",
    "real_champion": "jours réels, contre le modèle en service",
    "real_heuristic": "jours réels, contre l'heuristique",
    "stress": "mondes dégradés, contre l'heuristique",
    "serving": "mise en service",
    "calibration": "calibration",
    "off_policy": "estimation hors politique",
    # measures
    "reward": "récompense",
    "on_time": "à l'heure",
    "unserved": "pris en charge",
    "urgent_unserved": "urgents pris en charge",
    "urgent_late_15": "urgents sans retard de plus de 15 min",
    "urgent_late_30": "urgents sans retard de plus de 30 min",
    "demand": "30 % de demandes en plus",
    "breakdown": "un véhicule en panne",
    "slow": "circulation 15 % plus lente",
    "immediate": "demandes immédiates doublées",
    "fallbacks": "décisions de repli",
    "refused": "décisions refusées",
    "as_judged": "jours servis identiques aux jours jugés",
    "latency_p99": "temps de décision, 99e centile",
    "parity": "accord entre modèle exporté et modèle entraîné",
    "pickup_bias": "prises en charge plus tard que prévu",
    "pickup_mae": "écart absolu moyen des prises en charge",
    "pickup_close": "prises en charge à moins de 5 min du plan",
    "reward_bias": "récompense au-dessus du plan",
    "gain": "gain sur les décisions journalisées",
    "snips": "récompense par demande (SNIPS)",
    "doubly_robust": "récompense par demande (doublement robuste)",
}
"""By the words of a line's name, for pages in French."""

TITLES: Final = {
    "champion": "Fresh days, against the champion",
    "heuristic": "Fresh days, against the heuristic",
    "fallback": "The candidate's own fallback, against today's",
    "real_champion": "Real days, against the champion",
    "real_heuristic": "Real days, against the heuristic",
    "stress": "Worse worlds, against the heuristic",
    "serving": "Serving",
    "calibration": "Calibration: plans against what came about",
    "off_policy": "Off-policy: logged decisions",
}

MULTIPLICITY: Final = (
    "Gains are positive where the candidate is better. A comparison passes where the lower end of "
    "its paired 95 % interval is at least minus the margin. GO needs every line: a candidate that "
    "is worse than a margin by any measure passes with at most 2.5 %, whatever the number of "
    "lines. That number adds up to false NO-GOs, for which the number of days is chosen."
)


def french(name: str) -> str:
    """A line's name in French: ``stress.slow.reward`` word by word."""
    return " : ".join(FRENCH.get(word, word) for word in name.split("."))


# --- JSON ----------------------------------------------------------------------------------------


def document(report: "GateReport") -> dict[str, Any]:
    """The report as plain data."""
    from .gate import GATE_SCHEMA

    found = report.calibration
    plain = {
        "schema": GATE_SCHEMA,
        "go": report.go,
        "candidate": report.candidate,
        "champion": report.champion,
        "scenario": report.scenario,
        "on": report.on.isoformat(),
        "days": report.days,
        "seeds": report.seeds,
        "real_days": report.real_days,
        "stress_days": report.stress_days,
        "lines": [{**asdict(line), "group": line.group} for line in report.lines],
        "failed": [line.name for line in report.failed],
        "levels": report.levels,
        "calibration": None if found is None else _without_arrays(asdict(found)),
        "off_policy": None if report.off_policy is None else asdict(report.off_policy),
        "left_out": report.left_out,
        "limits": asdict(report.limits),
        "notes": report.notes,
        "multiplicity": MULTIPLICITY,
        "seconds": report.seconds,
    }
    cleaned: dict[str, Any] = _clean(plain)
    return cleaned


def _without_arrays(plain: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in plain.items() if k not in ("errors_min", "at_hour")}


def _clean(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- Markdown ------------------------------------------------------------------------------------


def markdown(report: "GateReport") -> str:
    """The report for people."""
    words = "GO" if report.go else "NO-GO"
    champion = "none" if report.champion is None else _who(report.champion)
    text = [
        f"# Gate of {report.on.isoformat()}: {words}",
        "",
        f"Candidate {_who(report.candidate)}; champion {champion}; scenario "
        f"`{report.scenario['name']}` (`{report.scenario['hash'][:12]}`).",
        "",
        _played(report),
        "",
    ]
    if report.failed:
        text += ["## Why not, and what to try", ""]
        text += [f"- **{line.name}**: {_found(line)}. {line.advice}" for line in report.failed]
        text += [""]
    groups = list(dict.fromkeys(line.group for line in report.lines))
    for group in groups:
        text += [f"## {TITLES.get(group, group)}", ""]
        text += _table([line for line in report.lines if line.group == group])
        text += [""]
    text += _levels(report)
    text += _hours(report)
    if report.left_out:
        reasons = "; ".join(f"{why} {count}" for why, count in report.left_out.items())
        text += [f"Logged decisions that no estimate could use: {reasons}.", ""]
    text += ["## How to read it", "", MULTIPLICITY, ""]
    text += [f"- {note}" for note in report.notes]
    return "\n".join(text).rstrip() + "\n"


def _who(named: dict[str, str]) -> str:
    return f"`{named['version']}` ({named['kind']})"


def _played(report: "GateReport") -> str:
    parts = []
    if report.seeds is not None:
        parts.append(f"{report.days} fresh days (seeds {report.seeds[0]} to {report.seeds[1]})")
    if report.real_days:
        first, last = report.real_days[0], report.real_days[-1]
        parts.append(f"{len(report.real_days)} real days ({first} to {last})")
    if report.stress_days:
        parts.append(f"{report.stress_days} days in each of {len(STRESS_WORLDS)} worse worlds")
    return "Played: " + "; ".join(parts) + f". It took {report.seconds:.0f} s."


def _table(lines: list[Line]) -> list[str]:
    rows = [
        "| | found | 95 % interval | threshold | verdict | |",
        "|---|---:|---:|---:|---|---|",
    ]
    for line in lines:
        interval = ""
        if line.low is not None and line.high is not None:
            interval = f"{_number(line.low, line)} to {_number(line.high, line)}"
        threshold = "" if line.threshold is None else _number(line.threshold, line)
        verdict = VERDICT_WORDS[line.verdict]
        value = "" if line.value is None else f"{_number(line.value, line)} {line.unit}"
        shown = f"**{verdict}**" if line.verdict == FAIL else verdict
        note = line.advice if line.verdict != FAIL else ""
        rows.append(f"| {line.title} | {value} | {interval} | {threshold} | {shown} | {note} |")
    return rows


def _found(line: Line) -> str:
    value = "nothing found" if line.value is None else f"{_number(line.value, line)} {line.unit}"
    if line.low is not None and line.high is not None:
        value += f" ({_number(line.low, line)} to {_number(line.high, line)})"
    if line.threshold is not None:
        value += f", asked for {_number(line.threshold, line)}"
    return value


def _number(value: float, line: Line) -> str:
    if line.unit == "count":
        return f"{value:.0f}"
    if line.unit == "share":
        return f"{value:.3f}"
    if line.unit in ("ms", "reward") or line.group == "calibration":
        return f"{value:.2f}"
    return f"{value:+.2f}"


_LEVELS: Final = (
    ("reward a day", "reward", None),
    ("bookings due a day", "due", None),
    ("on time, %", "on_time", "due"),
    ("served, %", "served", "due"),
    ("urgent served, %", "urgent_served", "urgent_due"),
    ("urgent late > 15 min, %", "urgent_late_15", "urgent_due"),
    ("urgent late > 30 min, %", "urgent_late_30", "urgent_due"),
    *((f"priority {p} served, %", f"served_p{p}", f"due_p{p}") for p in range(1, 6)),
)


def _levels(report: "GateReport") -> list[str]:
    names = [name for name in ("candidate", "champion", "heuristic") if name in report.levels]
    if not names:
        return []
    rows = [
        "## Levels on the gate's days",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for title, count, of in _LEVELS:
        cells = []
        for name in names:
            level = report.levels[name]
            if of is None:
                cells.append(f"{level[count]:.1f}")
            else:
                cells.append(f"{100.0 * level[count] / level[of]:.2f}" if level[of] else "")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*rows, ""]


def _hours(report: "GateReport") -> list[str]:
    found = report.calibration
    if found is None or not found.hours:
        return []
    rows = [
        "## Pickups by the hour of the decision",
        "",
        "| hour | pickups | later than planned, min | mean absolute error, min | within 5 min |",
        "|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {h.hour:02d} | {h.pickups} | {h.bias_min:+.1f} | {h.mae_min:.1f} | "
        f"{100 * h.close_share:.0f} % |"
        for h in found.hours
    ]
    return [*rows, ""]


# --- files ---------------------------------------------------------------------------------------


def write(report: "GateReport", folder: Path) -> list[Path]:
    """Write JSON, Markdown and figures into a folder, each under its name when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    paths = []
    for name, content in ((REPORT_JSON, text), (REPORT_MARKDOWN, markdown(report))):
        temporary = folder / f"{name}.partial"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(folder / name)
        paths.append(folder / name)
    return paths + report.plots(folder)
