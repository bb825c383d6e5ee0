"""A trial of a network: `Trainer` with looks at validation days at every rung."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import TrainingError
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario

from ..config import TrainingConfig, config_json, flat_fields, mode_config
from ..run_log import read_metrics
from ..task import DispatchTask, Score
from ..trainer import Trainer
from .dotted_names import difference, dotted, laid_over, nested
from .objective import RUNGS, Report, rung_of

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


_NO_MATTER = (
    "experiment_name", "seed", "device", "num_threads", "resume_training", "checkpoint_path",
    "checkpoints", "sanity",
)  # fmt: skip
"""Fields that a configuration to train by leaves open: they decide nothing of what is learned, or
are the person's to choose."""


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
        self.mode = mode
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
        return dotted(config_json(self.base))

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
        config = self._rungs(self.base.changed(**nested(values), experiment_name=name))
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
        """See `Objective`: the moved fields, and what else the mode has otherwise."""
        mine = config_json(self.base.changed(**nested(values)))
        theirs = config_json(mode_config(self.mode))
        for name in _NO_MATTER:
            mine.pop(name)
        document = {"total_timesteps": mine["total_timesteps"], **difference(mine, theirs)}
        return laid_over(document, nested(values))

    def train(
        self,
        values: Mapping[str, Any],
        seed: int,
        folder: Path,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        """See `Objective`."""
        config = self.base.changed(
            **nested(values),
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


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
