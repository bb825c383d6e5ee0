"""The rules of the verdict, as data, and what they say of measured numbers.

Blocking rules come first, then the primary metric, then stability: GO needs all of them. A
number that could not be measured breaks its rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from services.rl.evaluation.paired import Estimate, paired_difference
from services.rl.simulation.types import FloatArray

Kind = Literal["blocking", "primary", "stability", "speed"]
Bound = Literal["at least", "at most", "below"]
SIGNS: Final[dict[Bound, str]] = {"at least": "≥", "at most": "≤", "below": "<"}


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        measure: Name of the number it looks at.
        kind: When it counts.
        bound: How the number must lie to the limit.
        limit: In ``unit``.
        unit: For people.
        about: What the number is, in French: reports are.
    """

    measure: str
    kind: Kind
    bound: Bound
    limit: float
    unit: str
    about: str

    def holds(self, value: float | None) -> bool:
        """Whether a number keeps the rule."""
        if value is None or not math.isfinite(value):
            return False
        if self.bound == "at least":
            return bool(value >= self.limit)
        return bool(value <= self.limit if self.bound == "at most" else value < self.limit)


BLOCKING: Final = (
    Rule("reward", "blocking", "at least", -1.0, "%",
         "récompense par jour contre le défaut, borne basse à 95 % de l'écart apparié"),
    Rule("on_time", "blocking", "at least", -1.0, "point",
         "part des prises en charge à l'heure, borne basse à 95 % de l'écart apparié"),
    Rule("unserved_urgent", "blocking", "at most", 0.25, "% des courses dues",
         "non servis de priorité 4-5, borne haute à 95 % de l'écart apparié"),
    Rule("parity", "blocking", "at most", 1e-4, "",
         "plus grand écart relatif de Q entre Torch et le graphe ONNX"),
    Rule("decisions", "blocking", "at least", 1.0, "part",
         "états de validation où Torch et ONNX choisissent la même action"),
    Rule("features", "blocking", "at most", 0.0, "calcul",
         "calculs de caractéristiques pendant les époques"),
)  # fmt: skip
SPEED: Final = Rule(
    "speed",
    "speed",
    "at least",
    2.0,
    "×",
    "temps par époque du défaut sur celui-ci, à tour de rôle",
)
SERVING: Final = Rule(
    "serving", "blocking", "at most", 1e-4, "",
    "plus grand écart de Q (à l'échelle d'entraînement) entre Torch et ONNX Runtime en jouant",
)  # fmt: skip
PRIMARY: Final = Rule(
    "val_total", "primary", "below", 0.0, "%", "val_total contre le défaut, mêmes graines"
)
STABILITY: Final = Rule(
    "spread", "stability", "at most", 2.0, "%", "étendue de val_total sur les graines / moyenne"
)
VERDICT: Final = (*BLOCKING, SERVING, PRIMARY, STABILITY)
"""In the order in which they are looked at."""


@dataclass(frozen=True)
class Finding:
    """A rule and the number it was asked about."""

    rule: Rule
    value: float | None

    @property
    def holds(self) -> bool:
        """Whether the rule is kept."""
        return self.rule.holds(self.value)

    def document(self) -> dict[str, Any]:
        """Plain data."""
        known = self.value is not None and math.isfinite(self.value)
        return {
            **asdict(self.rule),
            "value": self.value if known else None,
            "holds": self.holds,
        }


def findings(rules: Sequence[Rule], measures: Mapping[str, float | None]) -> list[Finding]:
    """Every rule with its number."""
    return [Finding(rule, measures.get(rule.measure)) for rule in rules]


def go(found: Sequence[Finding]) -> bool:
    """The verdict: every rule of `VERDICT` was looked at, and holds."""
    seen = {f.rule.measure for f in found}
    return all(f.holds for f in found) and all(rule.measure in seen for rule in VERDICT)


def day_differences(
    kpis: Mapping[str, FloatArray], default: Mapping[str, FloatArray]
) -> dict[str, Estimate]:
    """Paired differences on the same days, in the units of the rules.

    Args:
        kpis: Each ``(D,)``, of a configuration.
        default: Of the default, the same days.
    """
    base = float(np.abs(np.mean(default["reward"])))
    due = float(np.mean(default["bookings_due"]))
    return {
        "reward": _scaled(paired_difference(kpis["reward"], default["reward"]), 100.0, base),
        "on_time": paired_difference(kpis["on_time_pct"], default["on_time_pct"]),
        "unserved_urgent": _scaled(paired_difference(urgent(kpis), urgent(default)), 100.0, due),
    }


def urgent(kpis: Mapping[str, FloatArray]) -> FloatArray:
    """Unserved bookings of priority 4 and 5, ``(D,)``."""
    return np.asarray(kpis["unserved_p4"]) + np.asarray(kpis["unserved_p5"])


def bounds(differences: Mapping[str, Estimate]) -> dict[str, float]:
    """The end of each interval that its rule looks at: the worse one."""
    low = {rule.measure for rule in BLOCKING if rule.bound == "at least"}
    return {n: float(e.low if n in low else e.high) for n, e in differences.items()}


def spread_pct(values: Sequence[float]) -> float | None:
    """Highest less lowest, in percent of the mean; None for fewer than three."""
    if len(values) < 3:
        return None
    return 100.0 * (max(values) - min(values)) / float(np.mean(values))


def _scaled(value: Estimate, by: float, base: float) -> Estimate:
    if not base > 0:  # there is nothing to be worse than: no percent can be told
        return Estimate(float("nan"), float("inf"))
    return Estimate(value.mean * by / base, value.half_width * by / base)
