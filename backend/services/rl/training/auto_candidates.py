"""The candidates of ``--policy auto``, simplest first, and how each is trained within a time.

A candidate is one entry of `CANDIDATES`. What needs training has a `Stage`: it makes a plan that
fits the seconds it is given (or none: too little time), and carries the plan out, leaving its
files in ``<folder>/checkpoints/best``. Plans are plain data, so that a run that was cut off goes
on with the same ones.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import numpy as np

from services.rl import paths
from services.rl.errors import TrainingError
from services.rl.policies.planner import SearchPolicy
from services.rl.policies.planner_values import VALUES_FILE
from services.rl.policies.registry import make_policy
from services.rl.policies.tuned_matching import WEIGHTS_FILE
from services.rl.policies.tuning import TuningPlan, tune_matching
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import Day

from .planner_fit import PlannerFit, fit_planner
from .planner_fit import Stage as FitStage

_MEASURED_DAYS = 5
_MEASURED_SEEDS = 800_000  # of the training range: what is measured must not be what judges


@dataclass
class World:
    """What the candidates train on.

    Attributes:
        scenario: The world.
        source: Where real days come from; None: days are sampled.
        days: Real training days; empty where they are sampled.
        seed: Of everything random.
        provenance: What results say about their origin.
    """

    scenario: Scenario
    source: DaySource | None
    days: list[Day]
    seed: int
    provenance: dict[str, Any]

    def engine(self, count: int) -> Engine:
        """An engine with a few training days begun."""
        if not self.days:
            engine = Engine(self.scenario, count)
            engine.start(_MEASURED_SEEDS + np.arange(count))
            return engine
        chosen = [self.days[i % len(self.days)] for i in range(count)]
        engine = Engine(self.scenario, count, days=chosen, source=self.source)
        engine.start(np.arange(count))
        return engine

    def seconds_per_day(self, name: str) -> float:
        """How long a policy takes to play a day, measured; loading its code is left out."""
        policy: Any = make_policy(name, self.scenario, source=self.source)
        policy.play(self.engine(1))
        spent = []
        for _ in range(_MEASURED_DAYS):  # one by one: other work on the machine comes in bursts
            engine = self.engine(1)
            begun = time.perf_counter()
            policy.play(engine)
            spent.append(time.perf_counter() - begun)
        return float(median(spent))


class Stage(Protocol):
    """The training of one candidate."""

    def plan(self, world: World, seconds: float, folder: Path) -> dict[str, Any] | None:
        """What fits into so many seconds, by measuring; None: nothing useful does.

        The plan holds ``estimate_s``, and ``words``: what it is, for people.
        """
        ...

    def train(
        self, world: World, plan: dict[str, Any], folder: Path, out_of_time: Callable[[], bool]
    ) -> None:
        """Carry the plan out; ending early once ``out_of_time`` says so.

        Raises:
            AtmrError: If nothing came of it.
        """
        ...


# --- the matchers' weights -------------------------------------------------------------------


class TuneMatching:
    """CMA-ES on the weights of a matcher. Short: cut off, it starts over.

    Args:
        policy: ``matching`` or ``matching_linear``.
    """

    RUNGS = ((24, 64, 400), (16, 32, 200), (12, 16, 60), (8, 8, 20))
    """Population, days per generation, days of the check: the largest that leaves time for
    `FEWEST` generations is taken."""
    FEWEST, MOST = 12, 100

    def __init__(self, policy: str) -> None:
        self.policy = policy

    def plan(self, world: World, seconds: float, folder: Path) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Stage`."""
        each = world.seconds_per_day(self.policy)
        for population, days, check in self.RUNGS:
            if world.days:
                days, check = min(days, len(world.days)), len(world.days)
            generation, judging = population * days * each, 2 * check * each
            generations = min(self.MOST, int((seconds - judging) / max(generation, 1e-9)))
            if generations >= self.FEWEST:
                plan = TuningPlan(generations, population, days, world.seed, check)
                return {
                    **asdict(plan),
                    "estimate_s": generations * generation + judging,
                    "judging_s": judging,
                    "words": f"{generations} generations of {population} on {days} days",
                }
        return None

    def train(
        self,
        world: World,
        plan: dict[str, Any],
        folder: Path,
        out_of_time: Callable[[], bool],
    ) -> None:
        """See `Stage`."""
        weights = tune_matching(
            world.scenario,
            TuningPlan(**_only(plan, TuningPlan)),
            policy=self.policy,
            days=world.days,
            source=world.source,
            out_of_time=out_of_time,
        )
        weights = replace(weights, provenance={**weights.provenance, **world.provenance})
        weights.save(folder / "checkpoints" / "best" / WEIGHTS_FILE[f"{self.policy}_tuned"])


# --- the planner's values --------------------------------------------------------------------


def _rung(population: int, days: int, moves: tuple[int, int], check_days: int) -> PlannerFit:
    full = PlannerFit()
    return replace(
        full,
        busy=replace(full.busy, days=days, moves=moves[0]),
        own=replace(full.own, days=days, moves=moves[1]),
        population=population,
        check_days=check_days,
    )


class FitPlanner:
    """Evolution of the value terms; goes on from its journal.

    The full plan is `PlannerFit`'s own. Where time is short, generations go first, then days,
    candidates and moves.
    """

    FEWEST = 6
    RUNGS = (
        PlannerFit(),
        _rung(population=12, days=16, moves=(500, 1_500), check_days=50),
        _rung(population=12, days=12, moves=(300, 800), check_days=24),
        _rung(population=8, days=6, moves=(150, 300), check_days=10),
    )

    def plan(self, world: World, seconds: float, folder: Path) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Stage`."""
        base, per_move = self._measure(world)
        for rung in self.RUNGS:
            stages = [
                replace(stage, days=min(stage.days, len(world.days) or stage.days))
                for stage in (rung.busy, rung.own)
            ]
            full = replace(rung, busy=stages[0], own=stages[1], seed=world.seed)
            # Two candidates more: the distribution's mean and the start are played too.
            evolving = sum(
                stage.generations
                * (full.population + 2) * stage.days * (base + stage.moves * per_move)
                for stage in stages
            )  # fmt: skip
            generation = evolving / full.generations
            # The check plays three candidates, care as many as it has steps; a thread may idle.
            check = len(world.days) or full.check_days
            judging = (
                (3 + full.threads + len(full.care)) * check * (base + full.check_moves * per_move)
            )
            room = int((seconds - judging) / max(generation, 1e-9))
            generations = min(full.generations, room)
            fewest = full.generations if rung is self.RUNGS[0] else self.FEWEST
            if generations >= fewest:
                fit = full.lasting(generations)
                return {
                    **asdict(fit),
                    "estimate_s": generations * generation + judging,
                    "judging_s": judging,
                    "words": f"{generations} generations of {fit.population} on "
                    f"{fit.busy.days} to {fit.own.days} days",
                }
        return None

    def _measure(self, world: World) -> tuple[float, float]:
        """Seconds of a day without moves and per move, on all threads at once, per day played."""
        threads = PlannerFit().threads
        spent = []
        few, many = 200, 2_000
        for moves in (few, many):
            engines = [world.engine(1) for _ in range(threads)]
            policies = [
                SearchPolicy("rolling_search", world.scenario, source=world.source, moves=moves)
                for _ in engines
            ]
            with ThreadPoolExecutor(threads) as pool:
                begun = time.perf_counter()
                list(pool.map(lambda pair: pair[0].play(pair[1]), zip(policies, engines)))  # noqa: B905
                spent.append((time.perf_counter() - begun) / threads)
        per_move = max(0.0, spent[1] - spent[0]) / (many - few)
        return max(1e-5, spent[0] - few * per_move), per_move

    def train(
        self, world: World, plan: dict[str, Any], folder: Path, out_of_time: Callable[[], bool]
    ) -> None:
        """See `Stage`."""
        values = fit_planner(
            world.scenario,
            PlannerFit(
                **_only(plan, PlannerFit)
                | {name: FitStage(**plan[name]) for name in ("busy", "own")}
                | {"care": tuple(map(tuple, plan["care"]))}
            ),
            days=world.days,
            source=world.source,
            journal=folder / "checkpoints" / "latest" / "evolution.jsonl",
            out_of_time=out_of_time,
        )
        values = replace(values, provenance={**values.provenance, **world.provenance})
        values.save(folder / "checkpoints" / "best" / VALUES_FILE)


# --- the network -----------------------------------------------------------------------------


class _OutOfTimeError(Exception):
    """Leaves the trainer's loop; what was best so far is on disk."""


class TrainNetwork:
    """The pair network by DQN; resumes to the bit.

    The mode is ``production`` where its steps fit, else ``quick``, with fewer steps where even
    those do not.
    """

    FEWEST = 250  # vector steps: with fewer the network is its teacher's copy
    TRIAL = 24
    LEAST_S = 30.0  # in less, not even the trial is worth its time

    def plan(self, world: World, seconds: float, folder: Path) -> dict[str, Any] | None:
        """See `Stage`; a short trial training is what measures."""
        from .config import mode_config

        if seconds < self.LEAST_S:
            return None
        begun = time.perf_counter()
        try:
            start_s, step_s, judge_s = self._measure(world, folder / ".trial", begun + seconds / 2)
        except _OutOfTimeError:  # such as a first run, which compiles
            return None
        left = seconds - (time.perf_counter() - begun)
        for mode in ("production", "quick"):
            config = mode_config(mode)
            envs = config.hyperparameters.num_envs
            every = config.evaluation.eval_freq
            teaching = start_s * config.warm_start.days
            per_step = step_s + judge_s * config.evaluation.n_eval_episodes / every
            full = config.total_timesteps // envs
            room = int((left - teaching - 2 * judge_s * config.evaluation.n_eval_episodes)
                       / max(per_step, 1e-9))  # fmt: skip
            steps = min(full, room)
            if steps >= (full if mode == "production" else self.FEWEST):
                return {
                    "mode": mode,
                    "total_timesteps": steps * envs,
                    "estimate_s": teaching + steps * per_step,
                    "words": f"{mode}, {steps * envs:,} steps",
                }
        return None

    def _measure(self, world: World, folder: Path, until: float) -> tuple[float, float, float]:
        """Seconds per taught day, per vector step that learns, and per day judged."""
        from .config import production_config
        from .task import DispatchTask
        from .trainer import Trainer

        config = production_config()
        envs, days = config.hyperparameters.num_envs, 4
        config = config.changed(
            experiment_name=f"auto_trial_{folder.parent.parent.parent.name}"[:100],
            total_timesteps=self.TRIAL * envs,
            hyperparameters={"learning_starts": 0, "n_step": 1},
            warm_start={"days": days, "value_updates": 1},
            evaluation={"eval_freq": 10**6, "n_eval_episodes": 4},
            checkpoints={"save_freq": 10**6, "save_replay_buffer": False},
            seed=world.seed,
        )
        ticks: list[float] = []

        def look(*_: Any) -> None:
            ticks.append(time.perf_counter())
            if ticks[-1] > until:
                raise _OutOfTimeError

        task = DispatchTask(world.scenario, world.source)
        trainer = Trainer(
            task,
            config,
            folder=folder,
            on_progress=look,
        )
        begun = time.perf_counter()
        try:
            _finished(trainer.train().stopped)
            task.evaluate(trainer.agent, config)
            judged = time.perf_counter()
            task.evaluate(trainer.agent, config)
            judge = (time.perf_counter() - judged) / 4
        finally:
            trainer.cleanup()
            for trace in (folder, paths.data_dir() / "tensorboard" / config.experiment_name):
                shutil.rmtree(trace, ignore_errors=True)
        late = np.diff(ticks)[self.TRIAL // 2 :]
        return (ticks[0] - begun) / days, float(median(late.tolist())), judge

    def train(
        self, world: World, plan: dict[str, Any], folder: Path, out_of_time: Callable[[], bool]
    ) -> None:
        """See `Stage`."""
        from .config import mode_config
        from .task import DispatchTask
        from .trainer import Trainer

        resume = any((folder / "checkpoints" / "latest").glob("step_*/manifest.json"))
        config = mode_config(plan["mode"]).changed(
            experiment_name=f"{folder.parent.parent.name}_{folder.name}"[:100],
            total_timesteps=plan["total_timesteps"],
            checkpoints={"save_replay_buffer": False, "min_interval_s": 20.0},
            seed=world.seed,
            resume_training=resume,
        )

        def look(_steps: int, _numbers: dict[str, Any]) -> None:
            if out_of_time():
                raise _OutOfTimeError

        trainer = Trainer(
            DispatchTask(world.scenario, world.source),
            config,
            folder=folder,
            on_progress=look,
            provenance=world.provenance,
        )
        try:
            _finished(trainer.train().stopped)
        except _OutOfTimeError:
            if trainer.progress.best is None:
                raise TrainingError("the time was up before the network had learned") from None
        finally:
            trainer.cleanup()


def _finished(stopped: str) -> None:
    """The trainer answers Ctrl-C by itself; the run around it must hear of it too."""
    if stopped == "interrupted":
        raise KeyboardInterrupt


def _only(plan: dict[str, Any], cls: Any) -> dict[str, Any]:
    return {name: plan[name] for name in cls.__dataclass_fields__ if name in plan}


# --- the list --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A policy that may win.

    Attributes:
        name: As `make_policy` knows it.
        french: What it is, in plain words, for the report.
        english: The same.
        stage: Its training; None: it needs none.
        share: Of the time for training, relative to the others'.
        searches: It takes as long to decide as the route search.
        applies: Whether it makes sense in a scenario.
    """

    name: str
    french: str
    english: str
    stage: Stage | None = None
    share: float = 0.0
    searches: bool = False
    applies: Callable[[Scenario], bool] = lambda _: True


def _must_serve(scenario: Scenario) -> bool:
    """Bookings stay open from epoch to epoch; else each is decided at once, for profit."""
    return not scenario.rules.decide_once


CANDIDATES: Final = (
    Candidate(
        "nearest",
        "au premier venu, la voiture la plus proche",
        "first come, nearest car",
    ),
    Candidate(
        "matching",
        "la meilleure répartition du moment (l'heuristique d'aujourd'hui)",
        "the best assignment of the moment (today's heuristic)",
    ),
    Candidate(
        "matching_linear",
        "la même, qui regarde plus de détails de chaque course",
        "the same, on more details of each trip",
        applies=_must_serve,
    ),
    Candidate(
        "rolling_search",
        "planifie les tournées entières avec les courses connues",
        "plans whole routes over the known bookings",
        searches=True,
        applies=_must_serve,
    ),
    Candidate(
        "matching_tuned",
        "la répartition d'aujourd'hui, réglée sur votre activité",
        "today's assignment, tuned to your days",
        stage=TuneMatching("matching"),
        share=1.0,
        applies=_must_serve,
    ),
    Candidate(
        "matching_linear_tuned",
        "la répartition détaillée, réglée sur votre activité",
        "the detailed assignment, tuned to your days",
        stage=TuneMatching("matching_linear"),
        share=2.0,
        applies=_must_serve,
    ),
    Candidate(
        "dqn_matching",
        "un réseau de neurones entraîné sur votre activité",
        "a neural network trained on your days",
        stage=TrainNetwork(),
        share=5.0,
    ),
    Candidate(
        "planner",
        "planifie les tournées en anticipant les courses à venir, apprises sur votre activité",
        "plans routes with learned values for the bookings still to come",
        stage=FitPlanner(),
        share=6.0,
        searches=True,
        applies=_must_serve,
    ),
)
"""Simplest and cheapest first: the order in which ties are broken, and in which they train."""

REFERENCE: Final = "matching"
"""Today's heuristic; under profit rules the registry makes it ``matching_profit``."""
