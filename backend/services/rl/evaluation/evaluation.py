"""An evaluation: several policies on the same days, against hindsight, with intervals."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.data.sources import split_labels, split_seeds
from services.rl.errors import UsageError
from services.rl.policies.hindsight import Hindsight, hindsight
from services.rl.simulation.days import DaySource
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.travel import TravelTables
from services.rl.simulation.types import Day, FloatArray

from .caveats import caveats, load_average
from .paired import Estimate, estimate, gap_closed, paired_difference
from .runner import Ask, DayBook, DayResults, evaluate_policy

EVALUATION_SCHEMA = 1
PAIRED_KPIS = ("reward", "completion_pct", "on_time_pct", "deadhead_km_per_trip", "satisfaction")


@dataclass
class Evaluation:
    """Results of an evaluation.

    Attributes:
        book: The days.
        split: Which split they belong to.
        results: One per policy, in the order asked.
        reference: Policy that the others are compared with.
        hindsight: One per day, if asked for.
        model: Folder of the trained network that learned policies used.
        notes: What limits what the results say, a sentence each.
    """

    book: DayBook
    split: Split
    results: list[DayResults]
    reference: str
    hindsight: list[Hindsight] = field(default_factory=list)
    model: Path | None = None
    notes: list[str] = field(default_factory=list)

    def result(self, policy: str) -> DayResults:
        """Results of one policy."""
        return next(r for r in self.results if r.policy == policy)

    def names(self) -> list[str]:
        """Policies, in the order asked."""
        return [r.policy for r in self.results]

    def hindsight_rewards(self) -> FloatArray:
        """``(D,)`` rewards of the yardstick."""
        return np.array([h.value for h in self.hindsight])

    def gap(self, policy: str) -> Estimate | None:
        """Gap closed in percent, where nearest and hindsight are there."""
        if not self.hindsight or "nearest" not in self.names():
            return None
        return gap_closed(
            self.result(policy).kpi("reward"),
            self.result("nearest").kpi("reward"),
            self.hindsight_rewards(),
        )

    def share_of_bound(self, policy: str) -> Estimate | None:
        """Mean reward in percent of the mean bound, where a bound is proven."""
        if not self.hindsight or self.hindsight[0].kind != "bound":
            return None
        bound = self.hindsight_rewards()
        nothing = np.zeros_like(bound)
        return gap_closed(self.result(policy).kpi("reward"), nothing, bound)

    def difference(self, policy: str, kpi: str = "reward") -> Estimate:
        """Paired difference to the reference."""
        return paired_difference(self.result(policy).kpi(kpi), self.result(self.reference).kpi(kpi))

    def to_json(self) -> dict[str, Any]:
        """The document of ``--json`` (design: schema, days, policies, paired, hindsight)."""
        return {
            "schema": EVALUATION_SCHEMA,
            "scenario": self.book.scenario.name,
            "scenario_hash": self.book.scenario.sha256,
            "split": str(self.split),
            "day_seeds": list(self.book.seeds) or list(self.book.labels),
            "policies": [_policy_json(r) for r in self.results],
            "paired": [
                {
                    "a": name,
                    "b": self.reference,
                    "kpi": kpi,
                    "diff": (d := self.difference(name, kpi)).mean,
                    "ci95": _interval(d),
                }
                for name in self.names()
                if name != self.reference
                for kpi in PAIRED_KPIS
            ],
            "gap_closed_pct": {
                name: {"mean": gap.mean, "ci95": _interval(gap)}
                for name in self.names()
                if (gap := self.gap(name)) is not None and np.isfinite(gap.mean)
            },
            "hindsight": {
                "kind": self.hindsight[0].kind if self.hindsight else None,
                "per_day": [h.value for h in self.hindsight],
                "source_per_day": [h.source for h in self.hindsight],
            },
            "notes": self.notes,
        }


def _interval(value: Estimate) -> list[float] | None:
    return [value.low, value.high] if np.isfinite(value.half_width) else None


def _policy_json(result: DayResults) -> dict[str, Any]:
    estimates = {kpi: estimate(result.kpi(kpi)) for kpi in KPIS}
    return {
        "name": result.policy,
        "model_sha": result.model_sha,
        "note": result.note,
        "per_day": {kpi: result.kpi(kpi).tolist() for kpi in KPIS},
        "mean": {kpi: value.mean for kpi, value in estimates.items()},
        "ci95": {kpi: _interval(value) for kpi, value in estimates.items()},
        "latency": latency(result),
        "refused": result.refused,
        "fallbacks": result.fallbacks,
    }


def latency(result: DayResults) -> dict[str, float]:
    """Percentiles of single decisions in milliseconds."""
    return {
        "p50_ms": float(np.percentile(result.decision_ms, 50)),
        "p99_ms": float(np.percentile(result.decision_ms, 99)),
        "decisions": float(len(result.decision_ms)),
    }


def day_book(
    scenario: Scenario,
    source: DaySource | None,
    split: Split,
    count: int | None,
    offset: int = 0,
) -> DayBook:
    """The days of an evaluation; ``count`` None: 20 sampled days, or all the split's real ones.

    Raises:
        UsageError: If the split has fewer days.
        DataError: If real days cannot be read.
    """
    if source is None:
        seeds = split_seeds(split, 20 if count is None else count, offset)
        return DayBook(scenario, tuple(f"seed:{s}" for s in seeds), seeds=tuple(seeds.tolist()))
    labels = split_labels(source, split, count, offset)
    return DayBook(
        scenario, tuple(labels), days=tuple(source.day(label) for label in labels), source=source
    )


def run_evaluation(
    book: DayBook,
    split: Split,
    policies: Sequence[str],
    *,
    reference: str | None = None,
    seed: int = 0,
    budget_ms: float = 200.0,
    model: Path | None = None,
    transfer: bool = False,
    hindsight_seconds: float = 10.0,
    jobs: int = 1,
    cached: bool = True,
    data_dir: str | None = None,
    progress: Callable[[str, int], Callable[[], None]] | None = None,
) -> Evaluation:
    """Play all policies, and the yardstick if ``hindsight`` is among them.

    Args:
        book: The days.
        split: Recorded with the results.
        policies: Names; ``hindsight`` asks for the yardstick.
        reference: Compared with; default: the first of matching, nearest, or the first policy.
        seed: Of policies that draw or search.
        budget_ms: Time per epoch of ``rolling``.
        model: Folder of a trained network, for ``dqn`` and ``dqn_matching``, or of fitted values.
        transfer: Admit values that were fitted on another scenario.
        hindsight_seconds: Search time per day of the clairvoyant.
        jobs: Processes for policies and days that take seconds.
        cached: Use and fill the cache of expensive days.
        data_dir: Data folder of the scenario, for worker processes.
        progress: Called with a label and a total; returns a function to call per finished item.

    Raises:
        UsageError: If the reference is not among the policies, or a policy is named twice.
    """
    named = [name for name in policies if name != "hindsight"]
    if len(set(policies)) != len(policies):
        raise UsageError(f"a policy is named twice in {','.join(policies)}")
    if not named:
        raise UsageError("name at least one policy besides hindsight")
    # All names are checked before the first day is played: that may take minutes.
    played = [Ask(name, seed, budget_ms, model, transfer).policy(book).name for name in named]
    if len(set(played)) != len(played):
        raise UsageError(f"two of {','.join(named)} are the same policy in this scenario")
    if reference is None:
        preferred = [n for n in ("matching", "matching_profit", "nearest") if n in played]
        reference = preferred[0] if preferred else played[0]
    if reference not in played:
        raise UsageError(f"--reference {reference!r} is not among the policies {','.join(played)}")
    load = load_average()  # before our own work adds to it
    results = []
    for name in named:
        tick = progress(name, len(book)) if progress else None
        results.append(
            evaluate_policy(
                name,
                book,
                seed=seed,
                budget_ms=budget_ms,
                model=model,
                transfer=transfer,
                jobs=jobs,
                cached=cached,
                data_dir=data_dir,
                on_day=tick,
            )
        )
    evaluation = Evaluation(book, split, results, reference, model=model)
    evaluation.notes = caveats(book, split, results, model, load)
    if "hindsight" in policies:
        tick = progress("hindsight", len(book)) if progress else None
        evaluation.hindsight = _yardstick(evaluation, hindsight_seconds, jobs, cached, tick)
    return evaluation


def _yardstick(
    evaluation: Evaluation, seconds: float, jobs: int, cached: bool, tick: Any
) -> list[Hindsight]:
    book = evaluation.book
    tables: TravelTables | None = getattr(book.source, "tables", None)
    engine = book.engine(range(len(book)))
    days = [engine.day(e) if book.seeds else book.days[e] for e in range(len(book))]
    rewards = [
        {r.policy: float(r.kpi("reward")[e]) for r in evaluation.results} for e in range(len(book))
    ]
    tasks = [
        (day, book.scenario, tables, known, seconds, cached)
        for day, known in zip(days, rewards, strict=True)
    ]
    found = []
    if jobs <= 1 or len(tasks) <= 1:
        for task in tasks:
            found.append(_hindsight_of(*task))
            if tick:
                tick()
        return found
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn")) as pool:
        for result in pool.map(_hindsight_of, *zip(*tasks, strict=True)):
            found.append(result)
            if tick:
                tick()
    return found


def _hindsight_of(
    day: Day,
    scenario: Scenario,
    tables: TravelTables | None,
    known: dict[str, float],
    seconds: float,
    cached: bool,
) -> Hindsight:
    return hindsight(day, scenario, tables, policies=known, seconds=seconds, cached=cached)
