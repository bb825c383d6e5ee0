"""What the dispatcher must and should reach, as rows: measured, must, aim, verdict.

A row without a measurement says so; it never gets a number. Verdicts are on the mean over training
seeds; where an interval above 0 is asked for, it is that of the paired difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

Numbers = Mapping[str, Any]

OVERLOAD, MODERATE = "geneva_overload", "geneva"
PLANNER_MS, NETWORK_MS = 15.0, 1.0


class Verdict(StrEnum):
    """How a row stands."""

    AIM = "visé atteint"
    MUST = "exigé atteint"
    MISSED = "manqué"
    UNKNOWN = "non mesuré"


@dataclass(frozen=True)
class Goal:
    """A bound on a number.

    Attributes:
        text: As the table says it, in French.
        at_least: Lower bound.
        at_most: Upper bound.
        certain: The interval must lie above 0 (with an upper bound: below).
    """

    text: str
    at_least: float | None = None
    at_most: float | None = None
    certain: bool = False

    def met(self, measured: "Measured") -> bool:
        """Whether a measurement satisfies it."""
        if self.at_least is not None and not measured.value >= self.at_least:
            return False
        if self.at_most is not None and not measured.value <= self.at_most:
            return False
        if not self.certain:
            return True
        if measured.sure is not None:
            return measured.sure
        if measured.half is None:
            return False
        if self.at_most is not None:
            return measured.value + measured.half < 0
        return measured.value - measured.half > 0


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Attributes:
        value: Mean over the days.
        half: Half-width of its 95 % interval; None: it has none.
        unit: Behind the number.
        days: Days it stands on.
        worst: Of the worst training seed, where there are several.
        limit_kept: False where a condition beside the number (milliseconds) is broken.
        remark: What else the table must say.
        sure: Whether the interval of the paired difference in reward lies above 0, which decides
            where it is known: that of the relative gain is the delta method's, too narrow on few
            days.
    """

    value: float
    half: float | None = None
    unit: str = "%"
    days: int | None = None
    worst: float | None = None
    limit_kept: bool = True
    remark: str = ""
    sure: bool | None = None


@dataclass(frozen=True)
class Target:
    """A row of the table.

    Attributes:
        name: In French.
        measured: None: not measured.
        must: None: nothing is demanded.
        aim: None: nothing more is aimed at.
        aimed: What the aim is about, where it is ``elsewhere``; None: not measured.
        elsewhere: The aim is about another number than ``measured``.
    """

    name: str
    measured: Measured | None
    must: Goal | None = None
    aim: Goal | None = None
    aimed: Measured | None = None
    elsewhere: bool = False

    def verdict(self) -> Verdict:
        """How the row stands: the aim counts only where the must is met."""
        if self.measured is None:
            return Verdict.UNKNOWN
        if not self.measured.limit_kept:
            return Verdict.MISSED
        if self.must is not None and not self.must.met(self.measured):
            return Verdict.MISSED
        about = self.aimed if self.elsewhere else self.measured
        if self.aim is not None and about is not None and self.aim.met(about):
            return Verdict.AIM
        return Verdict.MUST if self.must is not None else Verdict.MISSED

    def to_json(self) -> dict[str, Any]:
        """Plain data for the document."""
        return {
            "name": self.name,
            "measured": None if self.measured is None else vars(self.measured),
            "aimed": None if self.aimed is None else vars(self.aimed),
            "must": None if self.must is None else self.must.text,
            "aim": None if self.aim is None else self.aim.text,
            "verdict": str(self.verdict()),
        }


_CERTAIN: Final = ", intervalle > 0"


def _gain(percent: float, *, certain: bool = False) -> Goal:
    text = f"+{percent:g} %".replace(".", ",") + (_CERTAIN if certain else "")
    return Goal(text, at_least=percent, certain=certain)


_NOT_WORSE: Final = Goal("pas moins bon", at_least=0.0)
_SURE: Final = Goal("intervalle > 0", at_least=0.0, certain=True)


def targets(tables: Numbers) -> list[Target]:
    """All rows of the issue's table, from the document's tables."""
    rows = []
    for world, must, aim in (
        (OVERLOAD, _gain(5, certain=True), _gain(8)),
        (MODERATE, _NOT_WORSE, _gain(4)),
    ):
        measured = _pair(tables, world, "planner_rolling", PLANNER_MS)
        rows.append(Target(f"planner (≤ 15 ms) − rolling à 0,2 s, {world}", measured, must, aim))
    for world, percent, more in ((OVERLOAD, 3.5, 6.0), (MODERATE, 0.7, 2.0)):
        measured = _pair(tables, world, "planner_search")
        rows.append(
            Target(
                f"planner − rolling_search, mêmes mouvements, {world}",
                measured,
                _gain(percent, certain=True),
                _gain(more),
            )
        )
    for world, percent in ((OVERLOAD, 84.0), (MODERATE, 82.0)):
        must, aim = (Goal(f"{p:g} %", at_least=p) for p in (percent, 90.0))
        label = f"part de l'écart comblée, planner, {world}"
        rows.append(Target(label, _gap(tables, world), must, aim))
    for world, percent in ((OVERLOAD, 5.0), (MODERATE, 2.0)):
        rows.append(
            Target(
                f"réseau (≤ 1 ms) − matching_linear, {world}",
                _pair(tables, world, "network_linear", NETWORK_MS),
                _gain(percent, certain=True),
                Goal("à 1 % du planner", at_least=-1.0),
                aimed=_pair(tables, world, "network_planner"),
                elsewhere=True,
            )
        )
    measured = _pair(tables, OVERLOAD, "network_rolling", NETWORK_MS)
    rows.append(
        Target(f"réseau (≤ 1 ms) − rolling à 0,2 s, {OVERLOAD}", measured, _NOT_WORSE, _SURE)
    )
    for world, percent, share in (("manhattan_11", 7.0, 82.5), ("manhattan_38", 6.0, 86.5)):
        gain, bound = _manhattan(tables, world)
        goal = Goal(f"{share:g} % de la borne".replace(".", ","), at_least=share)
        rows.append(
            Target(
                f"valeurs d'arête (≤ 1 ms) − matching_profit, {world}, 25 jours de validation",
                gain,
                _gain(percent, certain=True),
                goal,
                aimed=bound,
                elsewhere=True,
            )
        )
    return [*rows, *_safety(tables), _city(tables), *_robust(tables), *_training(tables)]


# --- where the numbers stand ---------------------------------------------------------------------


def _of(tables: Any, *path: Any) -> Any:
    """What stands at a path, or None."""
    for name in path:
        if not isinstance(tables, Mapping) or tables.get(name) is None:
            return None
        tables = tables[name]
    return tables


def _measured(pair: Numbers | None) -> Measured | None:
    if pair is None or pair["relative_pct"] is None:
        return None
    worst = pair["worst"]["relative_pct"]
    return Measured(
        pair["relative_pct"]["mean"],
        pair["relative_pct"]["half"],
        days=pair["days"],
        worst=None if worst is None or pair["seeds"] < 2 else worst["mean"],
        sure=_surely_above(pair["diff"]),
    )


def _surely_above(difference: Numbers | None) -> bool:
    if difference is None or difference["half"] is None:
        return False
    return bool(difference["mean"] - difference["half"] > 0)


def _row(tables: Numbers, world: str, policy: str) -> Numbers | None:
    rows = _of(tables, "kpis", world, "rows") or []
    return next((row for row in rows if row["policy"] == policy), None)


def _within(measured: Measured, p50_ms: float, limit_ms: float) -> Measured:
    shown = f"{p50_ms:.2g} ms".replace(".", ",")
    return replace(measured, limit_kept=p50_ms <= limit_ms, remark=f"{shown} (p50)")


def _pair(tables: Numbers, world: str, name: str, limit_ms: float | None = None) -> Measured | None:
    pair = _of(tables, "kpis", world, "pairs", name)
    measured = _measured(pair)
    if measured is None or limit_ms is None:
        return measured
    row = _row(tables, world, pair["a"])
    return measured if row is None else _within(measured, row["latency"]["p50_ms"], limit_ms)


def _gap(tables: Numbers, world: str) -> Measured | None:
    planner = _of(tables, "kpis", world, "pairs", "planner_search", "a")
    row = None if planner is None else _row(tables, world, planner)
    gap = _of(row, "gap_closed_pct")
    return None if gap is None else Measured(gap["mean"], gap["half"], days=gap["days"])


def _manhattan(tables: Numbers, world: str) -> tuple[Measured | None, Measured | None]:
    rows = _of(tables, "manhattan", world) or []
    row = next((r for r in rows if r["policy"] == "matching_values"), None)
    if row is None:
        return None, None
    gain = _measured(row["minus_profit"])
    share = row["share_of_bound_pct"]
    bound = None if share is None else Measured(share["mean"], share["half"], days=row["days"])
    if gain is not None:
        gain = _within(gain, row["latency"]["p50_ms"], NETWORK_MS)
    return gain, bound


_NEVER_MORE: Final = Goal("jamais plus", at_most=0.0)
_THIRD_LESS: Final = Goal("−30 %", at_most=-30.0)
_DANGERS: Final = {
    "unserved_urgent": "priorités 4-5 non servies",
    "late_all": "prises en charge > 15 min après l'heure promise",
    "late_urgent": "les mêmes, priorités 4-5",
}


def _safety(tables: Numbers) -> list[Target]:
    found = []
    for world in (OVERLOAD, MODERATE):
        rows = _of(tables, "safety", world) or []
        row = next((r for r in rows if r["policy"].startswith("planner")), None)
        for name, text in _DANGERS.items():
            relative = _of(row, name, "relative_pct")
            measured = None
            if row is not None and relative is not None:
                measured = Measured(relative["mean"], relative["half"], days=row["days"])
            label = f"planner − matching : {text}, {world}"
            found.append(Target(label, measured, _NEVER_MORE, _THIRD_LESS))
    return found


def _city(tables: Numbers) -> Target:
    rows = _of(tables, "city") or []
    row = next((r for r in rows if r["policy"].startswith("planner")), None)
    row = row or next(iter(rows), None)
    measured = None
    if row is not None and row["full_p50_ms"] is not None:
        remark = f"{row['policy']}, p99 {row['full_p99_ms']:.0f} ms"
        measured = Measured(row["full_p50_ms"], unit="ms", days=row["days"], remark=remark)
    must, aim = (Goal(f"≤ {ms:g} ms", at_most=ms) for ms in (100.0, 25.0))
    return Target("200 chauffeurs × 500 réservations, par époque, à chaud", measured, must, aim)


def _robust(tables: Numbers) -> list[Target]:
    """The least gain over all disturbances, per world and rival."""
    found = []
    for world in (OVERLOAD, MODERATE):
        rows = [r for r in _of(tables, "robust") or [] if r["base"] == world]
        for rival, text in (("rolling@200", "rolling"), ("matching", "matching")):
            pairs = [
                (r["title"], r["planner_minus"].get(rival)) for r in rows if rival in r["asked"]
            ]
            known = [(title, m) for title, p in pairs if (m := _measured(p)) is not None]
            measured = None
            if known and len(known) == len(pairs):
                # Where every interval must lie above 0, first one that does not.
                title, least = min(
                    known, key=lambda k: (bool(k[1].sure) and world == OVERLOAD, k[1].value)
                )
                remark = f"la moins favorable de {len(known)} : {title}"
                measured = replace(least, remark=remark)
            must = _SURE if world == OVERLOAD else _NOT_WORSE
            label = f"planner − {text} sous perturbations, {world}"
            found.append(Target(label, measured, must))
    return found


def _training(tables: Numbers) -> list[Target]:
    found = []
    for kind in ("planner", "dqn_matching"):
        minutes = [t["minutes"] for t in _of(tables, "training") or [] if t["kind"] == kind]
        measured = None
        if minutes:
            remark = f"{len(minutes)} entraînements, le plus long"
            measured = Measured(max(minutes), unit="min", remark=remark)
        must, aim = (Goal(f"≤ {m:g} min", at_most=m) for m in (15.0, 5.0))
        found.append(Target(f"temps d'entraînement, {kind}", measured, must, aim))
    return found
