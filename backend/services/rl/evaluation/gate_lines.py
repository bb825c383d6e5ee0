"""Lines of a gate: what was found, its interval, what was asked for, and what to try if it failed.

A comparison line is a *gain*: positive where the candidate is better, whatever the measure. "Must
not lose" means that the lower end of the gain's paired 95 % interval is at least minus the margin
(a non-inferiority test at one-sided 2.5 %). A GO needs every line, so a candidate that is worse
than the margin by any one measure passes with at most 2.5 % (an intersection-union test, Berger
1982): the many lines need no correction against false GOs. They do add up to false NO-GOs; the
number of days is chosen so that those stay rare (`scripts/rl/gate_power.py` measures both).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from services.rl.simulation.types import FloatArray

from .gate_play import Played
from .paired import Estimate, paired_difference, rate_difference

Verdict = Literal["pass", "fail", "not_estimable", "info"]
PASS: Final = "pass"  # noqa: S105 - a verdict
FAIL: Final = "fail"
NOT_ESTIMABLE: Final = "not_estimable"
INFO: Final = "info"


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        name: ``<group>.<measure>``, such as ``champion.on_time``.
        title: For people.
        unit: Of the numbers.
        value: Found; None: nothing could be.
        low: Lower end of its 95 % interval.
        high: Upper end.
        threshold: What was asked for; None: nothing.
        verdict: ``fail`` makes a NO-GO; ``info`` and ``not_estimable`` do not.
        advice: Which lever to try, or why nothing can be said.
        facts: Further numbers.
    """

    name: str
    title: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    verdict: Verdict
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The part of the gate that it belongs to."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class GateLimits:
    """How much worse a candidate may be found without being stopped, and why so much.

    A margin is the loss that must be *ruled out*; it has to be wider than what chance alone shows
    between two equals on the gate's days (`days`), and narrower than what anybody would feel.

    Attributes:
        reward_pct: Of what a day's bookings are worth; 1 % of a good dispatcher's reward, about
            what a night's training can win: more must not be lost in one.
        on_time_points: Of all bookings due; one patient a day in a company of 85 bookings.
        unserved_points: Of all bookings due; two patients in five days.
        urgent_unserved_points: Of bookings of priority 4 and 5; one patient a week of them.
        urgent_late_15_points: Of the same, picked up more than 15 min late; chance moves it most,
            and a wait of a quarter of an hour harms less than none coming.
        urgent_late_30_points: The same beyond 30 min.
        stress_reward_pct: In each worse world, against the heuristic; fewer days are played there,
            and it is insurance: it must not break where the heuristic holds.
        stress_urgent_points: Unserved ones of priority 4 and 5 there.
        real_days_judged: Replayed days are too few for intervals within the margins: up to so
            many, a line fails only where its whole interval lies beyond the margin.
        off_policy_points: Estimated on logged decisions, percent of the logged value: fails where
            the whole interval lies below minus this.
        effective_sample: Logged decisions that the estimate must in effect rest on.
        pickup_bias_min: Realised pickups on average later (or earlier) than predicted: beyond it
            the simulated days are not this company's.
        reward_bias_pct: Realised reward of an assignment against the planned, percent of planned.
        agreement: Share of states on which the exported model decides as the trained one.
    """

    reward_pct: float = 0.75
    on_time_points: float = 1.0
    unserved_points: float = 0.5
    urgent_unserved_points: float = 1.0
    urgent_late_15_points: float = 2.0
    urgent_late_30_points: float = 1.5
    stress_reward_pct: float = 3.0
    stress_urgent_points: float = 3.0
    real_days_judged: int = 60
    off_policy_points: float = 2.0
    effective_sample: float = 100.0
    pickup_bias_min: float = 4.0
    reward_bias_pct: float = 15.0
    agreement: float = 0.99


LEVERS: Final = {
    "reward": "train longer or on more recent days; start from the champion; mix in more "
    "simulated days (the production share may be too large)",
    "on_time": "raise the price of late minutes (planner: the care steps; network: the reward's "
    "late_per_min is fixed, so train on days with today's demand)",
    "unserved": "look at the hours in which bookings are left: recalibrate demand, or plan "
    "further ahead (look_ahead_min, hold_back_min)",
    "urgent_unserved": "raise the weight of priority in the values; never promote around this line",
    "urgent_late_15": "raise the price of urgent late minutes (late_urgent: the care steps)",
    "urgent_late_30": "raise the price of urgent late minutes (late_urgent: the care steps)",
}
"""What to try where a measure fails."""

MORE_DAYS: Final = "not proven either way: play more gate days (--days), or a narrower change"


def line_of(
    name: str,
    title: str,
    unit: str,
    gain: Estimate,
    margin: float,
    lever: str,
    *,
    proven: bool = False,
    needed: bool = False,
    facts: dict[str, Any] | None = None,
) -> Line:
    """A "must not lose" line.

    Args:
        name: See `Line`.
        title: See `Line`.
        unit: See `Line`.
        gain: Candidate's gain.
        margin: Loss that must be ruled out.
        lever: What to try where it fails.
        proven: Fail only where a loss beyond the margin is proven: the interval lies below it.
        needed: Fail where there is nothing to judge by: days without a booking say GO to anybody.
        facts: See `Line`.
    """
    if not np.isfinite(gain.mean):
        return Line(name, title, unit, None, None, None, -margin, FAIL if needed else NOT_ESTIMABLE,
                    "none of the days has such a booking", facts or {})  # fmt: skip
    sure = bool(np.isfinite(gain.half_width))
    low, high = (gain.low, gain.high) if sure else (None, None)
    if not sure:
        verdict: Verdict = NOT_ESTIMABLE if proven else FAIL
        advice = "one day has no interval: play more days"
    elif proven:
        lost = gain.high < -margin
        verdict, advice = (FAIL, lever) if lost else (PASS, "")
        if not lost and gain.low < -margin:
            verdict, advice = INFO, "too few days to rule a loss out; none is proven"
    else:
        verdict, advice = PASS, ""
        if gain.low < -margin - 1e-9:
            verdict = FAIL
            advice = lever if gain.high < 0.0 or gain.mean < -margin else MORE_DAYS
    return Line(name, title, unit, gain.mean, low, high, -margin, verdict, advice, facts or {})


def _points(a: Played, b: Played, count: str, of: str, better: int) -> Estimate:
    gain = rate_difference(a.of(count), a.of(of), b.of(count), b.of(of))
    return Estimate(better * gain.mean + 0.0, gain.half_width)  # never -0


def _reward_pct(a: Played, b: Played) -> Estimate:
    """Gain in percent of what the days' bookings are worth: also where the reward is near 0."""
    gain = paired_difference(a.of("reward"), b.of("reward"))
    worth = float(np.mean(b.of("worth")))
    if not worth > 0.0:
        return Estimate(float("nan"), float("inf"))
    return Estimate(100.0 * gain.mean / worth, 100.0 * gain.half_width / worth)


@dataclass(frozen=True)
class Measure:
    """What is compared: its name, title, the sums it is made of, and the field of its margin."""

    name: str
    title: str
    count: str
    of: str
    better: int
    margin: str

    def gain(self, a: Played, b: Played) -> Estimate:
        """The gain of ``a`` over ``b`` on the same days, in percent or points."""
        if self.name == "reward":
            return _reward_pct(a, b)
        return _points(a, b, self.count, self.of, self.better)

    @property
    def unit(self) -> str:
        """Of the gain."""
        return "% of worth" if self.name == "reward" else "points"


MEASURES: Final = (
    Measure("reward", "reward", "reward", "worth", 1, "reward_pct"),
    Measure("on_time", "on time", "on_time", "due", 1, "on_time_points"),
    Measure("unserved", "served", "served", "due", 1, "unserved_points"),
    Measure("urgent_unserved", "urgent served", "urgent_served", "urgent_due", 1,
            "urgent_unserved_points"),
    Measure("urgent_late_15", "urgent not late > 15 min", "urgent_late_15", "urgent_due", -1,
            "urgent_late_15_points"),
    Measure("urgent_late_30", "urgent not late > 30 min", "urgent_late_30", "urgent_due", -1,
            "urgent_late_30_points"),
)  # fmt: skip
"""A booking that is not served is counted by the served, not by the late."""

_NEEDED: Final = ("reward", "on_time", "unserved")
"""What fresh days must say something about; urgent bookings a company may have none of."""


def comparison(
    group: str,
    candidate: Played,
    other: Played,
    limits: GateLimits,
    *,
    proven: bool = False,
    measures: Sequence[Measure] = MEASURES,
    margins: dict[str, float] | None = None,
) -> list[Line]:
    """All measures of a candidate against another on the same days.

    Args:
        group: Of the lines' names.
        candidate: What it did.
        other: What the other did.
        limits: Margins.
        proven: See `line_of`.
        measures: Which.
        margins: Other margins than the limits', by the measure's name.
    """
    lines = []
    for measure in measures:
        margin = (margins or {}).get(measure.name, getattr(limits, measure.margin))
        lines.append(
            line_of(
                f"{group}.{measure.name}",
                measure.title,
                measure.unit,
                measure.gain(candidate, other),
                margin,
                LEVERS[measure.name],
                proven=proven,
                needed=not proven and measure.name in _NEEDED,
                facts={
                    "candidate": _level(measure, candidate),
                    "other": _level(measure, other),
                    "days": candidate.days,
                },
            )
        )
    return lines


def _level(measure: Measure, played: Played) -> float | None:
    """Reward a day, or percent."""
    if measure.name == "reward":
        return float(played.of("reward").mean())
    of = float(played.of(measure.of).sum())
    return 100.0 * float(played.of(measure.count).sum()) / of if of else None


def worst_of(lines: Sequence[Line]) -> Line | None:
    """Of lines in one unit, that of the smallest gain; None where there is none."""
    known = [line for line in lines if line.value is not None]
    return min(known, key=lambda line: line.value or 0.0) if known else None


def renamed(line: Line, name: str, title: str) -> Line:
    """The same finding under another name."""
    return replace(line, name=name, title=title)


def shares(values: FloatArray) -> tuple[float, float]:
    """Median and 99th percentile."""
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))
