"""The gate: whether a candidate may come near patients, by days that nobody has seen.

Every night fresh days are drawn (and the last real ones replayed), and candidate, champion and the
tuned heuristic play the very same ones as they are served. The candidate must not lose: not against
what is served today, not against the heuristic, and not in worse worlds than planned for. Logged
decisions have their say where they support one (off-policy), and plans are held against what came
about (calibration). Every line gives its number, interval, threshold and verdict; one ``fail`` is a
NO-GO, and says which lever to try.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.data.experience import Experience
from services.rl.errors import BundleError, UsageError
from services.rl.serving.bundle import MATCHING_FILE, Bundle
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day

from .calibration import Calibration, calibration, calibration_lines
from .gate_days import STRESS_WORLDS, fresh_days, gate_seeds, samples_days, stressed
from .gate_lines import (
    FAIL,
    INFO,
    MEASURES,
    NOT_ESTIMABLE,
    PASS,
    GateLimits,
    Line,
    comparison,
    renamed,
    worst_of,
)
from .gate_play import TALLY, Played, heuristic_of, play_days, served_policy
from .gate_serving import ask, serving_lines
from .logged_choices import logged_choices
from .off_policy import OffPolicy, off_policy

GATE_SCHEMA: Final = 1
DAYS: Final = 400
"""Fresh days of a gate; see `scripts/rl/gate_power.py` for what this number costs and buys."""
STRESS_DAYS: Final = 100
SERVED_DAYS: Final = 6
"""Days played decision by decision through the inference engine."""

Say = Callable[[str], None]


@dataclass
class GateReport:
    """What a gate found.

    Attributes:
        lines: In the order in which they were found.
        candidate: Version, and its kind.
        champion: The same; None: there was none.
        scenario: Name and hash of the served world.
        on: Date of the gate.
        days: Fresh days played.
        seeds: First and last seed of them.
        real_days: Labels of the days replayed.
        stress_days: Fresh days of each worse world.
        levels: Means a day of candidate, champion and heuristic, by `gate_play.TALLY`.
        calibration: Plans against what came about; None: no experiences.
        off_policy: Estimates on logged decisions; None: no experiences.
        left_out: Logged decisions that no estimate could use, by reason.
        limits: What was asked for.
        notes: What limits what the lines say.
        seconds: That all of it took.
    """

    candidate: dict[str, str]
    champion: dict[str, str] | None
    scenario: dict[str, str]
    on: date
    days: int
    limits: GateLimits
    lines: list[Line] = field(default_factory=list)
    seeds: tuple[int, int] | None = None
    real_days: list[str] = field(default_factory=list)
    stress_days: int = 0
    levels: dict[str, dict[str, float]] = field(default_factory=dict)
    calibration: Calibration | None = None
    off_policy: OffPolicy | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def go(self) -> bool:
        """Whether no line fails."""
        return bool(self.lines) and not self.failed

    @property
    def failed(self) -> list[Line]:
        """Lines that make it a NO-GO."""
        return [line for line in self.lines if line.verdict == FAIL]

    def line(self, name: str) -> Line:
        """One line.

        Raises:
            UsageError: If there is none of that name.
        """
        for line in self.lines:
            if line.name == name:
                return line
        raise UsageError(f"the gate has no line {name!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not a finite number is None."""
        from .gate_report import document

        return document(self)

    def markdown(self) -> str:
        """For people, in English."""
        from .gate_report import markdown

        return markdown(self)

    def plots(self, folder: Path) -> list[Path]:
        """Draw figures into a folder; their paths."""
        from .gate_plots import plots

        return plots(self, folder)

    def write(self, folder: Path) -> list[Path]:
        """Write JSON, Markdown and figures; their paths, the JSON first."""
        from .gate_report import write

        return write(self, folder)


def run_gate(
    candidate: Bundle,
    champion: Bundle | None,
    scenario: Scenario,
    *,
    on: date,
    days: int = DAYS,
    stress_days: int = STRESS_DAYS,
    served_days: int = SERVED_DAYS,
    real_days: Sequence[Day] = (),
    experiences: Iterable[Experience] = (),
    training_scenario: Scenario | None = None,
    limits: GateLimits | None = None,
    epsilon: float = 0.0,
    source: DaySource | None = None,
    threads: int = 1,
    say: Say = lambda _: None,
) -> GateReport:
    """Judge a candidate.

    Args:
        candidate: Its bundle.
        champion: What is served today; None: the heuristic.
        scenario: The served world; both bundles must be of it.
        on: Today, in the company's own calendar: fresh days are drawn by it.
        days: Fresh days.
        stress_days: Of them, also played in each worse world.
        served_days: Of them, also played decision by decision through the inference engine.
        real_days: The last real days, to be replayed.
        experiences: Logged decisions with what came of them.
        training_scenario: The world as it was lately found to be: fresh days are drawn from it.
        limits: What is asked for.
        epsilon: Exploration with which the candidate would serve; see `logged_choices`.
        source: Where zone matrices come from, if the scenario travels by zones.
        threads: Batches played at once.
        say: Told what happens.

    Raises:
        BundleError: If a bundle is of another scenario.
        UsageError: If there is no day to judge by.
        DataError: If a real day cannot be played.
    """
    begun = time.monotonic()
    limits = GateLimits() if limits is None else limits
    for bundle in (candidate, *([] if champion is None else [champion])):
        if bundle.manifest.scenario_hash != scenario.sha256:
            raise BundleError(
                f"bundle {bundle.version} is for scenario {bundle.manifest.scenario!r} "
                f"({bundle.manifest.scenario_hash[:12]}), the gate's is {scenario.name!r} "
                f"({scenario.sha256[:12]})"
            )
    report = GateReport(
        candidate=_named(candidate),
        champion=None if champion is None else _named(champion),
        scenario={"name": scenario.name, "hash": scenario.sha256},
        on=on,
        days=days,
        limits=limits,
        real_days=[day.label for day in real_days],
    )
    sampled = samples_days(scenario if training_scenario is None else training_scenario)
    if sampled:
        fresh = fresh_days(scenario, on, days, training_scenario)
        seeds = gate_seeds(on, days)
        report.seeds = (int(seeds[0]), int(seeds[-1]))
    elif len(real_days) < 2:
        raise UsageError(
            f"scenario {scenario.name!r} draws no days: give at least two real ones to judge by"
        )
    else:
        fresh, real_days = list(real_days), ()
        report.days = len(fresh)
        report.notes.append("days are not drawn here: the real ones are the gate's days")
    _Gate(report, candidate, champion, scenario, source, threads, say).judge(
        fresh, list(real_days), stress_days, served_days
    )
    logged = list(experiences)
    _judge_log(report, candidate, scenario, logged, epsilon, source, say)
    report.seconds = time.monotonic() - begun
    return report


def _named(bundle: Bundle) -> dict[str, str]:
    return {"version": bundle.version, "kind": bundle.kind, "parent": bundle.manifest.parent or ""}


# --- simulated and replayed days -----------------------------------------------------------------


class _Gate:
    """Who plays which days."""

    def __init__(
        self,
        report: GateReport,
        candidate: Bundle,
        champion: Bundle | None,
        scenario: Scenario,
        source: DaySource | None,
        threads: int,
        say: Say,
    ) -> None:
        self.report = report
        self._candidate = candidate
        self._champion = champion
        self._scenario = scenario
        self._source = source
        self._threads = threads
        self._say = say
        # The yardstick is today's: a candidate that spoils its own matching must not win by it.
        yardstick = candidate if champion is None else champion
        self._policies = {
            "candidate": served_policy(candidate, scenario, source),
            "heuristic": heuristic_of(yardstick, scenario, source),
        }
        if champion is not None:
            self._policies["champion"] = (
                self._policies["candidate"]
                if champion.version == candidate.version
                else served_policy(champion, scenario, source)
            )

    def judge(self, fresh: list[Day], real: list[Day], stress_days: int, served_days: int) -> None:
        report, limits = self.report, self.report.limits
        played = self._play(fresh, "gate days")
        report.levels = {name: _means(p) for name, p in played.items()}
        for other in ("champion", "heuristic"):
            if other in played:
                report.lines += comparison(other, played["candidate"], played[other], limits)
        self._judge_fallback(fresh)
        if real:
            self._judge_real(real)
        self._judge_stress(fresh[: min(stress_days, len(fresh))])
        self._judge_serving(fresh[: max(1, min(served_days, len(fresh)))], played["candidate"])

    def _play(self, days: list[Day], what: str, *, only: Sequence[str] = ()) -> dict[str, Played]:
        played: dict[str, Played] = {}
        known: dict[int, Played] = {}
        for name, policy in self._policies.items():
            if only and name not in only:
                continue
            if id(policy) not in known:
                self._say(f"{name} plays {len(days)} {what}")
                known[id(policy)] = play_days(
                    policy, self._scenario, days, source=self._source, threads=self._threads
                )
            played[name] = known[id(policy)]
        return played

    def _judge_fallback(self, days: list[Day]) -> None:
        """The candidate's own ``matching`` would answer in an emergency: it must hold as well."""
        champion = self._champion
        if champion is None or (
            champion.manifest.files[MATCHING_FILE] == self._candidate.manifest.files[MATCHING_FILE]
        ):
            return
        a, b = (
            play_days(
                heuristic_of(bundle, self._scenario, self._source),
                self._scenario,
                days,
                source=self._source,
                threads=self._threads,
            )
            for bundle in (self._candidate, champion)
        )
        self.report.lines += comparison("fallback", a, b, self.report.limits)

    def _judge_real(self, real: list[Day]) -> None:
        report = self.report
        played = self._play(real, "real days")
        proven = len(real) <= report.limits.real_days_judged
        if proven:
            report.notes.append(
                f"{len(real)} real days were replayed: a line of them fails only where a loss "
                "beyond the margin is proven"
            )
        for other in ("champion", "heuristic"):
            if other in played:
                report.lines += comparison(
                    f"real_{other}",
                    played["candidate"],
                    played[other],
                    report.limits,
                    proven=proven,
                )

    def _judge_stress(self, days: list[Day]) -> None:
        report, limits = self.report, self.report.limits
        if len(days) < 2:
            return
        report.stress_days = len(days)
        measures = [m for m in MEASURES if m.name in ("reward", "urgent_unserved")]
        margins = {
            "reward": limits.stress_reward_pct,
            "urgent_unserved": limits.stress_urgent_points,
        }
        rewards = []
        for world in STRESS_WORLDS:
            played = self._play(
                stressed(world, days), f"days: {world.what}", only=("candidate", "heuristic")
            )
            lines = [
                renamed(line, f"stress.{world.name}.{line.name.partition('.')[2]}",
                        f"{line.title}, {world.what}")
                for line in comparison("stress", played["candidate"], played["heuristic"],
                                       limits, measures=measures, margins=margins)
            ]  # fmt: skip
            report.lines += lines
            rewards.append(lines[0])
        worst = worst_of(rewards)
        if worst is not None:
            report.notes.append(
                f"worst of the {len(STRESS_WORLDS)} worse worlds against the heuristic: "
                f"{worst.title} ({worst.value:+.1f} {worst.unit})"
            )

    def _judge_serving(self, days: list[Day], judged: Played) -> None:
        self._say(f"the engine serves {len(days)} days")
        asked = ask(self._candidate, self._scenario, days, self._source)
        self.report.lines += serving_lines(
            self._candidate, asked, judged, self.report.limits, self._source
        )


def _means(played: Played) -> dict[str, float]:
    return {name: float(np.mean(played.of(name))) for name in TALLY}


# --- the log -------------------------------------------------------------------------------------


def _judge_log(
    report: GateReport,
    candidate: Bundle,
    scenario: Scenario,
    experiences: list[Experience],
    epsilon: float,
    source: DaySource | None,
    say: Say,
) -> None:
    limits = report.limits
    if not experiences:
        report.lines.append(
            Line("off_policy.gain", "gain on logged decisions", "% of logged", None, None, None,
                 -limits.off_policy_points, NOT_ESTIMABLE, "no experiences were given")
        )  # fmt: skip
        return
    say(f"{len(experiences)} logged decisions")
    report.calibration = calibration(experiences, scenario)
    report.lines += calibration_lines(report.calibration, limits)
    logged = logged_choices(candidate, scenario, experiences, epsilon=epsilon, source=source)
    report.left_out = logged.left_out
    report.off_policy = off_policy(logged.choices, fewest_effective=limits.effective_sample)
    report.lines += off_policy_lines(report.off_policy, limits, logged.agree)


def off_policy_lines(found: OffPolicy, limits: GateLimits, agree: float) -> list[Line]:
    """SNIPS as information; the doubly robust gain over the log judged, where there is support."""
    facts: dict[str, Any] = {
        "decisions": found.choices,
        "days": found.days,
        "effective_sample": found.effective,
        "mass": found.mass,
        "agree": None if np.isnan(agree) else agree,
    }
    unit, title = "% of logged", "doubly robust gain on logged decisions"
    threshold = -limits.off_policy_points
    if not found.estimable or found.logged is None or not found.logged.mean > 0.0:
        why = found.why or "the logged decisions earned nothing on average: no percent of it"
        return [
            Line("off_policy.gain", title, unit, None, None, None, threshold, NOT_ESTIMABLE, why,
                 facts)
        ]  # fmt: skip
    assert found.gain is not None and found.snips is not None and found.doubly_robust is not None
    scale = 100.0 / found.logged.mean
    low, high = scale * found.gain.low, scale * found.gain.high
    bad = high < threshold
    snips, robust = found.snips, found.doubly_robust
    return [
        Line("off_policy.gain", title, unit, scale * found.gain.mean, low, high, threshold,
             FAIL if bad else PASS if low >= threshold else INFO,
             "what was logged speaks against it: train on more production experience, or look "
             "whether the simulated days are this company's" if bad
             else "" if low >= threshold else "no loss beyond the limit is proven",
             facts),
        Line("off_policy.snips", "reward of a logged booking, by SNIPS", "reward", snips.mean,
             snips.low, snips.high, None, INFO, "", {"logged": found.logged.mean}),
        Line("off_policy.doubly_robust", "the same, doubly robust", "reward", robust.mean,
             robust.low, robust.high, None, INFO, "", {"logged": found.logged.mean}),
    ]  # fmt: skip


def limits_of(changes: dict[str, float]) -> GateLimits:
    """The limits with some of them changed.

    Raises:
        UsageError: If there is no limit of that name.
    """
    known = asdict(GateLimits())
    for name in changes:
        if name not in known:
            raise UsageError(f"there is no limit {name!r}: choose {', '.join(known)}")
    return replace(GateLimits(), **changes)  # type: ignore[arg-type]
