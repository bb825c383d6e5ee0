"""Evolution of the planner's value terms on whole training days.

Every candidate of a generation plays the same fresh days with the same seeds of the search; see
`evolution`. A fit has two stages, see `PlannerFit`; kept is what earns most on other days: training
seeds that no fit plays. Real days are too few to keep some apart: there the check is on all
training days. Several fits are averaged: the noise of days sends each another way. In the end
`planner_care` raises the prices of lateness as far as patients need it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from services.rl.policies.planner import LOOK_AHEAD, SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import FittedDemand, Scenario, SyntheticDemand
from services.rl.simulation.types import Day, FloatArray, IntArray

from .evolution import Evolution, Journal, evolve
from .planner_care import STEPS, Step, with_care

_FIRST_CHECK = 900_000  # seeds of the training range that are never fitted on
_BUSY = (
    1.6  # bookings per driver and hour; what the values are worth shows where drivers are scarce
)
_HOT = 4.0
_EVOLVED = NUM_TERMS - 1
"""Terms that evolve: all but the last, `late_urgent`, which the reward cannot judge."""
FEATURES: dict[str, tuple[str, ...]] = {
    "demand": ("pickup_demand", "minute_demand", "end_demand", "end_later"),
    "load": ("minute_load", "free_early_load"),
    "later": ("free_early", "free_early_load", "free_later", "minute_left"),
    "booking": ("booking", "priority", "pre_booked", "urgency", "trip", "spare_van"),
}
"""Groups of terms that a fit may do without; see `PlannerFit.without`."""
_LATER = ("hot", "look_ahead_min", "without")
"""Settings that plans did not have at first: at their defaults they do not name a fit."""


@dataclass(frozen=True)
class Stage:
    """A part of a fit.

    Attributes:
        generations: Of the evolution.
        days: Training days that every candidate of a generation plays.
        moves: Of the search; fewer than in use.
        sigma: Spread of the first generation.
    """

    generations: int
    days: int
    moves: int
    sigma: float


@dataclass(frozen=True)
class PlannerFit:
    """Budget of one fit.

    Attributes:
        busy: First stage, from no values, with demand raised to `_BUSY` where it is less: where
            nobody competes for drivers, good values hardly show among the noise of days.
        own: Second stage, from there, in the scenario itself.
        population: Candidates per generation.
        check_days: Days that decide what is kept: no values, those of the first stage, or all.
        check_moves: Of the search then.
        threads: Candidates played at once.
        seed: Of everything random.
        repeats: Fits, with the seeds from ``seed`` on, whose weights are averaged.
        care: Prices of lateness to choose among in the end; see `planner_care`.
        hot: Temperature at the start of an epoch's search, in units of reward.
        look_ahead_min: Bookings promised later than this from now are not planned yet.
        without: Groups of terms, of `FEATURES`, that stay as they were at the start.
    """

    busy: Stage = Stage(generations=24, days=24, moves=700, sigma=0.5)
    own: Stage = Stage(generations=10, days=36, moves=1_500, sigma=0.25)
    population: int = 16
    check_days: int = 100
    check_moves: int = 6_000
    threads: int = max(1, min(2, os.cpu_count() or 1))
    seed: int = 0
    repeats: int = 1
    care: tuple[Step, ...] = STEPS
    hot: float = _HOT
    look_ahead_min: float = LOOK_AHEAD
    without: tuple[str, ...] = ()

    @property
    def generations(self) -> int:
        """Of both stages of one fit."""
        return self.busy.generations + self.own.generations

    def lasting(self, generations: int) -> "PlannerFit":
        """The same plan with another number of generations per fit, one or more in its second."""
        own = max(1, round(generations * self.own.generations / self.generations))
        return replace(
            self,
            busy=replace(self.busy, generations=generations - own),
            own=replace(self.own, generations=own),
        )


OnGeneration = Callable[[int, float, float], None]
OnWeights = Callable[[int, FloatArray], None]


def fit_planner(
    scenario: Scenario,
    plan: PlannerFit,
    *,
    days: Sequence[Day] = (),
    source: DaySource | None = None,
    start: PlannerValues | None = None,
    journal: Path | None = None,
    on_generation: OnGeneration | None = None,
    on_weights: OnWeights | None = None,
    out_of_time: Callable[[], bool] | None = None,
) -> PlannerValues:
    """Fit value terms to a scenario.

    Args:
        scenario: The world.
        plan: The budget.
        days: Real training days, for a scenario that replays them; else training seeds are drawn.
        source: Where real days come from.
        start: Values to start from and to beat, without the first stage; None: none at all.
        journal: Scores of finished generations, to resume from; those of the first stages and of
            further fits lie beside it, ``<stem>_busy.jsonl``, ``<stem>_1.jsonl``.
        on_generation: Called with the generation, the score of the distribution's mean and that of
            the stage's start, on the generation's days.
        on_weights: Called with the generations finished and the weights that the stage would end
            with after them, ``(NUM_TERMS,)``.
        out_of_time: Asked before each generation that would have to be played; once it says True
            the fit ends with what it has found so far. The journal stays.

    Raises:
        TrainingError: If the journal is damaged or of another fit.
    """
    fits = []
    for repeat in range(plan.repeats):
        one = replace(plan, seed=plan.seed + repeat, repeats=1)
        own_journal = journal
        if journal is not None and repeat:
            own_journal = journal.with_name(f"{journal.stem}_{repeat}{journal.suffix}")
        before = repeat * plan.generations

        def told(generation: int, mean: float, origin: float, before: int = before) -> None:
            if on_generation is not None:
                on_generation(before + generation, mean, origin)

        def weighed(done: int, weights: FloatArray, before: int = before) -> None:
            if on_weights is not None:
                on_weights(before + done, weights)

        fits.append(
            _fit_once(scenario, one, days, source, start, own_journal, told, weighed, out_of_time)
        )
        if out_of_time is not None and out_of_time():
            break
    values = fits[0]
    if plan.repeats > 1:
        none = np.zeros(NUM_TERMS) if start is None else start.array()
        average = np.mean([fit.array() for fit in fits], axis=0)
        provenance = {
            "repeats": len(fits),
            "fits": [fit.provenance for fit in fits],
            "generations_played": sum(fit.provenance["generations_played"] for fit in fits),
        }
        values = _best_of(
            scenario, plan, {"start": none, "average": average}, days, source, provenance
        )
    checks = _checks(plan, days)
    return with_care(
        scenario,
        values,
        plan.care,
        lambda: Engine(scenario, len(checks), days=days or None, source=source),
        checks,
        moves=plan.check_moves,
        threads=plan.threads,
        source=source,
    )


def _checks(plan: PlannerFit, days: Sequence[Day]) -> IntArray:
    """Labels of the days that decide what is kept."""
    return np.arange(len(days)) if days else _FIRST_CHECK + np.arange(plan.check_days)


def _fit_once(
    scenario: Scenario,
    plan: PlannerFit,
    days: Sequence[Day],
    source: DaySource | None,
    start: PlannerValues | None,
    journal: Path | None,
    on_generation: OnGeneration,
    on_weights: OnWeights,
    out_of_time: Callable[[], bool] | None,
) -> PlannerValues:
    origin = np.zeros(NUM_TERMS) if start is None else start.array()
    candidates = {"start": origin}
    known = played = 0
    if start is None and plan.busy.generations:
        beside = journal and journal.with_name(f"{journal.stem}_busy{journal.suffix}")
        world = busy_scenario(scenario)
        origin, played = _evolved(
            world, plan, plan.busy, origin, days, source, beside, on_generation, on_weights,
            out_of_time, 0,
        )  # fmt: skip
        candidates["busy"] = origin
        known = plan.busy.generations
    if plan.own.generations and played == known:  # else time ran out in the first stage
        candidates["own"], more = _evolved(
            scenario, plan, plan.own, origin, days, source, journal, on_generation, on_weights,
            out_of_time, known,
        )  # fmt: skip
        played += more
    return _best_of(scenario, plan, candidates, days, source, {"generations_played": played})


def _best_of(
    scenario: Scenario,
    plan: PlannerFit,
    candidates: dict[str, FloatArray],
    days: Sequence[Day],
    source: DaySource | None,
    provenance: dict[str, Any],
) -> PlannerValues:
    """What earns most on the days kept for that; the earliest of equals."""
    checks = _checks(plan, days)

    def earned(weights: FloatArray) -> float:
        judge = Engine(scenario, len(checks), days=days or None, source=source)
        return _score(judge, scenario, weights, plan.check_moves, checks, plan)

    with ThreadPoolExecutor(plan.threads) as pool:
        checked = dict(zip(candidates, pool.map(earned, candidates.values()), strict=True))
    kept = max(checked, key=lambda name: checked[name])
    return PlannerValues(
        terms=TERM,
        weights=tuple(round(float(v), 6) for v in candidates[kept]),
        look_ahead_min=plan.look_ahead_min,
        hot=plan.hot,
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
        provenance={
            **_identity(plan),
            "training_days": [day.label for day in days]
            if days
            else f"seeds 0..{_FIRST_CHECK - 1}",
            **provenance,
            "checked": {name: round(score, 3) for name, score in checked.items()},
            "kept": kept,
        },
    )


def busy_scenario(scenario: Scenario) -> Scenario:
    """The same world with `_BUSY` bookings per driver and hour or more, where demand is a model."""
    if not isinstance(scenario.demand, SyntheticDemand | FittedDemand):
        return scenario
    hours = scenario.rules.horizon_min / 60.0
    wanted = _BUSY * scenario.fleet.num_drivers * hours
    if scenario.demand_model().bookings_mean >= wanted:
        return scenario
    return scenario.resized(bookings_per_day=wanted)


def _identity(plan: PlannerFit) -> dict[str, Any]:
    """What makes evolution the same: not the number of threads, other fits, or what follows."""
    plain = PlannerFit()
    as_ever = [name for name in _LATER if getattr(plan, name) == getattr(plain, name)]
    return {
        k: v for k, v in asdict(plan).items() if k not in ("threads", "repeats", "care", *as_ever)
    }


def _moving(plan: PlannerFit) -> IntArray:
    """Indices of the terms that evolve."""
    still = {name for group in plan.without for name in FEATURES[group]}
    return np.array([i for i in range(_EVOLVED) if TERM[i] not in still], dtype=np.int64)


def _evolved(
    scenario: Scenario,
    plan: PlannerFit,
    stage: Stage,
    origin: FloatArray,
    days: Sequence[Day],
    source: DaySource | None,
    journal: Path | None,
    on_generation: OnGeneration | None,
    on_weights: OnWeights | None,
    out_of_time: Callable[[], bool] | None,
    known: int,
) -> tuple[FloatArray, int]:
    """A stage's answer and the generations played; ``known`` generations came before it."""
    rng = np.random.default_rng([plan.seed, known])
    batch = min(stage.days, len(days)) if days else stage.days
    labels = [
        rng.choice(len(days), batch, replace=False)
        if days
        else rng.integers(0, _FIRST_CHECK, batch)
        for _ in range(stage.generations)
    ]
    moving = _moving(plan)

    def whole(point: FloatArray) -> FloatArray:
        weights = origin.copy()
        weights[moving] = point
        return weights

    head = {
        "fit": _identity(plan),
        "scenario_hash": scenario.sha256,
        "start": origin[:_EVOLVED].tolist(),
    }
    point, played = evolve(
        Evolution(stage.generations, plan.population, stage.sigma, plan.threads, plan.seed + known),
        origin[moving],
        lambda: Engine(scenario, batch, days=days or None, source=source),
        lambda engine, point, generation: _score(
            engine, scenario, whole(point), stage.moves, labels[generation], plan
        ),
        journal=Journal(journal, head),
        on_generation=None
        if on_generation is None
        else lambda generation, *scores: on_generation(known + generation, *scores),
        on_answer=None
        if on_weights is None
        else lambda done, answer: on_weights(known + done, whole(answer)),
        out_of_time=out_of_time,
    )
    return whole(point), played


def weighted(scenario: Scenario, weights: FloatArray, plan: PlannerFit) -> PlannerValues:
    """Weights as values that a planner plays with."""
    return PlannerValues(
        TERM,
        tuple(weights.tolist()),
        plan.look_ahead_min,
        plan.hot,
        scenario.name,
        scenario.sha256,
        {},
    )


def _score(
    engine: Engine,
    scenario: Scenario,
    weights: FloatArray,
    moves: int,
    labels: IntArray,
    plan: PlannerFit,
) -> float:
    """Mean reward of a day with these weights."""
    engine.start(labels)
    values = weighted(scenario, weights, plan)
    SearchPolicy("planner", scenario, values=values, moves=moves).play(engine)
    return float(engine.world.totals.sum(axis=1).mean())
