"""Guardrails: the learned arm is stopped when it does harm, and a person lets it run again.

Five things are watched, each with its part of the week's false-alarm probability (the parts add
up, so that together they keep to it): late and unserved bookings against the other arm
(`evidence.ArmComparison`), and fallbacks, infeasible and slow decisions against ceilings
(`evidence.RateCeiling`). Evidence is weighed at the end of each block; the arm is stopped when it
reaches 1/α *and* the observed difference reaches the margin: what is certain but small is the
experiment's verdict to give, not a guardrail's.

Late and unserved rates of units that never close (``company``) are looked at once a day, each of
the seven looks with a seventh of α.

One process feeds the monitor (the one that runs the tick and collects outcomes); all processes
see a stop through the `ExperimentStore`. After a restart the monitor is rebuilt by recording the
week's events again, in their order.
"""

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from .config import (
    RL,
    ExperimentConfig,
    ExperimentError,
    ExperimentStore,
    Guardrails,
    UnitKind,
    aware,
    block_start,
    check_person,
)
from .evidence import DAYS, ArmComparison, Finding, RateCeiling, UnitTotal, standing_evidence
from .notification import Notifier, NullNotifier
from .units import unit_ends_at

COMPARED: Final = ("late", "unserved")
CEILINGS: Final = ("fallback", "infeasible", "slow")
ALPHA_PARTS: Final = {
    "late": 0.3,
    "unserved": 0.3,
    "fallback": 0.15,
    "infeasible": 0.15,
    "slow": 0.1,
}
"""Parts of the week's false-alarm probability. Where a ceiling on late or unserved bookings is
set as well, it shares the metric's part."""

_DAY: Final = timedelta(days=1)
_WORDS: Final = {
    "late": "late bookings",
    "unserved": "bookings left unserved",
    "fallback": "decisions answered by the fallback",
    "infeasible": "infeasible decisions",
    "slow": "slow decisions",
}


@dataclass(frozen=True)
class Breach:
    """Why the learned arm was stopped.

    Attributes:
        metric: Which guardrail.
        at: End of the block in which it was seen.
        words: One sentence, with numbers and thresholds.
        rate: Of the learned arm.
        other: Of the other arm, or the ceiling.
        margin: Difference that it takes; 0 for a ceiling.
        e_value: The evidence.
        needed: Evidence that it takes.
    """

    metric: str
    at: datetime
    words: str
    rate: float
    other: float
    margin: float
    e_value: float
    needed: float

    def message(self, config: ExperimentConfig) -> dict[str, Any]:
        """What the webhook is told: no booking, no patient, no driver."""
        return {
            "kind": "experiment_stopped",
            "experiment": config.name,
            "company_id": config.company_id,
            "metric": self.metric,
            "at": self.at.isoformat(),
            "reason": self.words,
            "rate": self.rate,
            "other": self.other,
            "margin": self.margin,
            "e_value": min(self.e_value, 1e12),
            "needed": self.needed,
        }


@dataclass
class _Unit:
    """A unit whose bookings are still coming in."""

    learned: bool
    share: float
    closes_at: datetime
    bad: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COMPARED, 0.0))
    bookings: float = 0.0

    def total(self, metric: str) -> UnitTotal:
        return UnitTotal(self.bad[metric], self.bookings, self.learned, self.share)


class GuardrailMonitor:
    """Watches one experiment.

    Args:
        experiments: Where the experiment's settings are kept and a stop is written.
        notifier: Who is told of a breach.

    Attributes:
        breach: Why the arm was stopped, if this monitor stopped it.
        ignored: Outcomes that could not count, by reason: ``"twice"`` (the booking counted
            already), ``"too_late"`` (its unit had closed), ``"before"`` (its unit was drawn
            before the evidence began, perhaps under another split).
    """

    def __init__(self, experiments: ExperimentStore, notifier: Notifier | None = None) -> None:
        self._experiments = experiments
        self._notifier = NullNotifier() if notifier is None else notifier
        self._lock = threading.RLock()
        self.breach: Breach | None = None
        self.ignored = {"twice": 0, "too_late": 0, "before": 0}
        self._rules: Guardrails | None = None
        self._began: datetime | None = None  # the evidence; None: with the first event
        self._restart()

    # --- what is fed in --------------------------------------------------------------------------

    def record_decision(
        self, at: datetime, *, fallback: bool, infeasible: bool, latency_ms: float
    ) -> Breach | None:
        """One decision of the learned arm (an epoch, not a booking); the breach it leads to."""
        with self._lock:
            found = self._advance(aware(at))
            slow = latency_ms > self._guardrails.latency_limit_ms
            flags = (("fallback", fallback), ("infeasible", infeasible), ("slow", slow))
            for metric, bad in flags:
                self._counts[metric][0] += bad
                self._counts[metric][1] += 1
            return found

    def record_outcome(
        self,
        at: datetime,
        *,
        booking_id: str | int,
        unit: str,
        arm: str,
        late: bool,
        unserved: bool,
        share: float | None = None,
        first_seen_at: datetime | None = None,
    ) -> Breach | None:
        """What became of one booking that an arm decided; the breach that this leads to.

        Args:
            at: When it became known.
            booking_id: Counts once, however often it is told.
            unit: The unit by which it was decided.
            arm: The unit's arm, whoever answered in the end (intention to treat).
            late: Served, not on time.
            unserved: Not served.
            share: Probability with which the unit was drawn for the learned arm (default: the
                experiment's present ``rl_share``).
            first_seen_at: When the unit was drawn (default: now).
        """
        with self._lock:
            now = aware(at)
            found = self._advance(now)
            config = self._config
            assert self._began is not None
            if first_seen_at is not None and aware(first_seen_at) < self._began:
                self.ignored["before"] += 1
                return found
            if str(booking_id) in self._seen:
                self.ignored["twice"] += 1
                return found
            state = self._unit(config, unit, arm, config.rl_share if share is None else share, now)
            if state is None:
                self.ignored["too_late"] += 1
                return found
            self._seen.add(str(booking_id))
            state.bookings += 1
            for metric, bad in (("late", late), ("unserved", unserved)):
                state.bad[metric] += bad
                if arm == RL and metric in self._counts:
                    self._counts[metric][0] += bad
                    self._counts[metric][1] += 1
            return found

    def check(self, now: datetime) -> Breach | None:
        """Weigh what has come in by now; the breach, if there is one."""
        with self._lock:
            return self._advance(aware(now))

    # --- what is done with it --------------------------------------------------------------------

    def resume(self, who: str, why: str, at: datetime) -> ExperimentConfig:
        """Let the learned arm run again, by a person's decision; evidence begins afresh.

        Raises:
            ExperimentError: If nobody, or no reason, is named.
        """
        check_person(who, why)
        with self._lock:
            config = self._experiments.resume(who, why, aware(at))
            self.restart(at)
            return config

    def restart(self, at: datetime) -> None:
        """Begin the evidence afresh: after another split, another model, other thresholds.

        Of units drawn before, outcomes count no more: they were drawn under other odds.
        """
        with self._lock:
            self._restart()
            self._began = aware(at)

    def findings(self) -> dict[str, Finding]:
        """The evidence per guardrail, for the dashboard."""
        with self._lock:
            found = {metric: self._compared[metric].finding() for metric in COMPARED}
            found |= {name: ceiling.finding() for name, ceiling in self._ceilings.items()}
            return found | self._standing

    def _restart(self) -> None:
        config = self._experiments.current()
        rules = config.guardrails
        self._config, self._guardrails = config, rules
        self.breach = None
        self._began = None
        self._week_began: datetime | None = None
        self._block_ends: datetime | None = None
        self._looked = 0
        self._units: dict[str, _Unit] = {}
        self._closed: set[str] = set()
        self._seen: set[str] = set()
        self._standing: dict[str, Finding] = {}
        self._compared = {metric: ArmComparison() for metric in COMPARED}
        self._ceilings = {
            "fallback": RateCeiling(rules.fallback_rate),
            "infeasible": RateCeiling(rules.infeasible_rate),
            "slow": RateCeiling(rules.slow_rate),
        }
        for metric, level in (("late", rules.late_ceiling), ("unserved", rules.unserved_ceiling)):
            if level is not None:
                self._ceilings[f"{metric}_ceiling"] = RateCeiling(level)
        self._counts = {name.removesuffix("_ceiling"): [0.0, 0.0] for name in self._ceilings}

    def _alpha(self, metric: str) -> float:
        base = metric.removesuffix("_ceiling")
        shared = f"{base}_ceiling" in self._ceilings
        return self._guardrails.false_alarm_per_week * ALPHA_PARTS[base] / (2 if shared else 1)

    def _unit(
        self, config: ExperimentConfig, unit: str, arm: str, share: float, now: datetime
    ) -> _Unit | None:
        """The open unit of an outcome; None if it has closed."""
        state = self._units.get(unit)
        if state is not None:
            if state.learned != (arm == RL):
                raise ExperimentError(f"unit {unit!r} has both arms: {arm!r} is not its own")
            return state
        ends = unit_ends_at(config, unit)
        closes = now
        if ends is not None:
            closes = ends + timedelta(minutes=self._guardrails.settle_min)
            if closes <= now - timedelta(minutes=self._guardrails.block_min):
                return None
        if unit in self._closed:
            return None
        state = self._units[unit] = _Unit(arm == RL, share, closes)
        return state

    def _advance(self, now: datetime) -> Breach | None:
        """Close the blocks that have ended by now."""
        if self._block_ends is None:
            if self._began is None:
                self._began = now
            start = block_start(now, self._guardrails.block_min)
            self._week_began = start
            self._block_ends = start + timedelta(minutes=self._guardrails.block_min)
        found = None
        while self._block_ends <= now and found is None:
            found = self._close_block(self._block_ends)
            step = timedelta(minutes=self._guardrails.block_min)
            self._block_ends += step
            if not self._units and not any(c[1] for c in self._counts.values()):
                # Nothing is pending: pass over the night at once (but not over a day's look).
                idle = (now - self._block_ends) // step
                self._block_ends += max(0, idle) * step
        return found

    def _close_block(self, end: datetime) -> Breach | None:
        assert self._week_began is not None
        block = end - timedelta(minutes=self._guardrails.block_min)
        while block >= self._week_began + DAYS * _DAY:
            self._begin_week(self._week_began + DAYS * _DAY)
        day = (block - self._week_began) // _DAY
        standing = self._config.unit == UnitKind.COMPANY
        if not standing:
            closing = {name: u for name, u in self._units.items() if u.closes_at <= end}
            for metric in COMPARED:
                self._compared[metric].weigh([u.total(metric) for u in closing.values()], day)
            for name in closing:
                del self._units[name]
            self._closed |= closing.keys()
        for name, ceiling in self._ceilings.items():
            bad, of = self._counts[name.removesuffix("_ceiling")]
            ceiling.weigh(bad, of, day)
        for count in self._counts.values():
            count[:] = [0.0, 0.0]
        looks = (end - self._week_began) // _DAY
        look = standing and looks > self._looked
        if look:
            self._looked = looks
            self._standing = {
                metric: standing_evidence([u.total(metric) for u in self._units.values()])
                for metric in COMPARED
            }
        return self._judge(end, look)

    def _begin_week(self, start: datetime) -> None:
        self._week_began = start
        self._looked = 0
        self._closed.clear()
        self._seen.clear()
        if self._config.unit == UnitKind.COMPANY:
            self._units.clear()
        for comparison in self._compared.values():
            comparison.begin_week()
        for ceiling in self._ceilings.values():
            ceiling.begin_week()

    def _judge(self, at: datetime, look: bool) -> Breach | None:
        """The first guardrail that the evidence now breaks; ``look``: at standing units too."""
        if self._experiments.current().stopped:
            return None
        margins = {
            "late": self._guardrails.late_margin,
            "unserved": self._guardrails.unserved_margin,
        }
        for metric in COMPARED:
            finding = self._standing[metric] if look else self._compared[metric].finding()
            needed = (DAYS if look else 1) / self._alpha(metric)
            if finding.e_value >= needed and finding.rate - finding.other >= margins[metric]:
                return self._stop(metric, at, finding, margins[metric], needed)
        for name, ceiling in self._ceilings.items():
            finding, needed = ceiling.finding(), 1.0 / self._alpha(name)
            if finding.e_value >= needed and finding.rate > ceiling.ceiling:
                return self._stop(name, at, finding, 0.0, needed)
        return None

    def _stop(
        self, name: str, at: datetime, finding: Finding, margin: float, needed: float
    ) -> Breach:
        metric = name.removesuffix("_ceiling")
        kind = "bookings" if metric in COMPARED else "decisions"
        against = f"the ceiling is {finding.other:.1%}"
        if name in COMPARED:
            against = f"{finding.other:.1%} in the heuristic arm, the margin is {margin:.1%}"
        words = (
            f"Too many {_WORDS[metric]}: {finding.rate:.1%} of {finding.bookings:.0f} {kind} "
            f"in the learned arm; {against}; evidence {min(finding.e_value, 1e12):.3g}, "
            f"threshold {needed:.3g}. The learned arm gets no bookings until a person resumes it."
        )
        self.breach = Breach(
            name, at, words, finding.rate, finding.other, margin, finding.e_value, needed
        )
        config = self._experiments.stop(words, at)
        self._notifier.notify(self.breach.message(config))
        return self.breach
