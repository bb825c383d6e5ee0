"""The nightly update of the pair network: imitation and double DQN on recent demand.

From the champion's network on (or the newest one there is), in three steps: the network is judged
as it is; a planner shows what it would do on days of recent demand, first by itself, then where
the network has got to (DAgger); double DQN follows, on batches of simulated transitions and logged
ones. The best on validation days of recent demand is kept, the network as it was among them: it
never gets worse there.

Two things can go wrong with a network that learns from its own log, and are guarded against.

* **Forgetting.** The imitation of the planner stays beside the TD loss on every update, and so does
  a distillation of the network as it was (Kullback-Leibler, on simulated states).
* **Actions without support.** The log holds few of the actions that the target's maximum runs over;
  an overestimated one is never corrected. For logged transitions the maximum runs only over
  actions that the network as it was takes seriously: at least `SUPPORT` of the probability of its
  best (a softmax of Q in reward units), as in discrete BCQ (Fujimoto et al. 2019).

The run's folder is that of `Trainer`, and so is resuming: from its rotating checkpoints.
"""

import copy
import shutil
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from services.rl.data.experience import Experience
from services.rl.data.recalibrated import Simulator
from services.rl.dqn_agent import DQNAgent
from services.rl.errors import AtmrError, BundleError, PolicyError, TrainingError
from services.rl.policies.base import Policy
from services.rl.policies.planner import SearchPolicy
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues, planner_values
from services.rl.policies.registry import make_policy
from services.rl.q_networks import (
    FLOOR,
    PairArchitecture,
    PairFeatures,
    PairQNetwork,
    QFunction,
)
from services.rl.replay_buffer import Batch, ReplayBuffer
from services.rl.serving.bundle import NETWORK, NETWORK_FOLDER, PLANNER, Bundle, write_bundle
from services.rl.simulation.scenarios import Scenario

from .checkpoints import RotatingCheckpoints, read_model, write_checkpoint
from .config import TrainingConfig
from .export_run import export_model
from .learners import (
    BUNDLE_FOLDER,
    Budget,
    Say,
    Taken,
    begin_update,
    identity_of,
    nightly_metrics,
    out_of_time,
)
from .production_replay import ProductionReplay
from .streams import EngineStream, Stream
from .task import DispatchTask
from .trainer import Trainer

SUPPORT: Final = 0.1
"""Of the probability of the best action: what a logged transition's target may choose among."""

DISTIL_WEIGHT: Final = 0.3
"""Of the distillation of the network as it was, beside the imitation's weight of 1."""

_REFERENCE = "reference"
_SAVE_EVERY_S = 30.0


class DqnMatchingLearner:
    """See `Learner`.

    Args:
        fallback: Folder of a network to start from where the champion is none.
        teacher: A planner's bundle that teaches; None: the champion where it is a planner, else
            the values filed, else the linear matcher.
        support: See `SUPPORT`; 0: the maximum runs over all valid actions (for ablation).
        distil_weight: See `DISTIL_WEIGHT`.
        keep_weight: Of the imitation beside the TD loss.
    """

    kind = NETWORK

    def __init__(
        self,
        *,
        fallback: Path | None = None,
        teacher: Bundle | None = None,
        support: float = SUPPORT,
        distil_weight: float = DISTIL_WEIGHT,
        keep_weight: float = 1.0,
    ) -> None:
        self.fallback, self.teacher = fallback, teacher
        self.support, self.distil_weight, self.keep_weight = support, distil_weight, keep_weight

    def update(
        self,
        bundle: Bundle | None,
        simulator: Simulator,
        experiences: Iterable[Experience],
        *,
        folder: Path,
        budget: Budget,
        seed: int,
        say: Say = lambda _: None,
    ) -> Bundle:
        """See `Learner`."""
        start = self._start(bundle)
        teacher, taught_by = self._teacher(bundle, simulator.training_scenario, budget)
        identity = identity_of(
            self.kind,
            bundle,
            simulator,
            budget,
            seed,
            start=_version_of(start),
            teacher=taught_by,
            support=self.support,
            distil_weight=self.distil_weight,
            keep_weight=self.keep_weight,
        )
        finished = begin_update(folder, identity, say)
        if finished is not None:
            return finished
        config = self._config(budget, seed, start)
        task = NightlyTask(simulator, start, teacher)
        taken = Taken()
        production = ProductionReplay.of(
            experiences, simulator.scenario, config, seed=seed, taken=taken
        )
        share = budget.production_share if len(production) else 0.0
        run = folder / "run"
        trainer = self._trainer(task, config, run, production, share, budget, start, say)
        try:
            result = trainer.train()
        finally:
            trainer.cleanup()
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        say(
            f"dqn_matching: {result.steps} steps, {taken.total} logged experiences; best "
            f"{result.best_score:.1f} at step {result.best_step}, at first "
            f"{trainer.first_score:.1f}"
        )
        metrics = nightly_metrics(
            simulator,
            bundle,
            taken,
            share,
            started_from=_version_of(start) or "imitation",
            teacher=taught_by,
            kept_step=result.best_step,
            score=round(result.best_score, 3),
            score_before=round(trainer.first_score, 3),
            restricted=production.restricted,
        )
        written = self._bundle(bundle, simulator, run, metrics, folder, budget, say)
        shutil.rmtree(run / "checkpoints" / "latest", ignore_errors=True)  # large, and done with
        return written

    def _trainer(
        self,
        task: "NightlyTask",
        config: TrainingConfig,
        run: Path,
        production: ProductionReplay,
        share: float,
        budget: Budget,
        start: Path | None,
        say: Say,
    ) -> "NightlyTrainer":
        """A trainer that goes on from the run's newest whole checkpoint, or begins anew."""

        def made(settings: TrainingConfig) -> NightlyTrainer:
            return NightlyTrainer(
                task,
                settings,
                run,
                production=production,
                share=share,
                support=self.support,
                distil_weight=self.distil_weight,
                started=start is not None,
                out_of_time=out_of_time(budget.minutes),
                say=say,
            )

        for checkpoint in reversed(RotatingCheckpoints(run / "checkpoints" / "latest", 2).all()):
            trainer = made(config.changed(checkpoint_path=checkpoint))
            try:
                trainer.check_resumable(checkpoint)
            except AtmrError as error:
                say(f"checkpoint {checkpoint.name} is left aside: {error}")
                trainer.cleanup()
                continue
            return trainer
        return made(config)

    def _start(self, bundle: Bundle | None) -> Path | None:
        """Folder of the network to start from."""
        if bundle is not None and bundle.kind == NETWORK:
            return bundle.path / NETWORK_FOLDER
        return self.fallback

    def _teacher(
        self, bundle: Bundle | None, world: Scenario, budget: Budget
    ) -> tuple[Policy, str]:
        """Who teaches, in the training scenario, and its name."""
        planner = self.teacher
        if planner is None and bundle is not None and bundle.kind == PLANNER:
            planner = bundle
        try:
            if planner is not None:
                values = PlannerValues.load(planner.file(VALUES_FILE))
                name = f"planner {planner.version}"
            else:
                values, name, _ = planner_values(world, transfer=True)
        except PolicyError:
            return make_policy("matching_linear", world), "matching_linear"
        moves = budget.network.teacher_moves
        return SearchPolicy(PLANNER, world, values=values, moves=moves), name

    def _config(self, budget: Budget, seed: int, start: Path | None) -> TrainingConfig:
        plan = budget.network
        network: dict[str, Any] = {}
        if start is not None:
            manifest, _ = read_model(start)
            network = {
                "pair_hidden": manifest.network["hidden"],
                "hold_back_min": manifest.network["hold_back_min"],
                "dueling": manifest.network.get("dueling", False),
                "edge_features": manifest.network.get("edges", True),
                "reward_scale": manifest.reward_scale,
            }
        return TrainingConfig().changed(
            experiment_name="nightly",
            seed=seed,
            total_timesteps=plan.steps,
            hyperparameters={
                "num_envs": plan.envs,
                "learning_starts": min(2_000, plan.steps // 4),
                "buffer_size": max(4_096, min(50_000, plan.steps)),
                "exploration_initial_eps": 0.01,
                "batch_size": 256 if plan.steps >= 4_096 else 16,
                **network,
            },
            warm_start={
                "teacher": "planner",  # stands for the task's own
                "days": plan.teacher_days,
                "dagger_days": plan.dagger_days,
                "epochs": plan.epochs,
                "value_updates": plan.value_updates,
                "keep_weight": self.keep_weight,
            },
            checkpoints={
                "save_freq": plan.judge_every,
                "min_interval_s": _SAVE_EVERY_S,
            },
            evaluation={
                "eval_freq": plan.judge_every,
                "n_eval_episodes": plan.judged_days,
                "patience": plan.patience,
            },
            sanity={"enabled": False},
        )

    def _bundle(
        self,
        champion: Bundle | None,
        simulator: Simulator,
        run: Path,
        metrics: dict[str, Any],
        folder: Path,
        budget: Budget,
        say: Say,
    ) -> Bundle:
        common: dict[str, Any] = {
            "model": run / "checkpoints" / "best",
            "metrics": metrics,
            "parent": None if champion is None else champion.version,
        }
        target = folder / BUNDLE_FOLDER
        if not budget.measured:
            return write_bundle(target, NETWORK, simulator.scenario, **common)
        written, report = export_model(
            target,
            simulator.scenario,
            kind=NETWORK,
            days=budget.export_days,
            states=budget.export_states,
            turns=2,
            memory=False,
            must_earn=False,
            say=say,
            **common,
        )
        if not report.passes:
            raise BundleError(f"{target} must not be used: {'; '.join(report.failures)}")
        return written


def _version_of(start: Path | None) -> str | None:
    """What tells one network to start from apart from another."""
    return None if start is None else read_model(start)[0].files["model.safetensors"][:12]


class NightlyTask(DispatchTask):
    """The training scenario; models are filed for the served one.

    Args:
        simulator: Both.
        start: Folder of a network whose parameters are taken over; None: fresh ones.
        teacher: Shows what to do.
    """

    def __init__(self, simulator: Simulator, start: Path | None, teacher: Policy) -> None:
        super().__init__(simulator.training_scenario, teacher=teacher)
        self.judged_on = "validation days of recent demand"
        self._served = simulator.scenario
        self._start = start

    def network(self, config: TrainingConfig, stream: Stream) -> QFunction:
        """See `Task`."""
        if self._start is None:
            return super().network(config, stream)
        assert isinstance(stream, EngineStream)
        manifest, parameters = read_model(self._start)
        try:
            shape = PairArchitecture(
                **{f.name: manifest.network[f.name] for f in fields(PairArchitecture)}
            )
            layout = stream.engine.layout
            network = PairQNetwork(
                layout.num_drivers, layout.max_bookings, PairFeatures(stream.engine), shape
            )
            network.load_state_dict(parameters)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{self._start} cannot be learned on from: {reason}") from error
        return network

    def record(self, config: TrainingConfig) -> dict[str, Any]:
        """See `Task`."""
        return {
            **super().record(config),
            "scenario": self._served.name,
            "scenario_hash": self._served.sha256,
            "trained_on": self.scenario.sha256,
        }


class MixedReplay(ReplayBuffer):
    """Simulated transitions, and in every batch a share of logged ones.

    Attributes:
        production: The logged ones; None as long as they must not be used.
        share: Of a batch.
    """

    production: ProductionReplay | None = None
    share: float = 0.0

    def sample(self, batch_size: int, *, beta: float = 0.4) -> Batch:
        """See `ReplayBuffer.sample`."""
        logged = round(self.share * batch_size)
        if self.production is None or not logged:
            return super().sample(batch_size, beta=beta)
        simulated = super().sample(batch_size - logged, beta=beta)
        rows = self.random.integers(0, len(self.production), logged)
        return joined(simulated, self.production.batch(rows))


def joined(a: Batch, b: Batch) -> Batch:
    """One batch of two."""
    return Batch(**{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in vars(a)})


class NightlyTrainer(Trainer):
    """A `Trainer` that judges the network as it is first, mixes in the log, and looks at the clock.

    Args:
        task: What to train on.
        config: How.
        folder: Of the run.
        production: Logged transitions.
        share: Of every batch.
        support: See `SUPPORT`.
        distil_weight: See `DISTIL_WEIGHT`.
        started: The network is one that has learned before.
        out_of_time: Asked before every step.
        say: Told the lines of the log.
    """

    def __init__(
        self,
        task: NightlyTask,
        config: TrainingConfig,
        folder: Path,
        *,
        production: ProductionReplay,
        share: float,
        support: float,
        distil_weight: float,
        started: bool,
        out_of_time: Callable[[], bool],
        say: Say,
    ) -> None:
        super().__init__(task, config, folder=folder, on_message=say)
        own = self.agent.buffer
        mixed = MixedReplay(
            own.capacity,
            own.state_dim,
            own.action_dim,
            n_step=own.n_step,
            gamma=own.gamma,
            num_lanes=config.hyperparameters.num_envs,
            seed=config.seed,
        )
        mixed.share = share
        self.agent.buffer = mixed
        self._mixed, self._production = mixed, production
        self._support, self._distil_weight = support, distil_weight
        self._started, self._out_of_time = started, out_of_time
        self._reference_folder = folder / _REFERENCE

    @property
    def first_score(self) -> float:
        """Of the network as it was (after imitation, where there was none)."""
        return self.progress.evaluations[0][1]

    def check_resumable(self, checkpoint: Path) -> None:
        """Look whether a checkpoint and what belongs to it are whole.

        Raises:
            AtmrError: If not.
        """
        read_model(checkpoint)
        read_model(self._reference_folder)
        if not (self.folder / "checkpoints" / "best").exists():
            raise TrainingError(f"{self.folder} has no best network yet")

    def _out_of_patience(self) -> bool:
        return super()._out_of_patience() or self._out_of_time()

    def _save_final_buffer(self) -> None:
        """Nobody goes on from last night's simulated transitions."""

    def _warm_up(self) -> None:
        if self._started:
            self._judge()
            self._keep_reference()
        super()._warm_up()
        if not self._started:
            self._keep_reference()
        self._use_reference()

    def _resume(self, path: Path | None) -> None:
        super()._resume(path)
        self._use_reference()

    def _keep_reference(self) -> None:
        write_checkpoint(
            self._reference_folder,
            self._kept.manifest({}),
            self.agent.online.state_dict(),
            lambda _: None,
        )

    def _use_reference(self) -> None:
        """The network as it was limits the log's targets, and is distilled."""
        _, parameters = read_model(self._reference_folder)
        network = self.agent.online
        own = {name: values.clone() for name, values in network.state_dict().items()}
        network.load_state_dict(parameters)
        if len(self._production) and self._mixed.share:
            self._production.restrict(self.agent, self._support)
            self._mixed.production = self._production
        reference = copy.deepcopy(network).requires_grad_(False)
        network.load_state_dict(own)
        if self._distil_weight > 0 and self._started:
            imitation = self._keep
            distil = keep_close(self.agent, reference, self._distil_weight)
            self._keep = distil if imitation is None else (lambda: imitation() + distil())


def keep_close(agent: DQNAgent, reference: QFunction, weight: float) -> Callable[[], Tensor]:
    """Kullback-Leibler divergence from a network as it was, on simulated states.

    Of softmaxes of Q in reward units over the actions considered, as in `imitation.policy_loss`:
    what matters is which action is best and by how much, not the level of Q.
    """
    size = max(1, agent.options.batch_size // 4)

    def loss() -> Tensor:
        batch = ReplayBuffer.sample(agent.buffer, size)  # simulated ones alone
        prepared = agent.online.prepare(batch.state, batch.mask)
        considered = agent.online.considered(prepared)

        def log_share(network: QFunction) -> Tensor:
            q = network.values(prepared) / agent.options.reward_scale
            return torch.log_softmax(torch.where(considered, q, torch.full_like(q, FLOOR)), dim=1)

        with torch.no_grad():
            before = log_share(reference)
        now = log_share(agent.online)
        each = (before.exp() * (before - now)).masked_fill(~considered, 0.0)
        return weight * each.sum(1).mean()

    return loss
