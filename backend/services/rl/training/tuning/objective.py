"""What a trial does, by policy kind: train with the trial's values and look on validation days.

Every trial of a study trains with the same seed and is judged on the same validation days (common
random numbers), `RUNGS` times, evenly over its budget; the study's pruner decides at these rungs.
Days of the test split are never played here.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import TrainingError, UsageError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.runner import DayBook
from services.rl.policies.planner import DEFAULT_MOVES, SearchPolicy
from services.rl.policies.planner_values import PlannerValues
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import FloatArray

from ..config import TrainingConfig, config_json, flat_fields, mode_config
from ..planner_config import changed_plan, plan_fields
from ..planner_fit import PlannerFit, Stage, fit_planner, weighted
from ..planner_run import planner_fit_of, train_planner
from ..run_log import read_metrics
from ..task import DispatchTask, Score
from ..trainer import Trainer

RUNGS: Final = 8
"""Looks at validation days per trial."""

STUDY_DAYS: Final = 64
MOST_DAYS: Final = 10_000
"""Validation days that a study may play; those from this one on choose in a confirmation."""
"""Validation days of a study; a confirmation chooses by later ones."""

Report = Callable[[int, Score, int], None]
"""Told a rung (1 to `RUNGS`), the best score so far and the steps spent; may end the trial."""


class Objective(Protocol):
    """One policy kind on one scenario.

    Attributes:
        policy: The kind, as `search_space.POLICIES` names it.
        plays_as: The policy's name for an evaluation.
        unit: What a step is.
    """

    policy: str
    plays_as: str
    unit: str

    def fields(self) -> dict[str, Any]:
        """The default configuration by dotted field, at this budget."""
        ...

    def identity(self) -> dict[str, Any]:
        """What makes scores comparable beside space, scenario and code: budget, seed, days."""
        ...

    def steps(self, values: Mapping[str, Any]) -> int:
        """Steps of a whole trial."""
        ...

    def run(self, values: Mapping[str, Any], name: str, report: Report) -> Score:
        """Train with these fields and judge; ``name`` is the folder's, which is gone afterwards.

        Raises:
            TrainingError: If the values do not go together, or the training diverges.
            KeyboardInterrupt: If it was interrupted.
        """
        ...

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What ``train_dqn.py --config`` takes, for this budget."""
        ...

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        """A whole training, into a folder that keeps its best model.

        Raises:
            TrainingError: If it diverges.
            KeyboardInterrupt: If it was interrupted.
        """
        ...


def objective_of(
    policy: str,
    scenario: Scenario,
    *,
    mode: str = "quick",
    seed: int = 0,
    steps: int | None = None,
    days: int = STUDY_DAYS,
    data_dir: str | None = None,
) -> Objective:
    """The objective of a policy kind.

    Args:
        policy: One of `search_space.POLICIES`.
        scenario: The world.
        mode: Budget of a trial.
        seed: Of every trial's training.
        steps: Another number of environment steps (networks), or of generations (planner).
        days: Validation days.
        data_dir: Folder of real days.

    Raises:
        UsageError: If the policy is unknown, or there are too many days.
        TrainingError: If the mode is unknown.
    """
    if days > MOST_DAYS:
        raise UsageError(f"--days {days:,}: at most {MOST_DAYS:,}, the others choose and prove")
    if policy == "planner":
        return PlannerObjective(scenario, mode, seed, steps, days, data_dir)
    if policy in ("dqn_matching", "qnetwork"):
        return NetworkObjective(policy, scenario, mode, seed, steps, days, data_dir)
    raise UsageError(f"--policy {policy}: unknown; choose among dqn_matching, planner and qnetwork")


def rung_of(steps: int, total: int) -> int:
    """The rung reached after so many steps: 0 before the first, `RUNGS` at the end."""
    return min(RUNGS, steps * RUNGS // total)


# --- networks --------------------------------------------------------------------------------

_QNETWORK_STEPS = {"sanity": 400, "quick": 128_000}
"""Where the flat network's own 400,000 are too many for a trial."""

_SCREENING: dict[str, Any] = {
    "hyperparameters": {"learning_starts": 1_000},
    "warm_start": {"days": 50, "value_updates": 100},
}
"""Of a quick trial of the pair network: with the mode's own, a third of the budget would pass
before the policy first moves, and the first rungs would tell nothing apart."""


_SANITY: dict[str, Any] = {
    "total_timesteps": 400,
    "hyperparameters": {"num_envs": 4, "batch_size": 64, "buffer_size": 10_000},
}
"""Of a sanity trial: as short as may be, with defaults that lie within the spaces."""


class _Judged(DispatchTask):
    """The same task without baselines: a trial is compared with trials."""

    def baselines(self, config: TrainingConfig) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}


class NetworkObjective:
    """``dqn_matching`` (the pair network), or ``qnetwork`` (the flat one on the compact vector).

    A trial's score is the best of its rungs: the model that would be kept. What imitation alone
    gives, before the first step, does not count: it is alike in all trials.
    """

    unit = "environment steps"

    def __init__(
        self,
        policy: str,
        scenario: Scenario,
        mode: str,
        seed: int,
        steps: int | None,
        days: int,
        data_dir: str | None,
    ) -> None:
        self.policy = policy
        self.plays_as = "dqn_matching" if policy == "dqn_matching" else "dqn"
        self.scenario = scenario
        self.source = open_source(scenario, data_dir)
        base = mode_config(mode)
        if policy == "qnetwork":
            flat = flat_fields()
            total = _QNETWORK_STEPS.get(mode, flat["total_timesteps"])
            base = base.changed(**flat).changed(total_timesteps=total)
        elif mode == "quick":
            base = base.changed(**_SCREENING)
        if mode == "sanity":
            base = base.changed(**_SANITY)
        total = steps or base.total_timesteps
        base = base.changed(
            seed=seed,
            total_timesteps=total,
            evaluation={"n_eval_episodes": days},
            sanity={"enabled": False},
        )
        self.base = base

    def _rungs(self, config: TrainingConfig) -> TrainingConfig:
        """Evaluated `RUNGS` times, and nothing kept that a trial does not need."""
        vector_steps = -(-config.total_timesteps // config.hyperparameters.num_envs)
        return config.changed(
            evaluation={"eval_freq": -(-vector_steps // RUNGS)},
            checkpoints={"save_replay_buffer": False, "min_interval_s": 1e9},
        )

    def fields(self) -> dict[str, Any]:
        """See `Objective`."""
        return _flat(config_json(self.base))

    def identity(self) -> dict[str, Any]:
        """See `Objective`."""
        config = config_json(self.base)
        for name in ("experiment_name", "resume_training", "checkpoint_path", "num_threads"):
            config.pop(name)
        return {"config": config, "rungs": RUNGS}

    def steps(self, values: Mapping[str, Any]) -> int:  # noqa: ARG002 - as the protocol
        """See `Objective`."""
        return self.base.total_timesteps

    def run(self, values: Mapping[str, Any], name: str, report: Report) -> Score:
        """See `Objective`."""
        config = self._rungs(self.base.changed(**_nested(values), experiment_name=name))
        folder = paths.results_dir() / name
        total = config.total_timesteps
        task = _Judged(self.scenario, self.source)
        best: list[Score] = []
        told = [0]

        def look(_steps: int, _numbers: Any) -> None:
            done = trainer.progress.evaluations
            for at, mean, days in done[told[0] :]:
                rung = rung_of(at, total)
                if rung and (not best or not mean <= best[0].mean):
                    best[:] = [Score(mean, np.array(days), _kpis_at(folder, at))]
                if rung:
                    report(rung, best[0], at)
            told[0] = len(done)

        trainer = Trainer(task, config, on_progress=look, folder=folder)
        try:
            result = trainer.train()
            if result.stopped == "interrupted":
                raise KeyboardInterrupt
            look(trainer.agent.steps, {})  # what was judged after the last step
        finally:
            trainer.cleanup()
            _remove(folder)
            _remove(paths.data_dir() / "tensorboard" / name)
        if not best:
            raise TrainingError(
                f"total_timesteps is {total}: too few for one look at the validation days"
            )
        return best[0]

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The changed fields, and for the flat network what makes it one."""
        document: dict[str, Any] = {}
        if self.policy == "qnetwork":
            document = _plain(flat_fields())
        return _laid_over(document, _nested(values))

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        """See `Objective`."""
        config = self.base.changed(
            **_nested(values),
            experiment_name=folder.name,
            seed=seed,
            checkpoints={"save_replay_buffer": False},
        )
        task = _Judged(self.scenario, self.source)
        trainer = Trainer(task, config, folder=folder, on_message=on_message)
        try:
            if trainer.train().stopped == "interrupted":
                raise KeyboardInterrupt
        finally:
            trainer.cleanup()


def _kpis_at(folder: Path, step: int) -> dict[str, float]:
    """KPIs of an evaluation, from the run's log."""
    found = [line for line in read_metrics(folder, "eval") if line["step"] == step]
    return {k: float(found[-1][k]) for k in KPIS if k in found[-1]} if found else {}


# --- the planner -----------------------------------------------------------------------------


_SANITY_FIT: dict[str, Any] = {
    "busy": {"days": 8, "moves": 200}, "own": {"days": 8, "moves": 400}, "population": 6,
}  # fmt: skip
"""As `_SANITY`."""


class PlannerObjective:
    """The planner: its search's temperature and horizon, its value terms, and how they are fitted.

    Every trial plays the same number of moves while it fits: what its candidates, days or moves
    cost more, it has less of generations. In use every planner searches the same number of moves.
    """

    policy = plays_as = "planner"
    unit = "moves of the search"

    def __init__(
        self,
        scenario: Scenario,
        mode: str,
        seed: int,
        steps: int | None,
        days: int,
        data_dir: str | None,
    ) -> None:
        self.scenario = scenario
        self.source = open_source(scenario, data_dir)
        plan = planner_fit_of(mode)
        if mode == "sanity":
            plan = changed_plan(plan, _SANITY_FIT)
        if steps is not None:
            plan = plan.lasting(max(2, steps))
        self.base = replace(plan, seed=seed, threads=1, repeats=1)
        self.book: DayBook | None = None
        self._days = days

    def plan(self, values: Mapping[str, Any]) -> PlannerFit:
        """The plan with these fields, and as many generations as the budget gives."""
        plan = changed_plan(self.base, _plain(_nested(values)))
        return replace(
            plan,
            busy=_afforded(plan.busy, plan.population, self.base.busy, self.base.population),
            own=_afforded(plan.own, plan.population, self.base.own, self.base.population),
        )

    def fields(self) -> dict[str, Any]:
        """See `Objective`."""
        return plan_fields(self.base)

    def identity(self) -> dict[str, Any]:
        """See `Objective`."""
        fit = {k: v for k, v in asdict(self.base).items() if k not in ("threads", "care")}
        return {"fit": fit, "days": self._days, "moves": DEFAULT_MOVES, "rungs": RUNGS}

    def steps(self, values: Mapping[str, Any]) -> int:
        """See `Objective`."""
        plan = self.plan(values)
        return sum(
            stage.generations * _moves(stage, plan.population) for stage in (plan.busy, plan.own)
        )

    def run(self, values: Mapping[str, Any], name: str, report: Report) -> Score:  # noqa: ARG002
        """See `Objective`; nothing is written."""
        plan = replace(self.plan(values), care=())
        total, told = self.steps(values), [0]
        in_busy = plan.busy.generations

        def look(done: int, weights: FloatArray) -> None:
            spent = min(done, in_busy) * _moves(plan.busy, plan.population)
            spent += max(0, done - in_busy) * _moves(plan.own, plan.population)
            rung = min(RUNGS - 1, spent * RUNGS // total)  # the last is that of the values kept
            if rung > told[0]:
                told[0] = rung
                report(rung, self._judge(weighted(self.scenario, weights, plan)), spent)

        days = [self.source.day(n) for n in self.source.labels(Split.TRAIN)] if self.source else []
        values_found = fit_planner(
            self.scenario, plan, days=days, source=self.source, on_weights=look
        )
        score = self._judge(values_found)
        report(RUNGS, score, total)
        return score

    def _judge(self, values: PlannerValues) -> Score:
        if self.book is None:
            self.book = day_book(self.scenario, self.source, Split.VALIDATION, self._days, 0)
        engine = self.book.engine(range(len(self.book)))
        SearchPolicy("planner", self.scenario, source=self.source, values=values).play(engine)
        table = np.array([list(engine.kpis(e).values()) for e in range(engine.num_envs)])
        rewards = table[:, KPIS.index("reward")]
        means = dict(zip(KPIS, table.mean(axis=0).tolist(), strict=True))
        return Score(float(rewards.mean()), rewards, means)

    def document(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The changed fields, and the generations that they leave at this budget."""
        plan = self.plan(values)
        document = _laid_over({}, _nested(values))
        for name in ("busy", "own"):
            stage = document.setdefault(name, {})
            stage["generations"] = getattr(plan, name).generations
        return document

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,  # noqa: ARG002 - as the protocol
    ) -> None:
        """See `Objective`; goes on from the fit's journal, if there is one."""
        plan = replace(self.plan(values), seed=seed)
        begun = any((folder / "checkpoints" / "latest").glob("evolution*.jsonl"))
        train_planner(self.scenario, plan, folder, source=self.source, resume=begun)


def _moves(stage: Stage, population: int) -> int:
    """Moves per epoch, summed over the days of a generation; mean and start are played too."""
    return (population + 2) * stage.days * stage.moves


def _afforded(stage: Stage, population: int, base: Stage, base_population: int) -> Stage:
    """The stage with the generations that cost as many moves as the base's."""
    if not base.generations:
        return replace(stage, generations=0)
    room = base.generations * _moves(base, base_population) / max(1, _moves(stage, population))
    return replace(stage, generations=max(1, round(room)))


# --- dotted names ----------------------------------------------------------------------------


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _laid_over(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[name] = _laid_over(below, value) if both and below is not None else _plain(value)
    return merged


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
