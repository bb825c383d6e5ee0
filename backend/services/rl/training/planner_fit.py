"""Evolution of the planner's value terms on whole training days.

CMA-ES (Hansen 2016). Every candidate of a generation plays the same fresh days with the same seeds
of the search (common random numbers), so that differences are the terms'. The answer is the average
of the search distribution's means over the last generations: a better estimate under noise than
any candidate or the last mean. A fit has two stages, see `PlannerFit`; kept is what earns most
on other days: training seeds that no fit plays. Real days are too few to keep some apart: there the
check is on all training days.

What is slow is the planner, which runs without the GIL: candidates are spread over threads. The
scores of finished generations are kept in a file, from which a killed fit goes on: the search
asks for the same points again.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from cmaes import CMA

from services.rl.errors import TrainingError
from services.rl.policies.planner import LOOK_AHEAD, SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import FittedDemand, Scenario, SyntheticDemand
from services.rl.simulation.types import Day, FloatArray, IntArray

_FIRST_CHECK = 900_000  # seeds of the training range that are never fitted on
_AVERAGED = 0.6  # a stage's answer is the average of the means after this share of its generations
_BUSY = (
    1.6  # bookings per driver and hour; what the values are worth shows where drivers are scarce
)
_HOT = 4.0


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
    """

    busy: Stage = Stage(generations=24, days=24, moves=700, sigma=0.5)
    own: Stage = Stage(generations=10, days=36, moves=1_500, sigma=0.25)
    population: int = 16
    check_days: int = 100
    check_moves: int = 6_000
    threads: int = max(1, min(2, os.cpu_count() or 1))
    seed: int = 0

    @property
    def generations(self) -> int:
        """Of both stages."""
        return self.busy.generations + self.own.generations

    def lasting(self, generations: int) -> "PlannerFit":
        """The same plan with another number of generations in all, at least one in the second."""
        own = max(1, round(generations * self.own.generations / self.generations))
        return replace(
            self,
            busy=replace(self.busy, generations=generations - own),
            own=replace(self.own, generations=own),
        )


OnGeneration = Callable[[int, float, float], None]


def fit_planner(
    scenario: Scenario,
    plan: PlannerFit,
    *,
    days: Sequence[Day] = (),
    source: DaySource | None = None,
    start: PlannerValues | None = None,
    journal: Path | None = None,
    on_generation: OnGeneration | None = None,
    out_of_time: Callable[[], bool] | None = None,
) -> PlannerValues:
    """Fit value terms to a scenario.

    Args:
        scenario: The world.
        plan: The budget.
        days: Real training days, for a scenario that replays them; else training seeds are drawn.
        source: Where real days come from.
        start: Values to start from and to beat, without the first stage; None: none at all.
        journal: Scores of finished generations, to resume from; the first stage's lie beside it,
            ``<stem>_busy.jsonl``.
        on_generation: Called with the generation, the score of the distribution's mean and that of
            the stage's start, on the generation's days.
        out_of_time: Asked before each generation that would have to be played; once it says True
            the fit ends with what it has found so far. The journal stays.

    Raises:
        TrainingError: If the journal is damaged or of another fit.
    """
    origin = np.zeros(NUM_TERMS) if start is None else start.array()
    candidates = {"start": origin}
    known = played = 0
    if start is None and plan.busy.generations:
        beside = journal and journal.with_name(f"{journal.stem}_busy{journal.suffix}")
        world = busy_scenario(scenario)
        origin, played = _evolved(
            world, plan, plan.busy, origin, days, source, beside, on_generation, out_of_time, 0
        )
        candidates["busy"] = origin
        known = plan.busy.generations
    if plan.own.generations and played == known:  # else time ran out in the first stage
        candidates["own"], more = _evolved(
            scenario, plan, plan.own, origin, days, source, journal, on_generation, out_of_time,
            known,
        )  # fmt: skip
        played += more
    checks = np.arange(len(days)) if days else _FIRST_CHECK + np.arange(plan.check_days)
    judge: SimpleQueue[Engine] = SimpleQueue()
    judge.put(Engine(scenario, len(checks), days=days or None, source=source))
    checked = {
        name: _score(judge, scenario, weights, plan.check_moves, checks)
        for name, weights in candidates.items()
    }
    kept = max(checked, key=lambda name: checked[name])  # the earliest of equals
    return PlannerValues(
        terms=TERM,
        weights=tuple(round(float(v), 6) for v in candidates[kept]),
        look_ahead_min=LOOK_AHEAD,
        hot=_HOT,
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
        provenance={
            **_identity(plan),
            "training_days": [day.label for day in days]
            if days
            else f"seeds 0..{_FIRST_CHECK - 1}",
            "generations_played": played,
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
    """What makes a fit the same fit: all but the number of threads."""
    return {k: v for k, v in asdict(plan).items() if k != "threads"}


def _evolved(
    scenario: Scenario,
    plan: PlannerFit,
    stage: Stage,
    origin: FloatArray,
    days: Sequence[Day],
    source: DaySource | None,
    journal: Path | None,
    on_generation: OnGeneration | None,
    out_of_time: Callable[[], bool] | None,
    known: int,
) -> tuple[FloatArray, int]:
    """A stage's answer and the generations played; ``known`` generations came before it."""
    rng = np.random.default_rng([plan.seed, known])
    batch = min(stage.days, len(days)) if days else stage.days
    engines: SimpleQueue[Engine] = SimpleQueue()
    for _ in range(plan.threads):
        engines.put(Engine(scenario, batch, days=days or None, source=source))
    search = CMA(
        mean=origin, sigma=stage.sigma, population_size=plan.population, seed=plan.seed + known
    )
    told = _Journal(journal, scenario, plan, origin)
    average, averaged, played = np.zeros(NUM_TERMS), 0, 0
    with ThreadPoolExecutor(plan.threads) as pool:
        for generation in range(stage.generations):
            labels = (
                rng.choice(len(days), batch, replace=False)
                if days
                else rng.integers(0, _FIRST_CHECK, batch)
            )
            points = [search.ask() for _ in range(search.population_size)]
            scores = told.scores(generation)
            if scores is None and out_of_time is not None and out_of_time():
                break
            if scores is None:
                jobs = [
                    pool.submit(_score, engines, scenario, point, stage.moves, labels)
                    for point in [*points, search.mean, origin]
                ]
                try:
                    scores = [job.result() for job in jobs]
                except BaseException:  # Ctrl-C too: do not play the rest of the generation first
                    pool.shutdown(cancel_futures=True)
                    raise
                told.add(generation, scores)
            search.tell([(p, -s) for p, s in zip(points, scores, strict=False)])
            played += 1
            if generation >= _AVERAGED * stage.generations:
                average += search.mean
                averaged += 1
            if on_generation is not None:
                on_generation(known + generation, scores[-2], scores[-1])
    found: FloatArray = average / averaged if averaged else search.mean
    return found, played


def _values(scenario: Scenario, weights: FloatArray) -> PlannerValues:
    return PlannerValues(
        TERM,
        tuple(weights.tolist()),
        LOOK_AHEAD,
        _HOT,
        scenario.name,
        scenario.sha256,
        {},
    )


def _score(
    engines: "SimpleQueue[Engine]",
    scenario: Scenario,
    weights: FloatArray,
    moves: int,
    labels: IntArray,
) -> float:
    """Mean reward of a day with these weights."""
    engine = engines.get()
    try:
        engine.start(labels)
        SearchPolicy("planner", scenario, values=_values(scenario, weights), moves=moves).play(
            engine
        )
        return float(engine.world.totals.sum(axis=1).mean())
    finally:
        engines.put(engine)


class _Journal:
    """Scores of finished generations, one JSON line each, under a line that names the fit."""

    def __init__(
        self, path: Path | None, scenario: Scenario, plan: PlannerFit, origin: FloatArray
    ) -> None:
        self._path = path
        self._scores: dict[int, list[float]] = {}
        if path is None:
            return
        head = {"fit": _identity(plan), "scenario_hash": scenario.sha256, "start": origin.tolist()}
        if path.exists():
            self._read(path, head)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def _read(self, path: Path, head: dict[str, Any]) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            if json.loads(lines[0]) != json.loads(json.dumps(head)):
                raise TrainingError(
                    f"{path} is of a fit with other settings; choose another --name"
                )
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # killed while writing: that generation is played again
                self._scores[int(entry["generation"])] = [float(s) for s in entry["scores"]]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise TrainingError(f"{path} cannot be read: {error}") from error
        whole = [json.dumps(head)] + [
            json.dumps({"generation": g, "scores": s}) for g, s in self._scores.items()
        ]
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def scores(self, generation: int) -> list[float] | None:
        """Scores of a generation that was played before."""
        return self._scores.get(generation)

    def add(self, generation: int, scores: list[float]) -> None:
        """Keep a generation's scores."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"generation": generation, "scores": scores}) + "\n")
