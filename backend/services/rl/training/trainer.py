"""`Trainer`: steps, learns, judges, saves; resumes to the bit.

Order of a run: sanity checks, warm start (if any), reinforcement learning, polish (if any). The
model kept is the best on validation days, never merely the last.
"""

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.dqn_agent import AgentOptions, DQNAgent
from services.rl.errors import AtmrError, DataError, PolicyError, TrainingError
from services.rl.policies.model_files import file_sha256, settled
from services.rl.q_networks import PairQNetwork
from services.rl.replay_buffer import ReplayBuffer
from services.rl.simulation.scenarios import Scenario, load_scenario

from .checkpoints import (
    RotatingCheckpoints,
    disk_reason,
    forget_run,
    read_model,
    read_state,
    sole_writer,
    write_checkpoint,
)
from .config import TrainingConfig, config_json
from .imitation import Demonstrations, keep_imitating, teacher_of
from .run_log import RunLog, learning_curve
from .run_state import Progress, RunState, versions
from .task import DispatchTask, GymnasiumTask, Score, Task

# `timeout` and process managers signal a process and its group: that is one request.
_ONE_REQUEST_S = 1.0
_LOG_EVERY = 100  # updates; reading a loss waits for the device


@dataclass(frozen=True)
class TrainingResult:
    """What a run achieved.

    Attributes:
        folder: ``results/<experiment>``.
        best_score: Mean over the validation days.
        best_step: Environment steps at which it was reached.
        final_score: Of the last evaluation.
        steps: Environment steps trained, those of earlier processes included.
        first_step: Where this process began.
        seconds: Of this process.
        stopped: ``done``, ``early`` (no progress) or ``interrupted``.
    """

    folder: Path
    best_score: float
    best_step: int
    final_score: float
    steps: int
    first_step: int
    seconds: float
    stopped: str


class Trainer:
    """Runs one training.

    Args:
        task: What to train on; a scenario (or its name) stands for a `DispatchTask`.
        config: How.
        episodes: Stop after so many episodes instead of ``total_timesteps``.
        on_progress: Called now and then with steps and a few numbers, for a progress bar.
        on_message: Called with every line of the log.
        provenance: What else the results should say about their origin (commit, command).
        folder: Where the run goes; default ``results/<experiment>``.
    """

    def __init__(
        self,
        task: Task | Scenario | str,
        config: TrainingConfig,
        *,
        episodes: int | None = None,
        on_progress: Callable[[int, dict[str, Any]], None] | None = None,
        on_message: Callable[[str], None] | None = None,
        provenance: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        if isinstance(task, str):
            task = load_scenario(task)
        if isinstance(task, Scenario):
            task = DispatchTask(task, open_source(task, None))
        require_device(config.device)
        self.task, self.config = task, config
        self.folder = folder or paths.results_dir() / config.experiment_name
        self.episodes = episodes
        self._on_progress = on_progress
        self._on_message = on_message
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        h = config.hyperparameters
        try:
            self.stream = task.stream(config)
            network = task.network(config, self.stream)
            self.agent = _agent(config, network, self.stream.state_dim, self.stream.num_actions)
        except MemoryError as error:
            raise TrainingError(
                f"out of memory ({error}): lower hyperparameters.buffer_size ({h.buffer_size}) or "
                f"hyperparameters.num_envs ({h.num_envs})"
            ) from error
        self._check_parts()
        self._kept = RunState(task, config, self.agent, self.stream, self.folder, provenance or {})
        self.latest = RotatingCheckpoints(
            self.folder / "checkpoints" / "latest", config.checkpoints.max_checkpoints
        )
        self._state: Any = None
        self._mask: Any = None
        self._log: RunLog | None = None
        self._interrupted = False
        self._asked_at = 0.0
        self._resumed = False
        self._keep: Any = None
        self._held: ExitStack | None = None
        self._last_saved = 0.0
        self._first_step = 0
        self._saved: tuple[Any, ...] = ()

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        return self._kept.progress

    # --- the run ---------------------------------------------------------------------------------

    def train(self) -> TrainingResult:
        """Run to the end, or until interrupted; may be called again to go on.

        Raises:
            TrainingError: If the configuration, a checkpoint or the numbers are wrong.
        """
        begun = time.monotonic()
        previous = _catch_interrupts(self._interrupt)
        try:
            self._begin()
            stopped = self._run()
        except OSError as error:
            name = error.filename or self.folder
            raise TrainingError(
                f"step {self.agent.steps}: {name} cannot be written: {disk_reason(error)}"
            ) from error
        finally:
            _restore_interrupts(previous)
            self._close_log()
            if self._held is not None:
                self._held.close()
                self._held = None
        evaluations = self.progress.evaluations
        return TrainingResult(
            folder=self.folder,
            best_score=self.progress.best if self.progress.best is not None else float("nan"),
            best_step=self.progress.best_step,
            final_score=evaluations[-1][1] if evaluations else float("nan"),
            steps=self.agent.steps,
            first_step=self._first_step,
            seconds=time.monotonic() - begun,
            stopped=stopped,
        )

    def _run(self) -> str:
        """Warm start, steps, polish; returns why it ended."""
        stopped = "done"
        try:
            if not self.progress.warmed:
                self._warm_up()
            while not self._finished():
                if self._interrupted:
                    stopped = "interrupted"
                    break
                if self._out_of_patience():
                    stopped = "early"
                    break
                self._vector_step()
            if stopped != "interrupted" and not self._polish():
                stopped = "interrupted"
            self._conclude(stopped)
        except (DataError, PolicyError) as error:  # numbers that are none
            where = self._kept.save_evidence(self._metrics_bytes())
            raise TrainingError(
                f"step {self.agent.steps}: {error}; the state is in {where}"
            ) from error
        return stopped

    def evaluate(self) -> Score:
        """Judge the agent as it is on the validation days."""
        return self.task.evaluate(self.agent, self.config)

    def cleanup(self) -> None:
        """Close logs and environments; the results stay."""
        self._close_log()

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._interrupted:
            self._interrupted, self._asked_at = True, now
        elif now - self._asked_at > _ONE_REQUEST_S:
            raise KeyboardInterrupt  # asked twice: leave at once

    def _finished(self) -> bool:
        if self.episodes is not None:
            return self.progress.episodes >= self.episodes
        return self.agent.steps >= self.config.total_timesteps

    def _out_of_patience(self) -> bool:
        patience = self.config.evaluation.patience
        return bool(patience) and self.progress.since_best >= patience

    def _begin(self) -> None:
        config = self.config
        self._hold_folder()
        if self._state is not None:  # of this process: goes on after an interruption
            self._interrupted = False
            written = (self.folder / "logs" / "metrics.jsonl").stat().st_size
            self._log = RunLog(
                self.folder, config.experiment_name, written, self.agent.steps, self._on_message
            )
            self._first_step = self.agent.steps
            return
        if config.resume_training or config.checkpoint_path is not None:
            self._resume(config.checkpoint_path)
        else:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._hold_folder()
            replaces = (self.folder / "checkpoints" / "best").is_dir()
            self.latest.clear()
            forget_run(self.folder)
            self._log = RunLog(self.folder, config.experiment_name, echo=self._on_message)
            if replaces:
                self._log.say(f"replaces an earlier run of this name in {self.folder}")
            self._state, self._mask = self.stream.reset()
            self._write_config()
        self._first_step = self.agent.steps
        self._last_saved = time.monotonic()

    def _hold_folder(self) -> None:
        """Let no other process write the run's folder, as soon as there is one."""
        if self._held is None and self.folder.is_dir():
            held = ExitStack()
            held.enter_context(sole_writer(self.folder))
            self._held = held

    def _vector_step(self) -> None:
        agent, h, progress = self.agent, self.config.hyperparameters, self.progress
        actions = agent.select_actions(self._state, self._mask)
        step = self.stream.step(actions)
        agent.buffer.push_batch(
            self._state,
            actions,
            step.next_state,
            step.reward,
            step.terminated,
            mask=self._mask,
            next_mask=step.next_mask,
            dt=step.dt,
            ended=step.ended,
        )
        self._state, self._mask = step.state, step.mask
        agent.decay_epsilon(self.stream.num_envs)
        progress.vector_steps += 1
        for episode in step.episodes:
            progress.episodes += 1
            progress.recent = [*progress.recent[-99:], episode.total]
        filled = agent.steps >= h.learning_starts and len(agent.buffer) >= h.batch_size
        if filled and progress.vector_steps % h.train_freq == 0:
            for _ in range(h.gradient_steps):
                self._freeze()
                agent.train_step()
                if agent.updates % _LOG_EVERY == 0:
                    self._log_training(step.episodes[-1].kpis if step.episodes else {})
        if progress.vector_steps % self.config.evaluation.eval_freq == 0:
            self._judge()
        self._save_when_due()
        if self._on_progress is not None:
            numbers = {"best": progress.best, "eps": agent.epsilon, "episodes": progress.episodes}
            self._on_progress(agent.steps, numbers)

    def _freeze(self) -> None:
        """After a warm start V learns first, alone."""
        plan, network = self.config.warm_start, self.agent.online
        if plan.teacher is None or not isinstance(network, PairQNetwork):
            return
        if self.agent.updates in (0, plan.value_updates) or self._resumed:
            self._resumed = False
            alone = self.agent.updates < plan.value_updates
            network.requires_grad_(not alone)
            self.agent.also_minimise = None if alone else self._keep
            for parameter in network.value_parameters():
                parameter.requires_grad_(True)

    # --- looking ---------------------------------------------------------------------------------

    def _log_training(self, kpis: dict[str, float]) -> None:
        log = self._log
        assert log is not None
        numbers = {k: float(v) for k, v in self.agent.diagnostics.items()}
        if not np.isfinite(numbers["loss"]):
            raise DataError(f"the loss is {numbers['loss']} after {self.agent.updates} updates")
        numbers["epsilon"] = self.agent.epsilon
        if self.progress.recent:
            numbers["episode_reward"] = float(np.mean(self.progress.recent))
        log.metrics(self.agent.steps, "train", numbers)
        if kpis:
            log.scalars(self.agent.steps, "train_kpi", kpis)

    def _judge(self) -> None:
        """Evaluate; keep the model if it is the best so far."""
        self._kept.check_weights()
        score, progress, log = self.evaluate(), self.progress, self._log
        assert log is not None
        steps = self.agent.steps
        if not np.isfinite(score.mean):
            raise DataError(f"the score on validation days is {score.mean}")
        progress.evaluations.append((steps, score.mean, score.per_episode.tolist()))
        log.metrics(steps, "eval", {"score": score.mean, **score.kpis})
        log.say(
            f"step {steps}: score {score.mean:.2f} on {len(score.per_episode)} "
            f"{self.task.judged_on}, "
            f"epsilon {self.agent.epsilon:.3f}, {progress.episodes} episodes"
        )
        self._save_evaluations()
        if progress.best is None or score.mean > progress.best:
            progress.best, progress.best_step, progress.since_best = score.mean, steps, 0
            self._kept.save_model(self.folder / "checkpoints" / "best", score)
        else:
            progress.since_best += 1

    def _save_evaluations(self) -> None:
        rows = self.progress.evaluations
        folder = self.folder / "eval"
        folder.mkdir(exist_ok=True)
        hidden = folder / ".evaluations.partial.npz"
        np.savez(
            hidden,
            timesteps=np.array([r[0] for r in rows]),
            scores=np.array([r[1] for r in rows]),
            results=np.array([r[2] for r in rows]),
        )
        hidden.replace(folder / "evaluations.npz")

    # --- before and after ------------------------------------------------------------------------

    def _warm_up(self) -> None:
        from .imitation import warm_start

        if self.config.warm_start.teacher is not None:
            assert self._log is not None
            shown = warm_start(self.task, self.agent, self.config, self._log)
            if self.config.warm_start.keep_weight > 0:
                shown.save(self._kept.demonstrations)
                self._kept.shown_sha256 = file_sha256(self._kept.demonstrations)
            self._keep_imitating(shown)
        self.progress.warmed = True
        self._judge()
        if self.config.warm_start.teacher is not None:
            self._save_rotating()

    def _keep_imitating(self, shown: Demonstrations) -> None:
        weight = self.config.warm_start.keep_weight
        if weight > 0:
            size = self.config.hyperparameters.batch_size // 2
            self._keep = keep_imitating(self.agent, shown, weight, max(1, size))

    def _polish(self) -> bool:
        """Evolve the best network, once; False if interrupted: all is as before then."""
        from .polish import polish

        agent, log = self.agent, self._log
        if not self.config.polish.generations or self.progress.polished_at == agent.steps:
            return True
        assert log is not None
        self._save_rotating()
        written = log.size
        own = {name: values.clone() for name, values in agent.online.state_dict().items()}
        agent.online.load_state_dict(read_model(self.folder / "checkpoints" / "best")[1])
        if not polish(self.task, agent, self.config, log, interrupted=lambda: self._interrupted):
            agent.online.load_state_dict(own)
            log.rewind(written)
            return False
        self.progress.polished_at = agent.steps
        self._judge()
        return True

    def _conclude(self, stopped: str) -> None:
        """Last evaluation and files; after an interruption only the state."""
        log = self._log
        assert log is not None
        evaluated = self.progress.evaluations and self.progress.evaluations[-1][0]
        judged = evaluated == self.agent.steps and self.progress.best is not None
        if stopped != "interrupted" and not judged:
            self._judge()
        self._save_rotating()
        log.say(f"{stopped} at step {self.agent.steps}")
        if stopped == "interrupted":
            return
        best = self.folder / "checkpoints" / "best"
        manifest, model = read_model(best)
        write_checkpoint(self.folder / "dqn_model_final", manifest, model, lambda _: None)
        if self.config.checkpoints.save_replay_buffer:
            self._save_final_buffer()
        figure = learning_curve(
            self.folder,
            f"{self.config.experiment_name}: {self.task.name}",
            self.task.baselines(self.config),
        )
        log.figure("learning_curve", figure, self.agent.steps)
        log.hyperparameters(
            config_json(self.config)["hyperparameters"],
            float("nan") if self.progress.best is None else self.progress.best,
        )

    def _save_final_buffer(self) -> None:
        def fill(folder: Path) -> None:
            self.agent.buffer.save(folder)

        write_checkpoint(self.folder / "replay_buffer_final", self._kept.manifest({}), {}, fill)

    # --- saving ----------------------------------------------------------------------------------

    def _save_when_due(self) -> None:
        strategy, progress = self.config.checkpoints, self.progress
        every = strategy.numbered_every_episodes
        if every and progress.episodes // every > progress.numbered:
            progress.numbered = progress.episodes // every
            name = f"episode_{progress.numbered * every:06d}"
            self._kept.save_model(self.folder / "checkpoints" / name, None)
        # Last, so that a run resumed from it has all of this step behind it.
        due = progress.vector_steps % strategy.save_freq == 0
        if due and time.monotonic() - self._last_saved >= strategy.min_interval_s:
            self._save_rotating()

    def _save_rotating(self) -> None:
        agent, progress = self.agent, self.progress
        state = (agent.steps, agent.updates, len(progress.evaluations), progress.polished_at)
        if state == self._saved:
            return  # nothing has happened since
        self._kept.save(self.latest, self._metrics_bytes())
        self._last_saved, self._saved = time.monotonic(), state

    def _metrics_bytes(self) -> int:
        return self._log.size if self._log is not None else 0

    def _resume(self, path: Path | None) -> None:
        folder = path or self.latest.newest()
        if folder is None:
            raise TrainingError(
                f"--resume: there is no checkpoint under {self.latest.folder} (is the name "
                f"{self.config.experiment_name!r} right?)"
            )
        try:
            manifest, model = read_model(folder)
            state = read_state(folder)
        except AtmrError as error:
            others = [p for p in self.latest.all() if p != folder]
            hint = f"; an older one can be given: --checkpoint {others[-1]}" if others else ""
            raise TrainingError(f"{error}{hint}") from error
        restored = self._kept.restore(folder, manifest, model, state)
        if not settled(self.folder / "checkpoints" / "best").exists():  # under another name
            self.progress.best, self.progress.since_best = None, 0
        if restored.demonstrations is not None:
            self._keep_imitating(restored.demonstrations)
        # Everything could be read: from here on the run's files are written.
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hold_folder()
        self._log = RunLog(
            self.folder,
            self.config.experiment_name,
            restored.metrics_bytes,
            self.agent.steps,
            self._on_message,
        )
        self._state, self._mask = restored.state, restored.mask
        self._resumed = True
        self._write_config(resumed_from=str(folder))
        self._log.say(f"resumed from {folder.name}")

    def _check_parts(self) -> None:
        """What comes after hours must not turn out impossible then.

        Raises:
            TrainingError: If a part of the configuration does not go with the network or task.
            PolicyError: If the teacher is unknown.
        """
        config = self.config
        pairs = isinstance(self.agent.online, PairQNetwork) and isinstance(self.task, DispatchTask)
        if config.polish.generations and not pairs:
            raise TrainingError(
                "polish.generations: only the pair network on a scenario has a part to polish"
            )
        if isinstance(self.agent.online, PairQNetwork) and not config.evaluation.deterministic:
            raise TrainingError(
                "evaluation.deterministic: the pair network is always judged greedily; true is "
                "the only value"
            )
        if config.warm_start.teacher is not None:
            teacher_of(self.task, self.agent, config)

    # --- small things ----------------------------------------------------------------------------

    def _write_config(self, **more: Any) -> None:
        document = {
            "config": config_json(self.config),
            "environment": self.task.record(self.config),
            "versions": versions(),
            **self._kept.provenance,
            **more,
        }
        path = self.folder / "training_config.json"
        hidden = path.with_name(".training_config.partial")
        hidden.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        hidden.replace(path)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def require_device(device: str) -> None:
    """Find out at once whether there is such a device.

    Raises:
        TrainingError: If Torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: Torch finds no GPU on this machine; use cpu")


def train_model(scenario: Scenario | str, config: TrainingConfig) -> TrainingResult:
    """Train on a scenario and return what was achieved; see `Trainer`."""
    trainer = Trainer(scenario, config)
    try:
        return trainer.train()
    finally:
        trainer.cleanup()


def train_on_environment(environment_id: str, config: TrainingConfig) -> TrainingResult:
    """Train on any Gymnasium environment; see `Trainer`."""
    trainer = Trainer(GymnasiumTask(environment_id), config)
    try:
        return trainer.train()
    finally:
        trainer.cleanup()


def _agent(config: TrainingConfig, network: Any, state_dim: int, num_actions: int) -> DQNAgent:
    h = config.hyperparameters
    buffer = ReplayBuffer(
        h.buffer_size,
        state_dim,
        num_actions,
        n_step=h.n_step,
        gamma=h.gamma,
        prioritised=h.prioritised,
        alpha=h.priority_alpha,
        num_lanes=h.num_envs,
        seed=config.seed,
    )
    options = AgentOptions(
        learning_rate=h.learning_rate,
        gamma=h.gamma,
        batch_size=h.batch_size,
        tau=h.tau,
        target_update_interval=h.target_update_interval,
        double=h.double,
        masked_target=h.masked_target,
        reward_scale=h.reward_scale,
        gradient_clip=h.gradient_clip,
        exploration=h.exploration,
        exploration_initial_eps=h.exploration_initial_eps,
        exploration_final_eps=h.exploration_final_eps,
        exploration_steps=int(h.exploration_fraction * config.total_timesteps),
        noise_scale=h.noise_scale,
        priority_beta=h.priority_beta,
    )
    return DQNAgent(
        state_dim,
        num_actions,
        network=network,
        buffer=buffer,
        options=options,
        device=config.device,
        seed=config.seed,
    )


def _catch_interrupts(handler: Callable[[int, FrameType | None], None]) -> Any:
    try:
        return signal.signal(signal.SIGINT, handler), signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not the main thread: the caller's business
        return None


def _restore_interrupts(previous: Any) -> None:
    if previous is not None:
        signal.signal(signal.SIGINT, previous[0])
        signal.signal(signal.SIGTERM, previous[1])
