"""Which candidate wins: the best mean reward among those that are safe, a tie to the simplest.

Pure arithmetic on what was played, so that the rule can be read and tested by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from services.rl.evaluation.paired import Estimate, estimate, paired_difference
from services.rl.simulation.types import FloatArray

FEW_DAYS: Final = 20
"""Below so many days no result is called sure, whatever its interval."""

KEPT = (
    "reward", "bookings_due", "completed", "completion_pct", "on_time_pct", "late_pct",
    "unserved", "unserved_p4", "unserved_p5", "deadhead_km", "wait_mean_min",
)  # fmt: skip
"""KPIs of every day that a choice keeps."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate on the days that decide.

    Attributes:
        name: The policy, as on the command line.
        trained: Whether it was trained for the scenario.
        kpis: ``(D,)`` of each of `KEPT`; the same days for every candidate.
        p50_ms: Median time of a decision, milliseconds.
        p99_ms: Its 99th percentile.
        model_sha: SHA-256 of what was trained.
    """

    name: str
    trained: bool
    kpis: dict[str, FloatArray]
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    model_sha: str | None = None

    @property
    def reward(self) -> FloatArray:
        """``(D,)``."""
        return self.kpis["reward"]

    def urgent_unserved(self) -> FloatArray:
        """``(D,)`` bookings of priority 4 and 5 that nobody served."""
        return self.kpis["unserved_p4"] + self.kpis["unserved_p5"]

    def not_in_time(self) -> FloatArray:
        """``(D,)`` bookings not picked up within 15 minutes of the promise: late, or never.

        A patient who is never picked up counts as well: else a policy would look safer for
        leaving behind those whom another one serves late.
        """
        return self.kpis["bookings_due"] * (1.0 - self.kpis["on_time_pct"] / 100.0)


SAFETY: Final = {
    "urgent_unserved": Judged.urgent_unserved,
    "not_in_time": Judged.not_in_time,
}
"""What must not rise against the reference, beyond the interval."""


@dataclass(frozen=True)
class Choice:
    """What the days decided.

    Attributes:
        winner: Its name.
        best: The highest mean among the safe ones; the winner unless days cannot tell them apart.
        gain: Paired difference of reward to the reference, of every candidate.
        unsafe: For those refused: which of `SAFETY` rose, and by how much.
        tied: Names that the days cannot tell from the best, the winner among them.
    """

    winner: str
    best: str
    gain: dict[str, Estimate]
    unsafe: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    tied: tuple[str, ...] = ()


def choose(judged: Sequence[Judged], reference: str) -> Choice:
    """Apply the rule.

    A tie goes to what needs no training, then to what stands first; but never to one that earned
    less than the reference: too few days to tell are no reason to fall back behind today's.

    Args:
        judged: The candidates, simplest first, the reference among them.
        reference: Today's heuristic.
    """
    known = {j.name: j for j in judged}
    today = known[reference]
    unsafe = {j.name: risen for j in judged if (risen := _risen(j, today))}
    safe = [j for j in judged if j.name not in unsafe]
    best = max(safe, key=lambda j: float(j.reward.mean()))
    floor = float(today.reward.mean())
    tied = [
        j
        for j in safe
        if j is best
        or (float(j.reward.mean()) >= floor and _cannot_tell(best.reward, j.reward))
    ]  # fmt: skip
    winner = min(tied, key=lambda j: (j.trained, judged.index(j)))
    return Choice(
        winner=winner.name,
        best=best.name,
        gain={j.name: paired_difference(j.reward, today.reward) for j in judged},
        unsafe=unsafe,
        tied=tuple(j.name for j in tied),
    )


def _risen(candidate: Judged, today: Judged) -> dict[str, Estimate]:
    found = {}
    for name, count in SAFETY.items():
        more = paired_difference(count(candidate), count(today))
        if more.low > 0:
            found[name] = more
    return found


def _cannot_tell(a: FloatArray, b: FloatArray) -> bool:
    """Whether the interval of the paired difference holds 0 (identical days: it does)."""
    difference = estimate(np.asarray(a) - np.asarray(b))
    return not difference.excludes_zero


def sure(gain: Estimate, days: int) -> bool:
    """Whether a gain may be called sure: enough days, and an interval above 0."""
    return days >= FEW_DAYS and gain.low > 0
