"""The phases: throughput, loss weights, one long confirmation; one block changes at a time."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from services.rl.errors import TrainingError
from services.rl.evaluation.french_numbers import number
from services.rl.evaluation.paired import Estimate
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.types import FloatArray

from ..backends import REFERENCE, Row
from .bench import Bench, Say, refuse_mixed
from .fit import FitOptions, scaled_rate
from .rules import (
    BLOCKING,
    SPEED,
    VERDICT,
    Finding,
    bounds,
    day_differences,
    findings,
    go,
    spread_pct,
)

PHASES: Final = ("A", "B", "C")
DEFAULT: Final = "default"
WEIGHTS: Final = (0.25, 0.5, 1.0, 2.0)
"""Phase B: weights of ``value`` as multiples of the centre's."""
BATCHES: Final = (2, 4)
"""Phase A: batch sizes as multiples of the start's."""


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        start: The default configuration.
        phases: Some of `PHASES`.
        long: Phase C's epochs as a multiple of the start's.
        seeds: Of phase C; its first is the start's.
        backend_days: Days on which the backends meet.
        backend_states: States recorded from them.
    """

    start: FitOptions = field(default_factory=FitOptions)
    phases: tuple[str, ...] = PHASES
    long: float = 2.5
    seeds: int = 3
    backend_days: int = 20
    backend_states: int = 300

    def throughput(self) -> dict[str, FitOptions]:
        """Phase A's candidates."""
        s = self.start
        return {
            f"batch_{size}": replace(
                s, batch_size=size, learning_rate=scaled_rate(s.learning_rate, s.batch_size, size)
            )
            for size in (factor * s.batch_size for factor in BATCHES)
        }

    def weights(self, centre: FitOptions) -> dict[str, FitOptions]:
        """Phase B's candidates around a centre; the centre itself is no candidate."""
        if centre.w_value > 0:
            values = [centre.w_value * factor for factor in WEIGHTS]
        else:
            values = [centre.w_policy * factor for factor in WEIGHTS]
        return {
            f"value_{value:g}": replace(centre, w_value=value)
            for value in values
            if value != centre.w_value
        }

    def checked(self, states: int) -> "Plan":
        """Itself.

        Raises:
            TrainingError: If a batch is larger than the data set.
        """
        sizes = [self.start.batch_size]
        if "A" in self.phases:
            sizes += [o.batch_size for o in self.throughput().values()]
        if max(sizes) > states:
            raise TrainingError(
                f"a batch of {max(sizes):,} is larger than the data set's {states:,} states: "
                "take more --days or a smaller --batch-size"
                + (f" (phase A goes up to {BATCHES[-1]} times it)" if "A" in self.phases else "")
            )
        return self


@dataclass
class Outcome:
    """What has been found out so far.

    Attributes:
        results: By configuration, in the order in which they ran.
        phase: Of each.
        chosen: Configuration that each finished phase chose.
        speeds: Phase A's, against the default, by turns.
        loader: How many times shorter a pass is than with features made batch by batch, by way.
        why: What became of each configuration, a French phrase.
        backends: Of phase C.
        verdict: Every rule's number; empty before the end.
        interrupted: Whether Ctrl-C ended it.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    phase: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    loader: dict[str, float] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    backends: list[Row] = field(default_factory=list)
    verdict: list[Finding] = field(default_factory=list)
    interrupted: bool = False

    @property
    def winner(self) -> str:
        """The configuration that stands."""
        return self.chosen.get("B", self.chosen.get("A", DEFAULT))

    @property
    def go(self) -> bool:
        """The verdict."""
        return go(self.verdict)


def run_protocol(
    bench: Bench, plan: Plan, say: Say = lambda _: None,
    on_result: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:  # fmt: skip
    """Run the phases; returns what was found, also when interrupted.

    Args:
        bench: Data, judging days and where results lie.
        plan: What is done.
        say: Told what happens.
        on_result: Called after every configuration.

    Raises:
        TrainingError: If a batch is larger than the data set, or results of different hashes meet.
    """
    plan.checked(len(bench.data.train))
    outcome = Outcome()
    try:
        for name, phase, options in _configurations(bench, plan, outcome, say):
            outcome.results[name] = bench.result(name, options, say)
            outcome.phase[name] = phase
            refuse_mixed(list(outcome.results.values()))
            on_result(outcome)
        if "C" in plan.phases:
            _serve(bench, plan, outcome, say)
            outcome.verdict = findings(VERDICT, _verdict_measures(plan, outcome))
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _configurations(
    bench: Bench, plan: Plan, outcome: Outcome, say: Say
) -> Iterator[tuple[str, str, FitOptions]]:
    """What is to be run next, hanging on what has been found."""
    options = {DEFAULT: plan.start}
    yield DEFAULT, "A" if "A" in plan.phases else "-", plan.start
    if failed(outcome.results[DEFAULT]):
        outcome.why[DEFAULT] = f"échec : {outcome.results[DEFAULT]['reason']}"
        return
    outcome.why[DEFAULT] = "référence"
    if "A" in plan.phases:
        for name, candidate in plan.throughput().items():
            options[name] = candidate
            yield name, "A", candidate
        able = {n: o for n, o in options.items() if not failed(outcome.results[n])}
        outcome.speeds = bench.speeds(able, say)
        outcome.loader = bench.loader(plan.start, os.cpu_count() or 1, say)
        outcome.chosen["A"] = _fastest(outcome, list(plan.throughput()))
    if "B" in plan.phases:
        centre = outcome.winner
        grid = plan.weights(options[centre])
        for name, candidate in grid.items():
            options[name] = candidate
            yield name, "B", candidate
        outcome.chosen["B"] = _lowest(outcome, centre, list(grid))
    if "C" in plan.phases:
        for name in dict.fromkeys((DEFAULT, outcome.winner)):
            for long_name, candidate in _long(plan, name, options[name]).items():
                yield long_name, "C", candidate


def _long(plan: Plan, name: str, options: FitOptions) -> dict[str, FitOptions]:
    """Phase C's runs of a configuration, one per seed."""
    epochs = max(1, round(plan.long * options.epochs))
    return {
        f"long_{name}_seed_{seed}": replace(options, epochs=epochs, seed=seed)
        for seed in range(options.seed, options.seed + plan.seeds)
    }


# --- choosing ------------------------------------------------------------------------------------


def failed(result: Mapping[str, Any]) -> bool:
    """Whether a configuration's numbers broke."""
    return bool(result["state"] != "done")


def _fastest(outcome: Outcome, candidates: Sequence[str]) -> str:
    """Phase A: the fastest of those that are fast enough and break nothing; else the default."""
    able: dict[str, float] = {}
    for name in candidates:
        broken = _broken(outcome, name)
        if broken:
            outcome.why[name] = broken
            continue
        ratio = outcome.speeds[name]
        if SPEED.holds(ratio):
            able[name] = ratio
        else:
            outcome.why[name] = (
                f"écartée : seulement {number(ratio, 2)} × la vitesse du défaut, il en faut "
                f"{SPEED.limit:g}"
            )
    if not able:
        return DEFAULT
    best = max(able, key=lambda name: able[name])
    for name, ratio in able.items():
        outcome.why[name] = (
            f"gardée : {number(ratio, 2)} × la vitesse du défaut, rien de bloquant" if name == best
            else f"écartée : {best} est plus rapide"
        )  # fmt: skip
    return best


def _lowest(outcome: Outcome, centre: str, candidates: Sequence[str]) -> str:
    """Phase B: the lowest ``val_total`` of the centre and those that break nothing."""
    totals = {centre: val_total(outcome.results[centre])}
    for name in candidates:
        broken = _broken(outcome, name)
        if broken:
            outcome.why[name] = broken
        else:
            totals[name] = val_total(outcome.results[name])
    best = min(totals, key=lambda name: totals[name])
    for name in totals:
        if name == best and name != centre:
            outcome.why[name] = "gardée : val_total le plus bas, rien de bloquant"
        elif name != centre:
            outcome.why[name] = f"écartée : val_total plus haut que {best}"
    return best


def _broken(outcome: Outcome, name: str) -> str:
    """Why a configuration may not be chosen; empty if it may."""
    result = outcome.results[name]
    if failed(result):
        return f"échec : {result['reason']}"
    found = findings(BLOCKING, measures([result], [outcome.results[DEFAULT]]))
    names = [f.rule.measure for f in found if not f.holds]
    return f"écartée : bloquant {', '.join(names)}" if names else ""


# --- measuring -----------------------------------------------------------------------------------


def val_total(result: Mapping[str, Any]) -> float:
    """Of the kept weights."""
    return float(result["fit"]["val_total"])


def mean_days(results: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    """KPIs of each day, the mean over runs (of other seeds)."""
    return {k: np.mean([r["kpis"][k] for r in results], axis=0) for k in KPIS}


def differences(
    results: Sequence[Mapping[str, Any]], default: Sequence[Mapping[str, Any]]
) -> dict[str, Estimate]:
    """Paired differences to the default on the same days, each day's KPIs averaged over runs.

    The intervals are of days: they hold for the networks that were trained, not for other seeds.
    """
    return day_differences(mean_days(results), mean_days(default))


def measures(
    results: Sequence[Mapping[str, Any]], default: Sequence[Mapping[str, Any]]
) -> dict[str, float | None]:
    """The numbers of the blocking rules, over runs of one configuration."""
    return {
        **bounds(differences(results, default)),
        "parity": max(r["parity"]["relative"] for r in results),
        "decisions": min(r["parity"]["same_decisions"] for r in results),
        "features": max(float(r["fit"]["features_computed"]) for r in results),
    }


def _serve(bench: Bench, plan: Plan, outcome: Outcome, say: Say) -> None:
    """Torch and ONNX Runtime on the winner's long run."""
    for name, result in outcome.results.items():
        if name.startswith(f"long_{outcome.winner}_seed_") and not failed(result):
            outcome.backends = bench.backends(name, plan.backend_days, plan.backend_states, say)
            return


def long_runs(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    """Phase C's finished runs of a configuration."""
    prefix = f"long_{name}_seed_"
    found = [r for n, r in outcome.results.items() if n.startswith(prefix)]
    return [r for r in found if not failed(r)]


def _verdict_measures(plan: Plan, outcome: Outcome) -> dict[str, float | None]:
    """Every number of the verdict; what could not be measured is left out."""
    won, default = (long_runs(outcome, name) for name in (outcome.winner, DEFAULT))
    if len(won) < plan.seeds or len(default) < plan.seeds:
        return {}
    totals = [val_total(r) for r in won]
    base = float(np.mean([val_total(r) for r in default]))
    served = [r.max_difference for r in outcome.backends if r.name != REFERENCE and r.servable]
    scale = reward_scale_of(outcome)
    return {
        **measures(won, default),
        "serving": max(served) * scale if served else None,
        "val_total": 100.0 * (float(np.mean(totals)) - base) / base,
        "spread": spread_pct(totals),
    }


def reward_scale_of(outcome: Outcome) -> float:
    """The reward scale that all configurations share."""
    return float(next(iter(outcome.results.values()))["reward_scale"])
