"""Configuration of a training run, checked; the scenario (the environment's) is kept apart.

`production_config` and the other modes are starting points; a JSON or YAML file with any of the
fields overrides them (`load_config`).
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.rl.errors import TrainingError
from services.rl.paths import NAME_PATTERN

Mode = Literal["sanity", "quick", "production", "gpu"]
MODES: tuple[Mode, ...] = ("sanity", "quick", "production", "gpu")
TEACHER = "matching_linear"
"""Of the modes' warm start: the best policy that decides in microseconds."""
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DQNHyperparameters(_Strict):
    """The algorithm.

    Steps are environment steps, summed over parallel environments; ``train_freq`` counts vector
    steps (one step of every environment).

    Attributes:
        learning_rate: Of Adam.
        buffer_size: Transitions kept.
        learning_starts: Steps before the first update.
        batch_size: Transitions per update.
        tau: Part of the way the target network moves at each target update; 1 copies.
        gamma: Discount per decision epoch.
        train_freq: Vector steps between rounds of updates.
        gradient_steps: Updates per round.
        target_update_interval: Updates between target updates.
        exploration_fraction: Part of the run over which exploration falls.
        exploration_initial_eps: Exploration at the start.
        exploration_final_eps: Exploration after that.
        exploration: ``epsilon``: a random action with that probability; ``noise``: Gaussian noise
            of ``noise_scale`` times epsilon, in reward units, on every Q.
        noise_scale: See there.
        num_envs: Environments stepped side by side.
        n_step: Rewards summed before bootstrapping.
        double: Double DQN.
        dueling: Value and advantages apart, the mean advantage taken off.
        prioritised: Prioritised replay.
        priority_alpha: How strongly errors matter.
        priority_beta: How strongly sampling is corrected for.
        masked_target: Only valid actions in the target; False is for ablations.
        reward_scale: Multiplies every reward, in the agent and nowhere else.
        gradient_clip: Largest norm of the gradient.
        network: ``pair`` or ``flat``.
        hidden: Widths of the flat network.
        pair_hidden: Width of the pair network.
        hold_back_min: The pair network considers pairs with at most this slack.
        edge_features: False hides the pair features from the network (ablation).
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    buffer_size: Positive = 100_000
    learning_starts: int = Field(default=5_000, ge=0)
    batch_size: Positive = 256
    tau: float = Field(default=0.01, gt=0, le=1)
    gamma: float = Field(default=0.92, gt=0, le=1)
    train_freq: Positive = 1
    gradient_steps: Positive = 1
    target_update_interval: Positive = 1
    exploration_fraction: Share = 0.3
    exploration_initial_eps: Share = 0.02
    exploration_final_eps: Share = 0.01
    exploration: Literal["epsilon", "noise"] = "epsilon"
    noise_scale: float = Field(default=2.0, gt=0)
    num_envs: Positive = 32
    n_step: Positive = 5
    double: bool = True
    dueling: bool = False
    prioritised: bool = False
    priority_alpha: Share = 0.6
    priority_beta: Share = 0.4
    masked_target: bool = True
    reward_scale: float = Field(default=0.1, gt=0)
    gradient_clip: float = Field(default=10.0, gt=0)
    network: Literal["pair", "flat"] = "pair"
    hidden: tuple[Positive, ...] = (512, 256, 128)
    pair_hidden: Positive = 64
    hold_back_min: float = Field(default=60.0, gt=0)
    edge_features: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "DQNHyperparameters":
        if self.batch_size > self.buffer_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must not exceed buffer_size ({self.buffer_size})"
            )
        if self.exploration_final_eps > self.exploration_initial_eps:
            raise ValueError("exploration_final_eps must not exceed exploration_initial_eps")
        if not self.hidden:
            raise ValueError("hidden needs at least one layer")
        return self


class EnvironmentOptions(_Strict):
    """How the scenario is shown to the learner, and when it is paid.

    Attributes:
        observation: Of a flat network; the pair network takes ``rows``.
        max_bookings: Open bookings shown.
        reward_timing: See `simulation.reward.RewardTiming`.
    """

    observation: Literal["compact", "full"] = "compact"
    max_bookings: Positive = 20
    reward_timing: Literal["planned_pickup", "planned_gain", "commitment", "event"] = "planned_gain"


class WarmStart(_Strict):
    """Demonstrations before the first step of reinforcement learning (pair network only).

    Attributes:
        teacher: A policy's name as on the command line, or ``module:Class``; None: no warm start.
        days: Training days that are demonstrated.
        epochs: Passes over the demonstrations.
        dagger_days: Further days on which the learner acts and the teacher says what to do.
        value_updates: First updates that move V alone, so that errors of an untrained V do not
            tear down what was taught.
        keep_weight: Weight of the imitation loss that stays beside the TD loss.
    """

    teacher: str | None = None
    days: Positive = 200
    epochs: Positive = 4
    dagger_days: int = Field(default=0, ge=0)
    value_updates: int = Field(default=500, ge=0)
    keep_weight: float = Field(default=1.0, ge=0)


class Polish(_Strict):
    """Evolution of the network's linear part at the end (pair network only), on training days.

    Attributes:
        generations: 0: none.
        population: Candidates per generation.
        days: Training days that every candidate of a generation plays.
        sigma: First step size, in reward units.
    """

    generations: int = Field(default=0, ge=0)
    population: int = Field(default=16, ge=4)
    days: Positive = 48
    sigma: float = Field(default=0.5, gt=0)


class CheckpointStrategy(_Strict):
    """When the state is saved.

    Attributes:
        save_freq: Vector steps between rotating checkpoints.
        max_checkpoints: Rotating checkpoints kept.
        save_replay_buffer: Whether they hold the replay buffer; resuming to the bit needs it.
        min_interval_s: A rotating checkpoint also waits this long after the last one.
        numbered_every_episodes: Also keep a checkpoint (without buffer) every so many episodes.
    """

    save_freq: Positive = 1_000
    max_checkpoints: Positive = 2
    save_replay_buffer: bool = True
    min_interval_s: float = Field(default=60.0, ge=0)
    numbered_every_episodes: int = Field(default=0, ge=0)


class EvaluationStrategy(_Strict):
    """How progress is judged: on validation days, the same every time.

    Attributes:
        eval_freq: Vector steps between evaluations.
        n_eval_episodes: Validation days (episodes of a foreign environment).
        deterministic: Greedy; False keeps the final exploration.
        policy: How a pair network decides: ``dqn_matching`` or ``dqn``.
        patience: Evaluations without a new best after which training stops; 0: never.
    """

    eval_freq: Positive = 250
    n_eval_episodes: Positive = 64
    deterministic: bool = True
    policy: Literal["dqn_matching", "dqn"] = "dqn_matching"
    patience: int = Field(default=0, ge=0)


class SanityCheckConfig(_Strict):
    """Checks before training; see `sanity.run_sanity_checks`.

    Attributes:
        enabled: Whether they run.
        num_steps: Steps of random valid actions looked at.
        min_unique_rewards: Distinct rewards expected among them.
        min_max_queue: Open bookings that must be seen at once.
        check_action_mapping: Every action number means one pair, and back.
        check_flux_config: Demand outweighs the initial state, so that queues form.
        check_control_interval: Decisions come often enough to matter.
    """

    enabled: bool = True
    num_steps: Positive = 100
    min_unique_rewards: Positive = 5
    min_max_queue: Positive = 2
    check_action_mapping: bool = True
    check_flux_config: bool = True
    check_control_interval: bool = True


class TrainingConfig(_Strict):
    """A training run.

    Attributes:
        experiment_name: Folder under ``results/``.
        seed: Of everything random.
        total_timesteps: Environment steps; the exploration schedule spans a fraction of them.
        device: ``cpu`` or ``cuda``.
        num_threads: Torch's threads; on small networks more than one only costs.
        resume_training: Go on from the newest rotating checkpoint.
        checkpoint_path: Go on from this checkpoint instead.
    """

    experiment_name: str = Field(default="dqn", pattern=NAME_PATTERN)
    seed: int = Field(default=0, ge=0, lt=2**32)
    total_timesteps: Positive = 64_000
    device: Literal["cpu", "cuda"] = "cpu"
    num_threads: Positive = 1
    hyperparameters: DQNHyperparameters = DQNHyperparameters()
    environment: EnvironmentOptions = EnvironmentOptions()
    warm_start: WarmStart = WarmStart()
    polish: Polish = Polish()
    checkpoints: CheckpointStrategy = CheckpointStrategy()
    evaluation: EvaluationStrategy = EvaluationStrategy()
    sanity: SanityCheckConfig = SanityCheckConfig()
    resume_training: bool = False
    checkpoint_path: Path | None = None

    def changed(self, **fields: Any) -> "TrainingConfig":
        """A copy with some fields replaced, checked again; groups take dictionaries.

        Raises:
            TrainingError: If a value is unknown or impossible; naming it.
        """
        return _parsed(_merged(self.model_dump(mode="python"), fields), "configuration")


def sanity_check_config() -> TrainingConfig:
    """A hundred steps that touch every part."""
    return TrainingConfig().changed(
        **sanity_fields(),
        warm_start={"teacher": TEACHER, "days": 1, "epochs": 1, "value_updates": 10},
    )


def sanity_fields() -> dict[str, Any]:
    """What makes a run of any network, on any environment, a hundred steps that learn."""
    return {
        "total_timesteps": 100,
        "hyperparameters": {
            "num_envs": 1, "learning_starts": 20, "batch_size": 16, "buffer_size": 1000,
            "train_freq": 1, "gradient_steps": 1,
        },
        "checkpoints": {"save_freq": 50, "min_interval_s": 0.0},
        "evaluation": {"eval_freq": 50, "n_eval_episodes": 4},
    }  # fmt: skip


def quick_config() -> TrainingConfig:
    """Learning becomes visible within about three minutes."""
    return TrainingConfig().changed(
        total_timesteps=48_000,
        warm_start={"teacher": TEACHER, "days": 100, "value_updates": 400},
        checkpoints={"save_freq": 500},
        evaluation={"eval_freq": 250},
    )


def production_config() -> TrainingConfig:
    """At most fifteen minutes on two cores."""
    return TrainingConfig().changed(warm_start={"teacher": TEACHER})


def gpu_config() -> TrainingConfig:
    """Larger batches and a wider network on a GPU."""
    return TrainingConfig().changed(
        device="cuda",
        total_timesteps=2_000_000,
        hyperparameters={"num_envs": 128, "batch_size": 2048, "pair_hidden": 128},
        warm_start={"teacher": TEACHER, "days": 1_000},
        checkpoints={"save_freq": 2_000},
    )


def mode_config(mode: str) -> TrainingConfig:
    """The configuration of a mode; ``kaggle`` is another name of ``gpu``.

    Raises:
        TrainingError: If there is no such mode.
    """
    configs = {
        "sanity": sanity_check_config,
        "quick": quick_config,
        "production": production_config,
        "gpu": gpu_config,
        "kaggle": gpu_config,
    }
    if mode not in configs:
        raise TrainingError(f"unknown mode {mode!r}: choose among {', '.join(configs)}")
    return configs[mode]()


def load_config(path: Path, base: TrainingConfig) -> TrainingConfig:
    """A JSON or YAML file of fields, laid over a base configuration.

    A ``training_config.json`` of an earlier run serves as well: its ``config`` part is taken.

    Raises:
        TrainingError: If the file cannot be read, or a value is unknown or impossible.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise TrainingError(f"--config {path} cannot be read: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(
            f"--config {path} is neither JSON nor YAML: {_yaml_problem(error)}"
        ) from error
    if isinstance(raw, dict) and "config" in raw and "versions" in raw:
        raw = raw["config"]
    if not isinstance(raw, dict):
        raise TrainingError(f"--config {path} must hold a mapping of fields")
    return _parsed(_merged(base.model_dump(mode="python"), raw), f"--config {path}")


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, and in which line, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"line {mark.line + 1}: "
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return where + " ".join(str(problem).split())


def flat_fields() -> dict[str, Any]:
    """What the flat network needs otherwise: nobody can teach it, so it explores from nothing.

    Learning rate, gamma, batch size and widths are the auto-tuner's, rounded: a gain confirmed on
    test days of ``geneva_overload`` with six seeds; trained on ``geneva`` they are as good as those
    of `DQNHyperparameters`, which stood here before. See ``session/RL/SEMAINE_17_GUIDE.md``.
    """
    return {
        "total_timesteps": 400_000,
        "hyperparameters": {
            "network": "flat",
            "learning_rate": 6.66e-5,
            "gamma": 0.857,
            "batch_size": 512,
            "hidden": (512, 512),
            "exploration_initial_eps": 1.0,
            "exploration_final_eps": 0.05,
        },
        "warm_start": {"teacher": None},
        "polish": {"generations": 0},
        "evaluation": {"policy": "dqn"},
    }


def config_json(config: TrainingConfig) -> dict[str, Any]:
    """The configuration as plain data."""
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain


def _merged(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in fields.items():
        below = merged.get(name)
        merged[name] = (
            _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _parsed(raw: dict[str, Any], source: str) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        raise TrainingError(f"{source}: {where}: {first['msg']}") from error
