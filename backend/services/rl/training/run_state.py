"""`RunState`: what a checkpoint of a run holds, and how a run goes on from one, to the bit."""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from services.rl.dqn_agent import DQNAgent
from services.rl.errors import DataError, TrainingError
from services.rl.policies.model_files import ModelManifest, file_sha256

from .checkpoints import (
    STATE_FILE,
    TRAINING_FILE,
    RotatingCheckpoints,
    read_tensors,
    write_checkpoint,
)
from .config import TrainingConfig, config_json
from .imitation import Demonstrations
from .streams import Bools, Floats, Stream
from .task import Score, Task

# A checkpoint's arrays, and what its numbers mean, hang on these.
_SAME_HYPERPARAMETERS = (
    "num_envs", "n_step", "gamma", "buffer_size", "prioritised", "priority_alpha", "reward_scale",
)  # fmt: skip


@dataclass
class Progress:
    """Where a run stands: everything of a checkpoint that is not an array.

    Attributes:
        vector_steps: Steps of all environments at once.
        episodes: Ended so far.
        best: Best score on validation days.
        best_step: Where it was reached.
        since_best: Evaluations since.
        warmed: Whether the warm start is done.
        evaluations: ``(steps, score, per episode)`` of each evaluation.
        recent: Rewards of the last 100 training episodes.
        numbered: Numbered checkpoints written.
        polished_at: Step at which the network was polished last.
    """

    vector_steps: int = 0
    episodes: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    warmed: bool = False
    evaluations: list[tuple[int, float, list[float]]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    numbered: int = 0
    polished_at: int | None = None


@dataclass(frozen=True)
class Restored:
    """What `RunState.restore` gives back.

    Attributes:
        state: ``(E, S)``, where the next actions are chosen.
        mask: ``(E, A)``.
        metrics_bytes: Length of the metrics file when the checkpoint was written.
        demonstrations: Those the run learns beside, if it does.
    """

    state: Floats
    mask: Bools
    metrics_bytes: int
    demonstrations: Demonstrations | None


class RunState:
    """Everything of a run that is saved, and the folder it is saved in.

    Args:
        task: What is trained on.
        config: How.
        agent: Networks, optimiser, buffer.
        stream: The environments.
        folder: ``results/<experiment>``.
        provenance: Recorded in every manifest.

    Attributes:
        progress: Where the run stands.
        demonstrations: The file of what the teacher showed.
        shown_sha256: Its hash, where the run learns beside it.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        agent: DQNAgent,
        stream: Stream,
        folder: Path,
        provenance: dict[str, Any],
    ) -> None:
        self.task, self.config, self.agent, self.stream = task, config, agent, stream
        self.folder = folder
        self.provenance = provenance
        self.progress = Progress()
        self.demonstrations = folder / "demonstrations.npz"
        self.shown_sha256: str | None = None

    # --- saving ----------------------------------------------------------------------------------

    def check_weights(self) -> None:
        """Weights that are not finite are never judged or kept as a checkpoint.

        Raises:
            DataError: If there are any.
        """
        for name, values in self.agent.online.state_dict().items():
            if not bool(torch.isfinite(values).all()):
                raise DataError(
                    f"parameter {name} is not finite after {self.agent.updates} updates"
                )

    def save(self, latest: RotatingCheckpoints, metrics_bytes: int) -> None:
        """Add a rotating checkpoint."""
        self.check_weights()
        latest.write(
            self.agent.steps,
            self.manifest({}),
            self.agent.online.state_dict(),
            self._filling(metrics_bytes),
        )

    def save_model(self, folder: Path, score: Score | None) -> None:
        """Keep the online network alone."""
        self.check_weights()
        metrics = {"score": score.mean, **score.kpis} if score is not None else {}
        write_checkpoint(
            folder, self.manifest(metrics), self.agent.online.state_dict(), lambda _: None
        )

    def save_evidence(self, metrics_bytes: int) -> Path:
        """Keep the state that led to numbers that are not finite."""
        folder = self.folder / "checkpoints" / "failed"
        write_checkpoint(
            folder,
            self.manifest({}),
            self.agent.online.state_dict(),
            self._filling(metrics_bytes),
        )
        return folder

    def manifest(self, metrics: dict[str, float]) -> ModelManifest:
        """What a folder written now says about itself."""
        return ModelManifest(
            network=self.agent.online.architecture(),
            environment=self.task.record(self.config),
            reward_scale=self.agent.options.reward_scale,
            decision=self.config.evaluation.policy,
            step=self.agent.steps,
            metrics=metrics,
            provenance={"seed": self.config.seed, **versions(), **self.provenance},
        )

    def _filling(self, metrics_bytes: int) -> Callable[[Path], None]:
        return lambda folder: self._fill(folder, metrics_bytes)

    def _fill(self, folder: Path, metrics_bytes: int) -> None:
        """Everything a rotating checkpoint holds beside the online network."""
        agent = self.agent
        tensors = {f"target.{k}": v for k, v in agent.target.state_dict().items()}
        for index, state in agent.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        tensors["torch_random"] = torch.get_rng_state()
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / TRAINING_FILE
        )
        p = self.progress
        document = {
            "steps": agent.steps,
            "updates": agent.updates,
            "agent_random": agent.random.bit_generator.state,
            "progress": {**vars(p)},
            "metrics_bytes": metrics_bytes,
            "config": config_json(self.config),
            "replay": self.config.checkpoints.save_replay_buffer,
            "demonstrations": self.shown_sha256,
        }
        (folder / STATE_FILE).write_text(json.dumps(document), encoding="utf-8")
        self.stream.save(folder)
        if self.config.checkpoints.save_replay_buffer:
            agent.buffer.save(folder)

    # --- resuming --------------------------------------------------------------------------------

    def restore(
        self,
        folder: Path,
        manifest: ModelManifest,
        model: dict[str, torch.Tensor],
        state: dict[str, Any],
    ) -> Restored:
        """Take over a checkpoint (as `read_model` and `read_state` gave it).

        Raises:
            TrainingError: If it is damaged, or of another network, scenario or setting.
        """
        self._check_same(folder, manifest, state)
        agent = self.agent
        agent.online.load_state_dict(model)
        tensors = read_tensors(folder / TRAINING_FILE)
        agent.target.load_state_dict(
            {k.removeprefix("target."): v for k, v in tensors.items() if k.startswith("target.")}
        )
        load_optimizer(agent.optimizer, tensors)
        torch.set_rng_state(tensors["torch_random"])
        agent.steps, agent.updates = int(state["steps"]), int(state["updates"])
        agent.random.bit_generator.state = state["agent_random"]
        self.progress = Progress(**state["progress"])
        self.progress.evaluations = [(s, m, list(r)) for s, m, r in self.progress.evaluations]
        if state["replay"]:
            agent.buffer.restore(folder)
        observation, mask = self.stream.restore(folder)
        plan, shown = self.config.warm_start, None
        if plan.teacher is not None and plan.keep_weight > 0:
            self.shown_sha256 = state.get("demonstrations")
            shown = self._demonstrations_of(folder)
        return Restored(observation, mask, int(state["metrics_bytes"]), shown)

    def _demonstrations_of(self, checkpoint: Path) -> Demonstrations:
        """Those of this run, or of the run whose checkpoint it goes on from."""
        own = path = self.demonstrations
        if not own.exists():
            run = checkpoint.resolve().parents[2]  # run / checkpoints / latest / step_...
            path = run / own.name
        try:
            found = file_sha256(path)
        except OSError as error:
            raise TrainingError(
                f"demonstrations {path} cannot be read: {error.strerror}; the run learns beside "
                "them and cannot go on without"
            ) from error
        if found != self.shown_sha256:
            raise TrainingError(
                f"demonstrations {path} are not those of checkpoint {checkpoint.name} (their "
                "SHA-256 differs): truncated or altered, or of another run"
            )
        if path != own:
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, own)
        return Demonstrations.load(own)

    def _check_same(self, folder: Path, manifest: ModelManifest, state: dict[str, Any]) -> None:
        """A checkpoint of another network, scenario or setting cannot be gone on with."""
        mine = {
            "network": self.agent.online.architecture(),
            "environment": self.task.record(self.config),
        }
        for part, expected in mine.items():
            found = getattr(manifest, part)
            for name in expected.keys() | found.keys():
                if found.get(name) != expected.get(name):
                    raise TrainingError(
                        f"checkpoint {folder}: {part} {name} is {found.get(name)!r}, this run has "
                        f"{expected.get(name)!r}; repeat the first start's options (--scenario, "
                        "--mode, --config, ...), or start anew under another --name"
                    )
        then, now = state["config"], config_json(self.config)
        same = {
            **{
                f"hyperparameters.{name}": ("hyperparameters", name)
                for name in _SAME_HYPERPARAMETERS
            },
            "environment.reward_timing": ("environment", "reward_timing"),
            # What scores mean: the best so far is compared with them.
            "evaluation.n_eval_episodes": ("evaluation", "n_eval_episodes"),
            "evaluation.policy": ("evaluation", "policy"),
            "evaluation.deterministic": ("evaluation", "deterministic"),
        }
        differing = [
            (shown, then[group].get(name), now[group][name])
            for shown, (group, name) in same.items()
            if then[group].get(name) != now[group][name]
        ]
        if then["seed"] != now["seed"]:
            differing.append(("seed", then["seed"], now["seed"]))
        for shown, was, is_now in differing:
            raise TrainingError(
                f"checkpoint {folder}: {shown} was {was}, this run has {is_now}; repeat the first "
                "start's options (--mode, --seed, ...), or start anew under another --name"
            )


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give an optimiser the moments of a checkpoint."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    names = ("torch", "numpy", "numba", "gymnasium")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
